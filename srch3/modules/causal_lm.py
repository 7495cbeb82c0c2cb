"""Stage 0: a small language model from nothing, for machines without a model hub."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from srch3.errors import ConfigError
from srch3.modules.optimization import OptimizedModule, Schedule


class CausalLMModule(OptimizedModule):
    """Trains a small model of the Qwen2 architecture on the text of a data module, and saves it as a model folder.

    The data module brings the tokenizer (``MinedTextDataModule`` trains one). When training ends the model is written
    to ``output_dir`` with ``save_pretrained``, to be named by ``model.init_args.backbone.init_args.model`` of the next
    stage like any other model.

    Args:
        output_dir: Folder that receives the model and its tokenizer.
        hidden_size: Width.
        layers: Number of layers.
        heads: Attention heads; they divide the width.
        context: Longest sequence that the model is configured for, tokens.
        optimizer: Made from the parameters.
        schedule: Course of the learning rate.
        warmup: Share of all steps over which the learning rate rises.
        seed: Seed of the weights and of everything random within a step.
    """

    def __init__(
        self,
        output_dir: str,
        hidden_size: int = 128,
        layers: int = 4,
        heads: int = 4,
        context: int = 1024,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=2e-3),
        schedule: Schedule = "cosine",
        warmup: float = 0.02,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer, schedule, warmup, 1.0, seed)
        if hidden_size % heads:
            raise ConfigError(f"model.init_args.heads: expected a divisor of hidden_size {hidden_size}, got {heads}")
        self.output_dir = Path(output_dir)
        self.shape: dict[str, Any] = {
            "hidden_size": hidden_size,
            "intermediate_size": hidden_size * 3,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "max_position_embeddings": context,
        }
        self.held_out_loss = MeanMetric()
        self.model: Qwen2ForCausalLM | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The data module's tokenizer.

        Raises:
            ConfigError: It has none.
        """
        tokenizer = getattr(getattr(self.trainer, "datamodule", None), "tokenizer", None)
        if tokenizer is None:
            raise ConfigError("data: CausalLMModule needs a data module with a tokenizer, such as MinedTextDataModule")
        return tokenizer  # type: ignore[no-any-return]

    def configure_model(self) -> None:
        """Makes the model, once the tokenizer is known."""
        if self.model is not None:
            return
        tokenizer = self.tokenizer
        config = Qwen2Config(
            vocab_size=len(tokenizer),
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
            **self.shape,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.model = Qwen2ForCausalLM(config)

    def forward(self, tokens: Int64[Tensor, "batch seq"]) -> Tensor:
        """Mean cross-entropy of each token given those before it, nats."""
        assert self.model is not None
        loss: Tensor = self.model(input_ids=tokens, labels=tokens, use_cache=False).loss
        return loss

    def training_step(self, batch: Int64[Tensor, "batch seq"], batch_idx: int) -> Tensor:
        """The loss of one batch."""
        loss: Tensor = self(batch)
        self.check_finite(loss, {"cross_entropy": loss})
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Int64[Tensor, "batch seq"], batch_idx: int) -> None:
        """The loss on held-out text."""
        self.held_out_loss.update(self(batch), len(batch))
        self.log("val/loss", self.held_out_loss, prog_bar=True)

    def on_fit_end(self) -> None:
        """Writes the model folder."""
        if self.trainer.interrupted or not self.trainer.is_global_zero:
            return
        assert self.model is not None
        self.model.save_pretrained(self.output_dir)
        self.tokenizer.save_pretrained(self.output_dir)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes the model before its weights are loaded."""
        self.configure_model()
