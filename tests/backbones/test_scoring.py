import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from srch3.backbones import Completions, LoRA, ReasoningEmbedder
from srch3.backbones.scoring import Scores, score_completions
from tests.models import FAMILIES, SMALL, make_model_folder

MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": ("Gemma3TextConfig", {**SMALL, "head_dim": 8}),
    "granite": ("GraniteConfig", {**SMALL, "logits_scaling": 7.0}),
    "phi3": ("Phi3Config", SMALL),
    "olmo": ("OlmoConfig", SMALL),
}
WIDE_WINDOWS = {
    "mistral-wide": ("MistralConfig", {**SMALL, "sliding_window": 64}),
    "gemma2-wide": ("Gemma2Config", {**SMALL, "head_dim": 8, "sliding_window": 64}),
}
APART = {"mistral", "gemma2", "olmo"}
TEMPERATURE = 0.7


def embedder(folder: Path, family: str = "qwen2", **settings: Any) -> ReasoningEmbedder:
    built = ReasoningEmbedder(make_model_folder(folder / family, family), **settings)
    built.build()
    return built.eval()


def sampled(model: ReasoningEmbedder) -> tuple[list[list[int]], list[int], Completions]:
    """Completions of several lengths, of prompts in mixed order; one has no counted target, some a forced end."""
    rng = random.Random(0)
    prompts = [[rng.randrange(5, 300) for _ in range(length)] for length in (5, 12, 9)]
    owners = [0, 0, 2, 1, 1, 2, 0, 2, 0]
    inputs = [[rng.randrange(5, 300) for _ in range(rng.randrange(1, 8))] + [model.embed_token_id] for _ in owners]
    inputs[2] = [model.embed_token_id]
    counted = [[True] * (len(tokens) - 1) + [number % 2 == 1] for number, tokens in enumerate(inputs)]
    targets = [list(tokens) for tokens in inputs]
    targets[3][-1] = 0
    return prompts, owners, Completions(inputs, targets, counted)


def plainly(model: ReasoningEmbedder, prompts: list[list[int]], owners: list[int], given: Completions) -> Scores:
    """The same from whole sequences, one at a time, with the logits of every position."""
    width = max(map(len, given.inputs))
    logprobs, entropies, counts, embeddings = [], [], [], []
    for number, owner in enumerate(owners):
        ids = torch.tensor([[*prompts[owner], *given.inputs[number]]])
        positions = torch.arange(ids.shape[1])[None]
        hidden = model.hidden_states(ids, torch.ones_like(ids), positions)[0]
        start, length = len(prompts[owner]) - 1, len(given.inputs[number])
        everything = (model.logits(hidden)[start : start + length] / TEMPERATURE).log_softmax(1)
        counted = torch.tensor(given.counted[number])
        chosen = everything[torch.arange(length), given.targets[number]] * counted
        entropy = -(everything.exp() * everything).sum(1) * counted
        logprobs.append(torch.nn.functional.pad(chosen, (0, width - length)))
        entropies.append(torch.nn.functional.pad(entropy, (0, width - length)))
        counts.append(torch.nn.functional.pad(counted, (0, width - length)))
        embeddings.append(torch.nn.functional.normalize(hidden[-1].float(), dim=0))
    return Scores(*map(torch.stack, (logprobs, entropies, counts, embeddings)))


def gradients(model: ReasoningEmbedder, compute: Callable[[], Scores]) -> tuple[Scores, dict[str, Tensor]]:
    """Scores, and the gradients of a sum of log-probabilities and embeddings in which each has its own weight."""
    model.zero_grad()
    scores = compute()
    generator = torch.Generator().manual_seed(1)
    loss = (scores.logprobs * torch.randn(scores.logprobs.shape, generator=generator)).sum()
    loss = loss + (scores.embeddings * torch.randn(scores.embeddings.shape, generator=generator)).sum()
    loss.backward()
    trained = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    return scores, {name: value.clone() for name, value in trained.items() if value is not None}


def assert_same(model: ReasoningEmbedder, ours: Callable[[], Scores], reference: Callable[[], Scores]) -> None:
    (scores, slopes), (expected, wanted) = gradients(model, ours), gradients(model, reference)
    for value, other in zip(scores, expected, strict=True):
        torch.testing.assert_close(value, other, atol=1e-5, rtol=1e-5)
    assert_same_slopes(slopes, wanted)


