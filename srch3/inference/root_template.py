"""One chat template that puts any text before the model as srch3 does, for programs that know nothing of srch3.

It takes out special tokens, as srch3 does, and ends with the embed token. What cannot be said in a template is where a
long text is cut: the programs cut the whole prompt, to a length that leaves as much of the text as srch3 leaves.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from srch3.backbones import ChatPrompts, ReasoningEmbedder
from srch3.backbones.embed_token import special_tokens
from srch3.backbones.prompts import Role
from srch3.backbones.tokenization import CONVERSATION
from srch3.errors import ModelError

ROLES: Mapping[str, Role] = {"query": "direct", "document": "document"}
"""The prompts of a folder for sentence-transformers, and what they are called here."""

PROBES = (
    "how to parse a date",
    "The quick brown fox, 3.5 seconds later:\n\n  it jumps.",
    "search",
    "a list of numbers",
    "what is a {text}?",
)
"""Texts that a template is tried with."""

PASSAGE = (
    "A search engine reads a question, compares it with every document that it knows, and lists the best ones first. "
    "What it compares are lists of numbers (embeddings), in which texts of like meaning are near each other; reading "
    "all of 3,000,000 documents anew would take hours.\n\nSo each of them is read once, long before."
)
"""Ordinary words, with what stands between them."""

_TEXT, _SYSTEM = "\ue000text\ue000", "\ue000system\ue000"

_TEMPLATE = """\
{%%- set said = namespace(system=%(default)s, text='') -%%}
{%%- for message in messages -%%}
{%%- if message['role'] == 'system' -%%}{%%- set said.system = message['content'] -%%}
{%%- else -%%}{%%- set said.text = message['content'] -%%}{%%- endif -%%}
{%%- endfor -%%}
{%%- for token in %(special)s -%%}{%%- set said.text = said.text | replace(token, ' ') -%%}{%%- endfor -%%}
{%%- set text = said.text | trim -%%}
"""
_AROUND = "{{- %(opening)s ~ said.system ~ ((%(middle)s ~ text ~ %(closing)s) if text else %(empty)s) -}}\n"
_FORMAT = """\
{%- if '{text}' not in said.system -%}{{- raise_exception('prompt: expected {text} in it') -}}{%- endif -%}
{%- set parts = said.system.split('{text}', 1) -%}
{{- parts[0] ~ text ~ parts[1] -}}
"""


class RootTemplate(NamedTuple):
    """A chat template and what goes with it.

    Attributes:
        template: Jinja; a system message with one of the prompts says what the user's message is.
        prompts: By the names of `ROLES`.
        lengths: Most tokens of a whole prompt, by the same names.
    """

    template: str
    prompts: dict[str, str]
    lengths: dict[str, int]


def root_template(embedder: ReasoningEmbedder) -> RootTemplate:
    """The template of a model's prompts, tried on a few texts.

    Args:
        embedder: A built model.

    Raises:
        ModelError: The prompts depend on the text in another way than having it in one place.
    """
    made = _around(embedder, embedder.prompts) if type(embedder.prompts) is ChatPrompts else None
    if made is None or not _renders_alike(embedder, *made):
        made = _with_formats(embedder)
    if not _renders_alike(embedder, *made):
        raise ModelError(
            "prompts: expected the same words around every text, which a chat template can hold; got others from "
            f"{type(embedder.prompts).__qualname__}; such a model cannot be exported for sentence-transformers"
        )
    template, prompts = made
    return RootTemplate(template, prompts, {name: _length(embedder, role) for name, role in ROLES.items()})


def add_templates(tokenizer: PreTrainedTokenizerBase, template: str) -> str | None:
    """Makes ``template`` the tokenizer's default, and keeps what it had.

    Returns:
        The name of the former default, none where there was none.
    """
    before = tokenizer.chat_template
    templates = dict(before) if isinstance(before, dict) else {"default": before} if before else {}
    former = templates.pop("default", None)
    if former is None:
        tokenizer.chat_template = {**templates, "default": template} if templates else template
        return None
    tokenizer.chat_template = {**templates, "default": template, CONVERSATION: former}
    return CONVERSATION


def _around(embedder: ReasoningEmbedder, prompts: ChatPrompts) -> tuple[str, dict[str, str]] | None:
    """A system message and the text, with fixed words around them; none where they do not come in this order."""
    marked = ChatPrompts(direct=_SYSTEM, phrase=prompts.phrase)
    rendered = marked.render(embedder.tokenizer, "direct", _TEXT, embedder.embed_token)
    opening, _, rest = rendered.partition(_SYSTEM)
    middle, _, closing = rest.partition(_TEXT)
    if not closing:
        return None
    empty = marked.render(embedder.tokenizer, "direct", "", embedder.embed_token).partition(_SYSTEM)[2]
    systems = {
        name: prompts.systems[role].replace("{embed_token}", embedder.embed_token) for name, role in ROLES.items()
    }
    words = {"opening": opening, "middle": middle, "closing": closing, "empty": empty}
    last = _AROUND % {name: _literal(word) for name, word in words.items()}
    return _start(embedder, systems["document"]) + last, systems


def _with_formats(embedder: ReasoningEmbedder) -> tuple[str, dict[str, str]]:
    """Whole prompts with ``{text}`` in them."""
    formats = {}
    for name, role in ROLES.items():
        rendered = embedder.prompts.render(embedder.tokenizer, role, _TEXT, embedder.embed_token)
        before, _, after = rendered.partition(_TEXT)
        formats[name] = f"{before}{{text}}{after}"
    return _start(embedder, formats["document"]) + _FORMAT, formats


def _start(embedder: ReasoningEmbedder, default: str) -> str:
    tokens = sorted(special_tokens(embedder.tokenizer), key=len)[::-1]
    return _TEMPLATE % {"default": _literal(default), "special": f"[{', '.join(map(_literal, tokens))}]"}


def _literal(text: str) -> str:
    """A text as Jinja reads it."""
    return json.dumps(text, ensure_ascii=False)


def _renders_alike(embedder: ReasoningEmbedder, template: str, prompts: Mapping[str, str]) -> bool:
    texts = [*PROBES, f"a {embedder.embed_token} b {embedder.tokenizer.eos_token}"]
    for name, role in ROLES.items():
        some = _within(embedder, texts, role)
        asked: Any = [messages(text, prompts[name]) for text in some]
        rendered = embedder.tokenizer.apply_chat_template(asked, chat_template=template, tokenize=False)
        if rendered != embedder.prompt_tokenizer.render(some, role):
            return False
    return True


def _within(embedder: ReasoningEmbedder, texts: list[str], role: Role) -> list[str]:
    """Those that are not cut; short ones where all would be."""
    whole = [text for text, cut in zip(texts, embedder.overlong(texts, role), strict=True) if not cut]
    return [*whole, "a"]


def messages(text: str, prompt: str) -> list[dict[str, str]]:
    """A text under one of the prompts, as a chat template takes it."""
    return [{"role": "system", "content": prompt}, {"role": "user", "content": text}]


def _length(embedder: ReasoningEmbedder, role: Role) -> int:
    """Tokens of the longest prompt: of the text, as many as its limit allows, and of what stands around it.

    Where the words before it melt into its first word, their number depends on that word; the usual one counts.
    """
    words = _within(embedder, PASSAGE.split(), role)
    alone = embedder.tokenizer(words, add_special_tokens=False)["input_ids"]
    around = Counter(len(whole) - len(word) for whole, word in zip(embedder.tokenize(words, role), alone, strict=True))
    return embedder.prompt_tokenizer.limits[role] + around.most_common(1)[0][0]
