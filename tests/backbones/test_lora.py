from pathlib import Path

import pytest
import torch

from srch3.backbones import LoRA, ReasoningEmbedder
from srch3.errors import ConfigError
from tests.models import make_model_folder


@pytest.mark.parametrize("family", ["qwen2", "llama", "gpt2"])
def test_adapters_and_the_embed_token_are_all_that_trains(tmp_path: Path, family: str) -> None:
    embedder = ReasoningEmbedder(make_model_folder(tmp_path / "m", family), lora=LoRA(r=4))
    embedder.build()
    embedder.eval()
    trainable = {name for name, parameter in embedder.named_parameters() if parameter.requires_grad}
    assert trainable
    assert all("lora_" in name or "trainable_tokens_delta" in name for name in trainable)
    embedder.remember()
    sequences = embedder.tokenize(["fox", "a lazy dog"], "document")
    before = embedder.embed(sequences)
    optimizer = torch.optim.SGD([p for p in embedder.parameters() if p.requires_grad], lr=0.5)
    (before[0] @ before[1]).backward()
    assert all(p.grad is not None for n, p in embedder.named_parameters() if "trainable_tokens_delta" in n)
    optimizer.step()
    with torch.no_grad():
        after = embedder.embed(sequences)
        with embedder.as_remembered():
            remembered = embedder.embed(sequences)
    assert (after - before).abs().max() > 1e-4
    torch.testing.assert_close(remembered, before.detach(), atol=1e-6, rtol=0)


def test_unknown_target_modules_are_named(tmp_path: Path) -> None:
    embedder = ReasoningEmbedder(make_model_folder(tmp_path / "m"), lora=LoRA(target_modules=["absent"]))
    with pytest.raises(ConfigError, match=r"lora.target_modules.*absent"):
        embedder.build()


def test_gradient_checkpointing_is_on_in_training_and_gives_the_same_gradients(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "m")
    gradients = []
    for checkpointing in (False, True):
        embedder = ReasoningEmbedder(folder, gradient_checkpointing=checkpointing)
        embedder.build()
        assert embedder.training
        calls: list[int] = []
        first = embedder.causal_lm.base_model.layers[0]
        first.input_layernorm.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        embeddings = embedder.embed(embedder.tokenize(["fox", "a lazy dog"], "document"))
        (embeddings[0] @ embeddings[1]).backward()
        assert len(calls) == 1 + checkpointing
        gradients.append(torch.cat([p.grad.flatten() for p in embedder.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=0)


def test_fresh_adapters_depend_on_the_seed_alone(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "m")
    fresh = []
    for elsewhere in (1, 2):
        torch.manual_seed(elsewhere)
        embedder = ReasoningEmbedder(folder, lora=LoRA(r=4))
        embedder.build()
        embedder.remember()
        fresh.append(embedder.remembered_fingerprint())
    assert fresh[0] == fresh[1]