def assert_same_slopes(slopes: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert slopes.keys() == wanted.keys()
    assert wanted
    for name, slope in slopes.items():
        assert (slope - wanted[name]).abs().max() <= 1e-5 * wanted[name].abs().max(), name


def passes(
    model: ReasoningEmbedder, monkeypatch: pytest.MonkeyPatch, given: tuple[Any, ...], cache_tokens: int | None = None
) -> list[tuple[int, ...]]:
    """Shapes of the passes that scoring takes."""
    shapes: list[tuple[int, ...]] = []
    original = model.hidden_states

    def spy(ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        shapes.append(tuple(ids.shape))
        return original(ids, mask, positions)

    monkeypatch.setattr(model, "hidden_states", spy)
    with torch.no_grad():
        score_completions(model, *given, TEMPERATURE, cache_tokens)
    monkeypatch.undo()
    return shapes


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", [*FAMILIES, *WIDE_WINDOWS, *MORE])
def test_scores_and_gradients_are_those_of_each_completion_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, attention: Any
) -> None:
    for name, settings in (WIDE_WINDOWS | MORE).items():
        monkeypatch.setitem(FAMILIES, name, settings)
    attention = "eager" if family.startswith("gemma2") else attention
    model = embedder(tmp_path, family, attn_implementation=attention)
    given = sampled(model)
    assert_same(model, lambda: score_completions(model, *given, TEMPERATURE), lambda: plainly(model, *given))
    ((rows, _),) = passes(model, monkeypatch, given)
    assert rows == (len(given[1]) if family in APART else len(given[0]))


def test_cached_passes_keep_to_their_budget_and_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = embedder(tmp_path)
    given = sampled(model)
    whole = passes(model, monkeypatch, given)
    parts = passes(model, monkeypatch, given, cache_tokens=32)
    assert len(whole) == 1
    assert len(parts) > 2
    assert max(rows * width for rows, width in parts) <= 32
    assert_same(
        model,
        lambda: score_completions(model, *given, TEMPERATURE, cache_tokens=32),
        lambda: score_completions(model, *given, TEMPERATURE),
    )


def test_activations_are_computed_again_only_with_a_cache(tmp_path: Path) -> None:
    model = embedder(tmp_path)
    given = sampled(model)
    calls: list[int] = []
    model.causal_lm.base_model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    held: list[int] = []
    model.causal_lm.get_output_embeddings().register_forward_hook(lambda *given: held.append(len(given[2])))
    targets = sum(map(sum, given[2].counted))
    for cache_tokens, expected, most in ((None, 1, targets), (8192, 2, targets), (64, 4, 16)):
        calls.clear()
        held.clear()
        score_completions(model, *given, TEMPERATURE, cache_tokens).logprobs.sum().backward()
        assert len(calls) == expected
        assert max(held) == most


def adapted(folder: str, checkpointing: bool) -> ReasoningEmbedder:
    """A model in training, with adapters that change what it does."""
    model = ReasoningEmbedder(folder, lora=LoRA(r=2, dropout=0.0), gradient_checkpointing=checkpointing)
    model.build()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def test_adapters_are_trained_as_by_each_completion_alone(tmp_path: Path) -> None:
    model = adapted(make_model_folder(tmp_path / "m"), checkpointing=False)
    given = sampled(model)
    assert_same(model, lambda: score_completions(model, *given, TEMPERATURE), lambda: plainly(model, *given))


@pytest.mark.parametrize("cache_tokens", [None, 64])
def test_gradient_checkpointing_changes_nothing(tmp_path: Path, cache_tokens: int | None) -> None:
    folder = make_model_folder(tmp_path / "m")
    kept, saving = adapted(folder, checkpointing=False), adapted(folder, checkpointing=True)
    given = sampled(kept)
    scores, slopes = gradients(kept, lambda: score_completions(kept, *given, TEMPERATURE))
    again, recomputed = gradients(saving, lambda: score_completions(saving, *given, TEMPERATURE, cache_tokens))
    torch.testing.assert_close(again.logprobs, scores.logprobs, atol=1e-5, rtol=0)
    assert any("lora" in name for name in slopes)
    assert_same_slopes(recomputed, slopes)


def test_mixed_precision_gives_float32_scores_near_the_exact_ones(tmp_path: Path) -> None:
    model = embedder(tmp_path)
    given = sampled(model)
    exact = score_completions(model, *given, TEMPERATURE)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, slopes = gradients(model, lambda: score_completions(model, *given, TEMPERATURE, cache_tokens=64))
    assert mixed.logprobs.dtype == mixed.embeddings.dtype == mixed.entropy.dtype == torch.float32
    assert 0 < (mixed.logprobs - exact.logprobs).abs().max() < 0.3
    assert 0 < (mixed.embeddings - exact.embeddings).abs().max() < 0.05
    assert all(slope.isfinite().all() for slope in slopes.values())


def test_completions_without_counted_targets_have_embeddings_all_the_same(tmp_path: Path) -> None:
    model = embedder(tmp_path)
    prompts, end = [[7, 8, 9], [10, 11]], model.embed_token_id
    given = Completions([[end]] * 3, [[end]] * 3, [[False]] * 3)
    assert_same(
        model, lambda: score_completions(model, prompts, [0, 1, 0], given, TEMPERATURE),
        lambda: plainly(model, prompts, [0, 1, 0], given),
    )  # fmt: skip
    assert not score_completions(model, prompts, [0, 1, 0], given).logprobs.any()


def test_the_order_of_completions_changes_only_that_of_the_scores(tmp_path: Path) -> None:
    model = embedder(tmp_path)
    prompts, owners, given = sampled(model)
    order = [4, 8, 0, 2, 7, 1, 3, 6, 5]
    moved = Completions(*([column[number] for number in order] for column in given))
    with torch.no_grad():
        before = score_completions(model, prompts, owners, given)
        after = score_completions(model, prompts, [owners[number] for number in order], moved)
    for value, other in zip(after, before, strict=True):
        torch.testing.assert_close(value, other[order], atol=1e-5, rtol=0)


def test_entropy_has_no_gradient(tmp_path: Path) -> None:
    model = embedder(tmp_path)
    scores = score_completions(model, *sampled(model))
    assert scores.logprobs.requires_grad
    assert scores.embeddings.requires_grad
    assert not scores.entropy.requires_grad
