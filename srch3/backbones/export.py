"""Writing a model to a folder that any program can load, and making sure that it is the same model."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from srch3.backbones.lora import merged_weight, without_adapters
from srch3.errors import ModelError
from srch3.functional.similarity import normalise

if TYPE_CHECKING:
    from srch3.backbones.reasoning_embedder import ReasoningEmbedder
    from srch3.backbones.settings import Documents

TEXTS = ["parse a date", "Embeddings are read at one token.", "A list of numbers: 1, 2, 3."]
"""What is embedded to compare two models."""

LEAST_COSINE = {"float32": 0.9999, "bfloat16": 0.999, "float16": 0.999, "nf4": 0.99, "int8": 0.99}
"""Of the same text in both models; half precision rounds every activation, and quantised layers compute in it."""


def save_plain(
    embedder: "ReasoningEmbedder",
    folder: Path,
    documents: "Documents" = "direct",
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Writes the model without adapters, its tokenizer and the settings; the live model stays as it is.

    What was written is loaded with plain transformers and must embed as the live model does, and where adapters were
    trained unlike the model without them. The folder appears whole or not at all.

    Args:
        embedder: A built model.
        folder: New or empty.
        documents: How documents are embedded.
        finish: Called with a folder beside it that has everything and passed the check, before it gets its name; adds
            files there, or raises, and then nothing is left.

    Raises:
        ModelError: The folder has content already, or what was written is another model.
    """
    from srch3.backbones.settings import settings_of, write_settings

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"expected a new or empty folder to save the model in, got {str(folder)!r}; name another")
    settings = {**settings_of(embedder, documents), "chat_template": None}
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        _plain(embedder.causal_lm).save_pretrained(partial)
        embedder.tokenizer.save_pretrained(partial)
        write_settings(partial, settings)
        _verify(embedder, partial)
        if finish:
            finish(partial)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same family whose weights are those of ``model`` with the adapters merged in."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = type(model)(config)
    weights = {}
    for key in plain.state_dict():
        path, _, name = key.rpartition(".")
        weights[key] = merged_weight(model.get_submodule(path), name).detach()
    plain.load_state_dict(weights, assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain


@torch.no_grad()
def _verify(embedder: "ReasoningEmbedder", folder: Path) -> None:
    was_training = embedder.training
    embedder.eval()
    try:
        with torch.autocast(embedder.device.type, enabled=False):
            live = _live_embeddings(embedder)
            with without_adapters(embedder):
                base = _live_embeddings(embedder)
            saved = _saved_embeddings(embedder, folder)
    finally:
        embedder.train(was_training)
    weights = embedder.quantization or embedder.dtype
    cosine = float((live * saved).sum(1).min())
    if not cosine >= LEAST_COSINE[weights]:
        raise ModelError(
            f"expected the saved model to embed as the trained one does, got a cosine of {cosine:.6f} between the two; "
            f"nothing was saved (weights are in {weights}; float32 rounds least)"
        )
    if (saved - live).norm() > 0.5 * (live - base).norm() and not torch.equal(live, base):
        raise ModelError(
            "expected the saved model to differ from the one without adapters as the trained one does, got less or "
            f"more: merging lost them, so nothing was saved (weights are in {weights}; float32 keeps small changes)"
        )


def _live_embeddings(embedder: "ReasoningEmbedder") -> Float[Tensor, "texts dim"]:
    sequences = embedder.tokenize(TEXTS, "document")
    return torch.cat([embedder.embed([sequence]) for sequence in sequences])


def _saved_embeddings(embedder: "ReasoningEmbedder", folder: Path) -> Float[Tensor, "texts dim"]:
    """The same by transformers alone, from what the folder holds."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=embedder.causal_lm.dtype)
    model = model.to(embedder.device).eval()
    token = tokenizer.convert_tokens_to_ids(embedder.embed_token)
    embeddings = []
    for prompt in embedder.prompt_tokenizer.render(TEXTS, "document"):
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"].to(embedder.device)
        hidden = model.base_model(input_ids=ids).last_hidden_state[0]
        embeddings.append(normalise(hidden[ids[0] == token][-1:]))
    return torch.cat(embeddings)
