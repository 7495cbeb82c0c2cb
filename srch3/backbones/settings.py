"""What a model folder has to say, beside weights and tokenizer, for texts to be embedded as they were in training."""

import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from srch3.backbones.prompts import BasePrompts
from srch3.backbones.reasoning_embedder import ReasoningEmbedder
from srch3.backbones.tokenization import Truncation
from srch3.errors import ModelError

SETTINGS_FILE = "srch3.json"
FORMAT = 1

Documents = Literal["direct", "thinking"]
"""Whether a document is embedded at once, or after the likeliest thought about it."""

_KINDS: dict[str, type] = {
    "embed_token": str,
    "prompts": dict,
    "max_query_tokens": int,
    "max_document_tokens": int,
    "max_thought_tokens": int,
    "truncation": str,
    "documents": str,
    "mode": str,
}
_CHOICES = {"truncation": get_args(Truncation), "documents": get_args(Documents)}


def settings_of(embedder: ReasoningEmbedder, documents: Documents = "direct") -> dict[str, Any]:
    """What decides, with the weights and the tokenizer, how a text is embedded; plain values, for JSON.

    Args:
        embedder: Built or not.
        documents: How documents are embedded, which the module decides that trained the model.

    Raises:
        ModelError: The prompts cannot be described.
    """
    return {
        "format": FORMAT,
        "embed_token": embedder.embed_token,
        "prompts": describe_prompts(embedder.prompts),
        "chat_template": embedder.chat_template,
        "max_query_tokens": embedder.max_query_tokens,
        "max_document_tokens": embedder.max_document_tokens,
        "max_thought_tokens": embedder.max_thought_tokens,
        "truncation": embedder.truncation,
        "documents": documents,
        "mode": "thinking",
    }


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes the file that :func:`read_settings` reads."""
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    (folder / SETTINGS_FILE).write_text(text, encoding="utf-8")


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings in a model folder, checked.

    Raises:
        ModelError: There are none, or they cannot be understood.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise ModelError(
            f"model: expected a folder with {SETTINGS_FILE}, as `python -m srch3 export` writes it, or the checkpoint "
            f"file of a run; got {str(folder)!r}, which has none"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"model: expected JSON in {path}; got broken JSON: {error}; export the model again") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        got = found.get("format") if isinstance(found, dict) else type(found).__name__
        raise ModelError(
            f"model: expected format {FORMAT} in {path}; got {got!r}; export the model again with this version of srch3"
        )
    _check(found, path)
    return found


def embedder_from(folder: str | Path) -> ReasoningEmbedder:
    """The model of a folder with ``srch3.json``, not built yet; its weights will be float32.

    A folder names its prompts' class, but imports nothing: a class outside srch3 has to have been imported already.

    Raises:
        ModelError: The settings are missing or cannot be understood, or the prompts' class is not known.
    """
    settings = read_settings(Path(folder))
    return ReasoningEmbedder(
        str(folder),
        prompts=prompts_from(settings["prompts"]),
        embed_token=settings["embed_token"],
        max_query_tokens=settings["max_query_tokens"],
        max_document_tokens=settings["max_document_tokens"],
        max_thought_tokens=settings["max_thought_tokens"],
        truncation=settings["truncation"],
        chat_template=settings.get("chat_template"),
    )


def describe_prompts(prompts: BasePrompts) -> dict[str, Any]:
    """The class of prompts and what it is made from, as YAML and JSON write it.

    Raises:
        ModelError: The prompts do not say what they were made from.
    """
    kind, arguments = type(prompts), prompts.init_args()
    known = inspect.signature(kind).parameters
    required = {name for name, parameter in known.items() if parameter.default is parameter.empty}
    if not required <= arguments.keys() <= known.keys():
        raise ModelError(
            f"prompts: expected {kind.__qualname__}.init_args() to give the arguments of its __init__, which are "
            f"{', '.join(known) or 'none'}; got {', '.join(arguments) or 'none'}; override init_args"
        )
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def prompts_from(described: Mapping[str, Any]) -> BasePrompts:
    """Makes prompts from their description, without importing anything.

    Raises:
        ModelError: The class is unknown, or cannot be made from these arguments.
    """
    path = described.get("class_path")
    module, _, name = str(path).rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    if not (isinstance(kind, type) and issubclass(kind, BasePrompts)):
        raise ModelError(
            f"prompts: expected a class of prompts that has been imported; got {path!r}; if you trust it, import "
            f"{module or 'its module'} in Python before you load the model"
        )
    try:
        return kind(**described.get("init_args", {}))
    except TypeError as error:
        raise ModelError(
            f"prompts: expected arguments of {path}; got others: {error}; export the model again"
        ) from error


def _check(found: Mapping[str, Any], path: Path) -> None:
    for name, kind in _KINDS.items():
        value = found.get(name)
        if not isinstance(value, kind) or isinstance(value, bool) or value not in _CHOICES.get(name, (value,)):
            expected = " or ".join(map(repr, _CHOICES.get(name, (kind.__name__,))))
            raise ModelError(
                f"model: expected {name} in {path} to be {expected}; got {value!r}; export the model again"
            )
    template = found.get("chat_template")
    if template is not None and not isinstance(template, str):
        raise ModelError(f"model: expected chat_template in {path} to be a name or null; got {template!r}")
