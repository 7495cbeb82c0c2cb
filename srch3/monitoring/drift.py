"""What training costs the model of its language: how well it still predicts plain texts, beside its base."""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn
from transformers import PreTrainedModel

from srch3.backbones import ReasoningEmbedder
from srch3.backbones.batching import length_batches, pad
from srch3.backbones.embed_token import embedding_matrix
from srch3.backbones.loading import load_causal_lm
from srch3.backbones.logits import next_token_logits
from srch3.backbones.reasoning_embedder import Tokens
from srch3.errors import ConfigError, DataError
from srch3.functional.language import token_cross_entropy
from srch3.modules.base import BaseRetrievalModule

TOKENS_AT_ONCE = 1024
"""Of a forward pass, padding included: their logits over a large vocabulary take a gigabyte."""


@torch.no_grad()
def perplexity(model: PreTrainedModel, sequences: Sequence[Tokens], left_out: int) -> float:
    """Exponential of the mean cross-entropy of all tokens but the first of each sequence.

    Args:
        model: A causal LM in evaluation mode.
        sequences: Tokens of each text; at least one has two.
        left_out: A token that is taken out of the distribution, since a base has never seen it; it may not exist.
    """
    nats, count = 0.0, 0
    device = embedding_matrix(model).device
    for rows in length_batches([len(sequence) for sequence in sequences], TOKENS_AT_ONCE):
        ids, mask, positions = pad([sequences[row] for row in rows], 0, "right", device)
        decoder: Any = model.base_model
        output = decoder(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
        follows = mask[:, 1:].bool()
        logits = next_token_logits(model, output.last_hidden_state[:, :-1][follows])
        logits[:, left_out : left_out + 1] = -torch.inf
        nats += float(token_cross_entropy(logits, ids[:, 1:][follows]).double().sum())
        count += int(follows.sum())
    return float(torch.tensor(nats / count, dtype=torch.float64).exp())


class PerplexityDrift(L.Callback):
    """Measures general ability at every validation: perplexity on plain texts, and its ratio to the base's.

    The base is the model that ``model.init_args.backbone.init_args.model`` names, before any stage; it is loaded once
    more, measured in the trainer's own precision and let go, at the first validation of a run (the sanity check, where
    there is one, and so before training). What a checkpoint knows of the base is not measured again. The embed token,
    which a base cannot know, is left out of both distributions. A text counts up to ``max_document_tokens``.

    Args:
        texts: A UTF-8 file with one text per line; by default the first documents of the validation corpus.
        limit: How many of them.
    """

    def __init__(self, texts: str | None = None, limit: int = 64) -> None:
        if limit < 1:
            raise ConfigError(f"trainer.callbacks: PerplexityDrift.limit: expected at least 1 text, got {limit}")
        self.texts = texts
        self.limit = limit
        self._bases: dict[str, float] = {}

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measures.

        Raises:
            ConfigError: The model has no backbone.
            DataError: There is no text to measure on.
        """
        if not isinstance(pl_module, BaseRetrievalModule):
            raise ConfigError(
                "trainer.callbacks: PerplexityDrift expects a model with a backbone, such as RLModule; got "
                f"{type(pl_module).__name__}; take it out"
            )
        backbone = pl_module.backbone
        sequences = self._sequences(pl_module)
        with pl_module.inference():
            base = self._base(backbone, sequences)
            now = perplexity(backbone.causal_lm, sequences, backbone.embed_token_id)
        pl_module.log_dict({"val/perplexity": now, "val/perplexity_ratio": now / base}, sync_dist=True)

    def _sequences(self, module: BaseRetrievalModule) -> list[Tokens]:
        backbone = module.backbone
        texts = [text.replace(backbone.embed_token, " ") for text in self._texts(module)]
        limit = {"truncation": True, "max_length": backbone.max_document_tokens}
        sequences = [list(backbone.tokenizer(text, **limit)["input_ids"]) for text in texts]
        sequences = [ids for ids in sequences if len(ids) > 1]
        if not sequences:
            place = f"PerplexityDrift.texts {self.texts}" if self.texts else "PerplexityDrift: the validation corpus"
            raise DataError(f"trainer.callbacks: {place}: expected a text of at least two tokens; got none")
        return sequences

    def _texts(self, module: BaseRetrievalModule) -> list[str]:
        if self.texts is None:
            documents = module.required_environment().corpus("val").texts
            return [documents[row] for row in range(min(self.limit, len(documents)))]
        try:
            lines = Path(self.texts).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"trainer.callbacks: PerplexityDrift.texts: expected a UTF-8 text file; got {self.texts}: {error}"
            ) from error
        return [line for line in lines if line.strip()][: self.limit]

    def _base(self, backbone: ReasoningEmbedder, sequences: list[Tokens]) -> float:
        measured = blake2b(repr((backbone.name, sequences)).encode(), digest_size=8).hexdigest()
        if measured not in self._bases:
            model, _ = load_causal_lm(
                backbone.name, backbone.dtype, backbone.attn_implementation, quantization=backbone.quantization
            )
            nn.Module.to(model, backbone.device)  # transformers' own refuses quantised models
            self._bases[measured] = perplexity(model.eval(), sequences, backbone.embed_token_id)
        return self._bases[measured]

    def state_dict(self) -> dict[str, Any]:
        """The perplexity of the base, by what it was measured on."""
        return {"bases": self._bases}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what was measured."""
        self._bases = state_dict["bases"]
