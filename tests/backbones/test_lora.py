from pathlib import Path

import pytest
import torch

from srch3.backbones import LoRA, ReasoningEmbedder
from srch3.backbones.embed_token import trained_embedding
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
    row = trained_embedding(embedder.causal_lm)
    assert row.grad is not None
    assert row.grad.abs().max() > 0
    optimizer.step()
    with torch.no_grad():
        after = embedder.embed(sequences)
        with embedder.as_remembered():
            remembered = embedder.embed(sequences)
    assert (after - before).abs().max() > 1e-4
    torch.testing.assert_close(remembered, before.detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("family", "rows"), [("qwen2", 1), ("llama", 2), ("gpt2", 1)])
def test_the_embed_tokens_row_is_trained_in_every_matrix_that_has_one(tmp_path: Path, family: str, rows: int) -> None:
    embedder = ReasoningEmbedder(make_model_folder(tmp_path / "m", family), lora=LoRA(r=4))
    embedder.build()
    completions = embedder.tokenize_thoughts(["fox"])
    embedder.score(embedder.tokenize(["dog"], "thinking"), completions).logits[
        :, embedder.embed_token_id
    ].sum().backward()
    trained = [p for n, p in embedder.named_parameters() if "trainable_tokens_delta" in n]
    assert [tuple(p.shape) for p in trained] == [(1, 32)] * rows
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained)


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("lora", [None, LoRA(r=4)])
def test_freezing_the_output_leaves_the_input_embedding_trained(tmp_path: Path, family: str, lora: LoRA | None) -> None:
    embedder = ReasoningEmbedder(make_model_folder(tmp_path / "m", family), lora=lora)
    embedder.build()
    embedder.freeze_output()
    assert trained_embedding(embedder.causal_lm).requires_grad
    embedder.embed(embedder.tokenize(["fox"], "document")).sum().backward()
    assert all(p.grad is not None for p in embedder.parameters() if p.requires_grad)


@pytest.mark.parametrize(("rslora", "scale"), [(False, 8 / 4), (True, 8 / 2)])
def test_the_scale_of_adapters(tmp_path: Path, rslora: bool, scale: float) -> None:
    folder = make_model_folder(tmp_path / "m")
    embedder = ReasoningEmbedder(folder, lora=LoRA(r=4, alpha=8, target_modules=["q_proj"], rslora=rslora))
    embedder.build()
    layer = embedder.causal_lm.get_submodule("model.layers.0.self_attn.q_proj")
    factors = {name: p for name, p in layer.named_parameters() if "lora_" in name}
    with torch.no_grad():
        for factor in factors.values():
            factor.fill_(0.5)
        x = torch.arange(32.0)[None]
        difference = layer(x) - layer.get_parameter("base_layer.weight") @ x[0] - layer.get_parameter("base_layer.bias")
    torch.testing.assert_close(difference, torch.full((1, 32), scale * 4 * 0.5 * 0.5 * 496.0), atol=1e-3, rtol=0)


def test_the_reference_of_fresh_adapters_is_the_base_and_no_second_model(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "m")
    base, adapted = ReasoningEmbedder(folder), ReasoningEmbedder(folder, lora=LoRA(r=2))
    for embedder in (base, adapted):
        embedder.build()
        embedder.eval()
    adapted.remember()
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert trained < sum(p.numel() for p in base.parameters()) / 10
    assert sum(p.numel() for p in adapted._remembered._weights.values()) == trained  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5)
        prompts, completions = base.tokenize(["fox"], "thinking"), base.tokenize_thoughts(["a lazy dog"])
        expected = base.score(prompts, completions).logits
        assert (adapted.score(prompts, completions).logits - expected).abs().max() > 0.1
        with adapted.as_remembered():
            torch.testing.assert_close(adapted.score(prompts, completions).logits, expected, atol=0, rtol=0)


def test_unknown_target_modules_are_named(tmp_path: Path) -> None:
    embedder = ReasoningEmbedder(make_model_folder(tmp_path / "m"), lora=LoRA(target_modules=["absent"]))
    with pytest.raises(ConfigError, match=r"lora.target_modules.*absent"):
        embedder.build()


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
