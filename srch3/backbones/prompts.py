"""How a query or a document is put before the model.

A prompt has a role. ``thinking``: a query about which the model is to write, ending with the embed token of its own
accord. ``direct``: a query, with a fixed phrase up to the embed token. ``thinking_document`` and ``document``: the same
for a document.
"""

import inspect
from abc import ABC, abstractmethod
from typing import Any, Literal

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from srch3.errors import ConfigError, ModelError

Role = Literal["thinking", "direct", "thinking_document", "document"]

TEMPLATE_DATE = "01 Jan 2025"
"""What the templates of Llama 3 take for today, so that no embedding depends on the day it was made."""


class BasePrompts(ABC):
    """Turns a text into the string that the model reads before it writes; subclass to use other words."""

    @abstractmethod
    def render(self, tokenizer: PreTrainedTokenizerBase, role: Role, text: str, embed_token: str) -> str:
        """The prompt of one text; for ``direct`` and ``document`` it ends with the embed token."""

    def render_thought(self, thought: str) -> str:
        """A thought as it follows the thinking prompt."""
        return thought

    def init_args(self) -> dict[str, Any]:
        """What an equal object is made from, as plain values; by default the attributes of the arguments' names."""
        names = inspect.signature(type(self)).parameters
        return {name: getattr(self, name) for name in names if hasattr(self, name)}


class PlainPrompts(BasePrompts):
    """A few fixed words around the text, for models without a chat template.

    Args:
        thinking: Format of a query to think about; ``{text}`` stands for the query.
        direct: Format of a query to embed at once; the embed token is appended.
        document: Format of a document; the embed token is appended.
        thinking_document: Format of a document to think about.

    Raises:
        ConfigError: A format has no place for the text.
    """

    def __init__(
        self,
        thinking: str = "query: {text}\nthought:",
        direct: str = "query: {text}\nembedding:",
        document: str = "document: {text}\nembedding:",
        thinking_document: str = "document: {text}\nthought:",
    ) -> None:
        self.formats: dict[Role, str] = {
            "thinking": thinking,
            "direct": direct,
            "document": document,
            "thinking_document": thinking_document,
        }
        for role, given in self.formats.items():
            if "{text}" not in given:
                raise ConfigError(
                    f"model.init_args.backbone.init_args.prompts.init_args.{role}: expected a format with {{text}} in "
                    f"it, got {given!r}"
                )

    def render(self, tokenizer: PreTrainedTokenizerBase, role: Role, text: str, embed_token: str) -> str:
        """The prompt of one text, after the tokenizer's begin-of-text token if it has one."""
        begin = tokenizer.bos_token or ""
        end = "" if role.startswith("thinking") else embed_token
        before, _, after = self.formats[role].partition("{text}")
        return f"{begin}{before}{text}{after}{end}"

    def render_thought(self, thought: str) -> str:
        """A thought after a space, as words follow a colon."""
        return f" {thought}" if thought else ""

    def init_args(self) -> dict[str, Any]:
        """The formats."""
        return {str(role): given for role, given in self.formats.items()}


class ChatPrompts(BasePrompts):
    """The model's own chat template, as instruct models expect.

    Search-R3 (arXiv 2510.07048) keeps the template of Qwen2.5-Instruct and asks for the embedding in the system
    message; the wording here is ours. Where a template knows no system role, the message opens the user's turn.

    Args:
        thinking: System message of a query to think about.
        direct: System message of a query to embed at once.
        document: System message of a document.
        phrase: What the assistant says before the embed token where it does not think.
        thinking_document: System message of a document to think about.
    """

    def __init__(
        self,
        thinking: str = (
            "You prepare search queries. Write briefly what a relevant document would contain: the core concepts and "
            "how they relate, exact terminology, synonyms, neighbouring topics. Then end with {embed_token}."
        ),
        direct: str = "Represent the user's query for finding relevant documents.",
        document: str = "Represent the user's text so that it is found by relevant queries.",
        phrase: str = "The embedding is ",
        thinking_document: str = (
            "You index documents for search. Write briefly what the user's text is about and which queries it answers: "
            "the core concepts, exact terminology, synonyms. Then end with {embed_token}."
        ),
    ) -> None:
        self.systems: dict[Role, str] = {
            "thinking": thinking,
            "direct": direct,
            "document": document,
            "thinking_document": thinking_document,
        }
        self.phrase = phrase

    def render(self, tokenizer: PreTrainedTokenizerBase, role: Role, text: str, embed_token: str) -> str:
        """The conversation up to the assistant's turn; without thinking, up to the embed token."""
        if not tokenizer.chat_template:
            raise ModelError(
                "model.init_args.backbone.init_args.prompts: ChatPrompts needs a chat template, and the tokenizer of "
                f"{tokenizer.name_or_path!r} has none; set `prompts: PlainPrompts`, or choose an instruct model"
            )
        system = self.systems[role].replace("{embed_token}", embed_token)
        try:
            conversation = self._apply(tokenizer, system, text)
        except TemplateError:
            conversation = self._apply(tokenizer, None, f"{system}\n\n{text}")
        return conversation if role.startswith("thinking") else f"{conversation}{self.phrase}{embed_token}"

    def init_args(self) -> dict[str, Any]:
        """The system messages and the phrase."""
        return {**{str(role): given for role, given in self.systems.items()}, "phrase": self.phrase}

    @staticmethod
    def _apply(tokenizer: PreTrainedTokenizerBase, system: str | None, user: str) -> str:
        messages = [{"role": "system", "content": system}] if system is not None else []
        messages.append({"role": "user", "content": user})
        return str(
            tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=True,
                return_dict=False,
                date_string=TEMPLATE_DATE,
            )
        )
