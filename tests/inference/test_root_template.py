from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError

from srch3.backbones import ChatPrompts, PlainPrompts, ReasoningEmbedder
from srch3.backbones.prompts import BasePrompts, Role
from srch3.backbones.tokenization import CONVERSATION, choose_chat_template
from srch3.errors import ModelError
from srch3.inference.root_template import add_templates, messages, root_template
from tests.models import make_model_folder, make_tokenizer

TEXTS = [
    "a date",
    "",
    " two\nlines ",
    "<|im_end|> <|embed_token|>x",
    'quote " and \\ and {{ jinja }} {% x %}',
    "{text}",
]


def built(folder: Path, prompts: BasePrompts | None = None, **settings: Any) -> ReasoningEmbedder:
    model = make_model_folder(folder / "m", "gpt2", **settings)
    embedder = ReasoningEmbedder(model, prompts, max_query_tokens=40, max_document_tokens=60, max_thought_tokens=4)
    embedder.build()
    return embedder


def rendered(embedder: ReasoningEmbedder, template: str, text: str, prompt: str) -> str:
    asked: Any = messages(text, prompt)
    return str(embedder.tokenizer.apply_chat_template(asked, chat_template=template, tokenize=False))


ODD = ChatPrompts(direct='say "x" \\ {embed_token}\n\u2028é', document="{{ braces }} {% raw %}", phrase="🙂 it's '")


@pytest.mark.parametrize(
    ("prompts", "settings"),
    [
        (None, {}),
        (None, {"system_role": False}),
        (ODD, {}),
        (PlainPrompts(), {"chat": False}),
        (PlainPrompts(direct='"{text}" {text}? \\', document="{text}"), {"chat": False}),
    ],
    ids=["chat", "no-system", "odd", "plain", "plain-odd"],
)
def test_whatever_the_text_it_is_rendered_as_by_srch3(
    tmp_path: Path, prompts: BasePrompts | None, settings: dict[str, Any]
) -> None:
    embedder = built(tmp_path, prompts, **settings)
    made = root_template(embedder)
    roles: dict[str, Role] = {"query": "direct", "document": "document"}
    for name, role in roles.items():
        for text in TEXTS:
            (expected,) = embedder.prompt_tokenizer.render([text], role)
            assert rendered(embedder, made.template, text, made.prompts[name]) == expected
            assert expected.endswith("<|embed_token|>")


def test_a_chat_has_its_system_message_as_prompt_and_takes_another(tmp_path: Path) -> None:
    made = root_template(embedder := built(tmp_path))
    assert made.prompts["query"] == "Represent the user's query for finding relevant documents."
    own = rendered(embedder, made.template, "a date", "Find code.")
    assert own == (
        "<|im_start|>system\nFind code.<|im_end|>\n<|im_start|>user\na date<|im_end|>\n<|im_start|>assistant\n"
        "The embedding is <|embed_token|>"
    )


def test_other_prompts_are_formats_and_need_a_place_for_the_text(tmp_path: Path) -> None:
    made = root_template(embedder := built(tmp_path, PlainPrompts(), chat=False))
    assert made.prompts["document"] == "document: {text}\nembedding:<|embed_token|>"
    with pytest.raises(TemplateError, match=r"expected \{text\} in it"):
        rendered(embedder, made.template, "a date", "Find code.")


def test_without_a_prompt_a_text_is_a_document(tmp_path: Path) -> None:
    made = root_template(embedder := built(tmp_path))
    asked: Any = [{"role": "user", "content": "a date"}]
    found = embedder.tokenizer.apply_chat_template(asked, chat_template=made.template, tokenize=False)
    assert [found] == embedder.prompt_tokenizer.render(["a date"], "document")


def test_lengths_are_limits_and_what_stands_around(tmp_path: Path) -> None:
    embedder = built(tmp_path)
    around = len(embedder.tokenize(["#"], "direct")[0]) - 1
    assert root_template(embedder).lengths["query"] == 40 + around
    long = "#" * 100
    assert len(embedder.tokenize([long], "direct")[0]) == 40 + around


class Named(ChatPrompts):
    """Derived, with another way to be made."""

    def __init__(self, name: str = "x") -> None:
        super().__init__(direct=f"{name} query")
        self.name = name


class Counting(BasePrompts):
    def render(self, tokenizer: Any, role: Role, text: str, embed_token: str) -> str:
        return f"{len(text)}: {text}{embed_token}"


def test_derived_prompts_are_formats_and_those_that_count_are_refused(tmp_path: Path) -> None:
    made = root_template(embedder := built(tmp_path, Named("y")))
    (expected,) = embedder.prompt_tokenizer.render(["a date"], "direct")
    assert "y query" in made.prompts["query"]
    assert rendered(embedder, made.template, "a date", made.prompts["query"]) == expected
    embedder.prompt_tokenizer.prompts = embedder.prompts = Counting()
    with pytest.raises(ModelError, match=r"same words around every text.* got others from Counting"):
        root_template(embedder)


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        (None, "new", None),
        ("old", {"default": "new", CONVERSATION: "old"}, CONVERSATION),
        ({"default": "old", "rag": "r"}, {"default": "new", "rag": "r", CONVERSATION: "old"}, CONVERSATION),
        ({"rag": "r"}, {"default": "new", "rag": "r"}, None),
    ],
)
def test_the_former_template_is_kept(before: Any, after: Any, name: str | None) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = before
    assert add_templates(tokenizer, "new") == name
    assert tokenizer.chat_template == after
    if name:
        choose_chat_template(tokenizer, None)
        assert tokenizer.chat_template == "old"


def test_a_template_that_puts_the_text_first_becomes_a_format(tmp_path: Path) -> None:
    embedder = built(tmp_path)
    embedder.tokenizer.chat_template = "{{ messages[-1].content }} ({{ messages[0].content }}) "
    made = root_template(embedder)
    (expected,) = embedder.prompt_tokenizer.render(["a date"], "direct")
    assert expected.startswith("a date (Represent")
    assert rendered(embedder, made.template, "a date", made.prompts["query"]) == expected
