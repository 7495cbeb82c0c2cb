"""From texts to tokens: cleaned, cut to their limit, and put into a prompt."""

import re
from collections.abc import Sequence
from typing import Literal

from transformers import PreTrainedTokenizerBase

from srch3.backbones.embed_token import special_tokens
from srch3.backbones.prompts import BasePrompts, Role
from srch3.errors import ConfigError

Tokens = list[int]
Truncation = Literal["right", "left"]

CONVERSATION = "conversation"
"""Name of the model's own chat template in folders whose default template is one for embedding programs."""


def choose_chat_template(tokenizer: PreTrainedTokenizerBase, name: str | None) -> None:
    """Leaves a tokenizer with the one of its chat templates that has a name, or as it is where there is no name.

    In a folder that was exported for other programs, no name means the model's own template.

    Raises:
        ConfigError: There is none of this name.
    """
    templates = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {}
    name = CONVERSATION if name is None and CONVERSATION in templates else name
    if name is None:
        return
    if name not in templates:
        raise ConfigError(
            f"model.init_args.backbone.init_args.chat_template: expected one of {sorted(templates)}, which the "
            f"tokenizer of {tokenizer.name_or_path!r} has, got {name!r}"
        )
    tokenizer.chat_template = templates[name]


class PromptTokenizer:
    """Renders and tokenises prompts and thoughts.

    Only the text itself is ever cut, so neither the instruction nor the embed token can be lost. Special tokens that
    occur in a text are taken out of it, and half characters (lone surrogates, which JSON can hold) become ``?``.

    Args:
        tokenizer: A fast tokenizer that knows the embed token; its ``truncation_side`` says which end is cut.
        prompts: How texts are put before the model.
        embed_token: Text of the embed token.
        limits: Most tokens of a text, by role.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompts: BasePrompts, embed_token: str, limits: dict[Role, int]
    ) -> None:
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.embed_token = embed_token
        self.limits = limits
        self._special = re.compile("|".join(map(re.escape, sorted(special_tokens(tokenizer), key=len)[::-1])))

    def render(self, texts: Sequence[str], role: Role) -> list[str]:
        """Whole prompts as the model sees them."""
        return [
            self.prompts.render(self.tokenizer, role, text, self.embed_token)
            for text in self._cut(self._clean(texts), self.limits[role])
        ]

    def tokenize(self, texts: Sequence[str], role: Role) -> list[Tokens]:
        """Whole prompts as tokens."""
        return self._encode(self.render(texts, role)) if texts else []

    def thoughts(self, thoughts: Sequence[str], limit: int) -> list[Tokens]:
        """Thoughts as they follow a thinking prompt, without an embed token, at most ``limit`` tokens each."""
        rendered = [self.prompts.render_thought(thought) for thought in self._clean(thoughts)]
        if not rendered:
            return []
        return [ids[:limit] for ids in self._encode(rendered)]

    def overlong(self, texts: Sequence[str], role: Role) -> list[bool]:
        """Which texts have more tokens than their limit."""
        limit = self.limits[role]
        encoded = self.tokenizer(self._clean(texts), add_special_tokens=False, truncation=True, max_length=limit + 1)
        return [len(ids) > limit for ids in encoded["input_ids"]]

    def check_window(
        self, window: int | None, max_thought_tokens: int, roles: Sequence[Role] = ("document", "direct", "thinking")
    ) -> None:
        """Makes sure that the longest possible prompt, with its thought, is one that the model can read.

        Args:
            window: Most tokens that the model reads; none where it has no limit.
            max_thought_tokens: Longest thought, after which the embed token may follow.
            roles: Those of the prompts.

        Raises:
            ConfigError: A prompt can be longer.
        """
        thought = max_thought_tokens + 1
        lengths = {role: self._longest(role) + thought * role.startswith("thinking") for role in roles}
        if window is not None and max(lengths.values()) > window:
            limit = {role: "max_document_tokens" if "document" in role else "max_query_tokens" for role in roles}
            got = ", ".join(f"{lengths[role]} for {role} ({limit[role]} {self.limits[role]})" for role in roles)
            raise ConfigError(
                f"model.init_args.backbone.init_args: expected at most {window} tokens, which the model reads, got up "
                f"to {got}, each with the prompt around the text, and with max_thought_tokens {max_thought_tokens} "
                "where it thinks; lower them, or shorten the prompts"
            )

    def _longest(self, role: Role) -> int:
        return len(self.tokenize(["a " * 2 * self.limits[role]], role)[0])

    def _encode(self, rendered: list[str]) -> list[Tokens]:
        return [list(ids) for ids in self.tokenizer(rendered, add_special_tokens=False)["input_ids"]]

    def _clean(self, texts: Sequence[str]) -> list[str]:
        return [self._special.sub(" ", _encodable(text)).strip() for text in texts]

    def _cut(self, texts: list[str], limit: int) -> list[str]:
        encoded = self.tokenizer(
            texts, add_special_tokens=False, truncation=True, max_length=limit, return_offsets_mapping=True
        )
        return [
            self._kept(text, offsets) if len(offsets) == limit else text
            for text, offsets in zip(texts, encoded["offset_mapping"], strict=True)
        ]

    def _kept(self, text: str, offsets: list[tuple[int, int]]) -> str:
        if self.tokenizer.truncation_side == "left":
            return text[offsets[0][0] :].lstrip()
        return text[: offsets[-1][1]]


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode(errors="replace").decode()
