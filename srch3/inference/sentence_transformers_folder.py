"""What makes a model folder one that plain sentence-transformers loads, and the proof that it embeds as srch3 does."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from transformers import AutoModel, AutoTokenizer

from srch3.backbones import ReasoningEmbedder
from srch3.backbones.export import LEAST_COSINE
from srch3.backbones.settings import read_settings, write_settings
from srch3.errors import ModelError
from srch3.functional.similarity import normalise
from srch3.inference.root_template import PASSAGE, PROBES, ROLES, RootTemplate, add_templates, messages, root_template

PACKAGE = "sentence_transformers"
OLDEST = "6"
"""The first release that has lengths by role, and writes the end of a prompt back after it was cut."""

THINKING = "thinking"
"""Folder within the folder, for the module that thinks about queries."""

_MODULES = {
    "": "sentence_transformers.base.modules.transformer.Transformer",
    "1_Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "2_Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
_THINKING_MODULE = "srch3.inference.thinking_module.ThinkingModule"


class Cut(NamedTuple):
    """Embeddings of texts that are too long.

    Attributes:
        texts: How many there were.
        same: How many of them were embedded the same.
        least: Least cosine of a text.
    """

    texts: int
    same: int
    least: float


class Compared(NamedTuple):
    """How alike a folder embeds through another library.

    Attributes:
        library: Which one.
        within: Least cosine of a text within the limits.
        beyond: Texts that are cut, by the names of `ROLES`; none where the library does not cut.
    """

    library: str
    within: float
    beyond: dict[str, Cut]


def write_thinking_folder(folder: Path) -> None:
    """Adds a folder which sentence-transformers loads with ``trust_remote_code=True``: its queries think."""
    inner = folder / THINKING
    inner.mkdir()
    _write(inner / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": _THINKING_MODULE}])
    _write(inner / "config_sentence_transformers.json", _config({}, None))
    _write(inner / "config.json", {"model": "..", "mode": "thinking"})


def write_direct_folder(embedder: ReasoningEmbedder, folder: Path) -> RootTemplate:
    """Adds what sentence-transformers, without any code of ours, needs to embed as direct mode does.

    The tokenizer's chat template becomes one that renders whole prompts; the former one stays under another name.

    Args:
        embedder: A built model.
        folder: Where it was saved.

    Raises:
        ModelError: The prompts cannot be put into a chat template.
    """
    made = root_template(embedder)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right", truncation_side="right")
    name = add_templates(tokenizer, made.template)
    tokenizer.save_pretrained(folder)
    write_settings(folder, {**read_settings(folder), "chat_template": name})
    parts = [{"idx": n, "name": str(n), "path": path, "type": kind} for n, (path, kind) in enumerate(_MODULES.items())]
    _write(folder / "modules.json", parts)
    _write(folder / "sentence_bert_config.json", _transformer(made.lengths))
    _write(folder / "config_sentence_transformers.json", _config(made.prompts, "document"))
    for path in ("1_Pooling", "2_Normalize"):
        (folder / path).mkdir()
    pooling = {"embedding_dimension": embedder.dim, "pooling_mode": "lasttoken", "include_prompt": True}
    _write(folder / "1_Pooling" / "config.json", pooling)
    return made


def _transformer(lengths: dict[str, int]) -> dict[str, Any]:
    forward = {"method": "forward", "method_output_name": "last_hidden_state"}
    return {
        "transformer_task": "feature-extraction",
        "module_output_name": "token_embeddings",
        "modality_config": {"text": forward, "message": {**forward, "format": "flat"}},
        "max_seq_length": max(lengths.values()),
        "query_length": lengths["query"],
        "document_length": lengths["document"],
    }


def _config(prompts: dict[str, str], default: str | None) -> dict[str, Any]:
    return {
        "model_type": "SentenceTransformer",
        "prompts": prompts,
        "default_prompt_name": default,
        "similarity_fn_name": "cosine",
        "requirements": {"sentence-transformers": f">={OLDEST}"},
    }


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def compare_direct(embedder: ReasoningEmbedder, folder: Path, made: RootTemplate) -> list[Compared]:
    """Embeds through plain transformers and, where it is installed, sentence-transformers.

    Args:
        embedder: The live model.
        folder: Where it was written.
        made: What :func:`write_direct_folder` wrote.

    Raises:
        ModelError: An embedding is another one than the live model's.
    """
    least = LEAST_COSINE[embedder.quantization or embedder.dtype]
    found = [_by_transformers(embedder, folder, made)]
    if find_spec(PACKAGE) is not None:
        found.append(_by_sentence_transformers(embedder, folder, least))
    for compared in found:
        if not compared.within >= least:
            raise ModelError(
                f"expected {compared.library} to embed with the exported folder as the live model does, got a cosine "
                f"of {compared.within:.6f}; nothing was exported"
            )
    return found


def _by_transformers(embedder: ReasoningEmbedder, folder: Path, made: RootTemplate) -> Compared:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModel.from_pretrained(folder, dtype=embedder.causal_lm.dtype).to(embedder.device).eval()
    cosines = []
    for name in ROLES:
        texts, _ = _texts(embedder, name)
        found = []
        for text in texts:
            encoded: Any = tokenizer.apply_chat_template(messages(text, made.prompts[name]), return_tensors="pt")
            with torch.inference_mode():
                found.append(normalise(model(encoded["input_ids"].to(embedder.device)).last_hidden_state[:, -1]))
        cosines.append(least_cosine(live_embeddings(embedder, texts, name), torch.cat(found).cpu().numpy()))
    return Compared("transformers", min(cosines), {})


def _by_sentence_transformers(embedder: ReasoningEmbedder, folder: Path, least: float) -> Compared:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device=str(embedder.device), local_files_only=True)
    within, beyond = [], {}
    for name in ROLES:
        short, long = _texts(embedder, name)
        encode = model.encode_query if name == "query" else model.encode_document
        found = encode([*short, *long], show_progress_bar=False)
        live = live_embeddings(embedder, [*short, *long], name)
        cosines = _cosines(live, found)
        within.append(float(cosines[: len(short)].min()))
        cut = cosines[len(short) :]
        beyond[name] = Cut(len(cut), int((cut >= least).sum()), float(cut.min()))
    return Compared("sentence-transformers", min(within), beyond)


def _texts(embedder: ReasoningEmbedder, name: str) -> tuple[list[str], list[str]]:
    """Texts of several lengths that are within the limit, and some that are not."""
    role = ROLES[name]
    limit = embedder.prompt_tokenizer.limits[role]
    candidates = [*PROBES, f"a {embedder.embed_token} b", PASSAGE]
    over = embedder.overlong(candidates, role)
    words = PASSAGE.split(" ")
    long = [" ".join([*words[first:], *words * limit][: 2 * limit]) for first in range(0, len(words), 3)]
    return [*(text for text, cut in zip(candidates, over, strict=True) if not cut), "a"], long


@torch.inference_mode()
def live_embeddings(embedder: ReasoningEmbedder, texts: Sequence[str], name: str) -> Float[np.ndarray, "texts dim"]:
    """Embeddings under one of the `ROLES`, without a thought."""
    was_training = embedder.training
    embedder.eval()
    try:
        with torch.autocast(embedder.device.type, enabled=False):
            return embedder.embed(embedder.tokenize(texts, ROLES[name])).cpu().numpy()
    finally:
        embedder.train(was_training)


def least_cosine(one: Float[np.ndarray, "texts dim"], other: Float[np.ndarray, "texts dim"]) -> float:
    """The least cosine of a row with its counterpart; the rows of ``one`` have unit length."""
    return float(_cosines(one, other).min())


def _cosines(one: Float[np.ndarray, "texts dim"], other: Float[np.ndarray, "texts dim"]) -> Float[np.ndarray, "texts"]:
    wide = np.asarray(other, np.float64)
    cosines: Float[np.ndarray, "texts"] = (one * wide / np.linalg.norm(wide, axis=1, keepdims=True)).sum(1)
    return cosines
