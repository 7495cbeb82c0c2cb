from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from srch3.backbones import LoRA, ReasoningEmbedder
from tests.models import make_model_folder
from tests.toy import quiet_trainer

LORA = LoRA(r=4, dropout=0.1)


class Training(L.LightningModule):
    """Pulls two texts apart, and notes what happens in each step."""

    def __init__(self, backbone: ReasoningEmbedder) -> None:
        super().__init__()
        self.backbone = backbone
        self.calls: list[bool] = []
        self.embeddings: list[Tensor] = []
        self.gradients: list[Tensor] = []

    def configure_model(self) -> None:
        self.backbone.build()
        layer = self.backbone.causal_lm.base_model.layers[0]
        layer.input_layernorm.register_forward_hook(lambda *_: self.calls.append(torch.is_grad_enabled()))

    def training_step(self, batch: list[str], batch_idx: int) -> Tensor:
        torch.manual_seed(batch_idx)
        embeddings = self.backbone.embed(self.backbone.tokenize(batch, "document"))
        self.embeddings.append(embeddings.detach())
        return embeddings[0] @ embeddings[1]

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.gradients.append(torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.01)


def fitted(folder: Path, precision: Any = "32-true", **settings: Any) -> Training:
    make_model_folder(folder / "m")
    module = Training(ReasoningEmbedder(str(folder / "m"), **settings))
    batches = DataLoader([["fox", "a lazy dog"], ["parse a date", "fox"]], batch_size=None)  # type: ignore[arg-type]
    quiet_trainer(folder, max_epochs=1, precision=precision).fit(module, batches)
    return module


@pytest.mark.parametrize("lora", [None, LORA])
def test_gradient_checkpointing_recomputes_in_a_fit_and_changes_no_gradient(tmp_path: Path, lora: LoRA | None) -> None:
    plain, saving = (fitted(tmp_path, lora=lora, gradient_checkpointing=on) for on in (False, True))
    assert len(plain.calls) == 2
    assert len(saving.calls) == 4
    assert saving.backbone.training
    for expected, got in zip(plain.gradients, saving.gradients, strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("lora", [None, LORA])
def test_mixed_precision_trains_float32_weights_towards_float32_unit_embeddings(
    tmp_path: Path, lora: LoRA | None
) -> None:
    module = fitted(tmp_path, "bf16-mixed", lora=lora)
    exact = fitted(tmp_path, "32-true", lora=lora)
    for embeddings, expected in zip(module.embeddings, exact.embeddings, strict=True):
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2), atol=1e-6, rtol=0)
        assert 0 < (embeddings - expected).abs().max() < 0.05
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


def test_the_reference_has_the_precision_of_a_model_converted_since(tmp_path: Path) -> None:
    embedder = ReasoningEmbedder(make_model_folder(tmp_path / "m"))
    embedder.build()
    embedder.eval()
    embedder.remember()
    fingerprint = embedder.remembered_fingerprint()
    sequences = embedder.tokenize(["fox"], "document")
    embedder.to(torch.bfloat16)
    with torch.no_grad():
        expected = embedder.embed(sequences)
        for parameter in embedder.parameters():
            parameter.mul_(1.5)
        with embedder.as_remembered():
            assert {parameter.dtype for parameter in embedder.parameters()} == {torch.bfloat16}
            torch.testing.assert_close(embedder.embed(sequences), expected, atol=1e-6, rtol=0)
    assert embedder.remembered_fingerprint() == fingerprint > 0
