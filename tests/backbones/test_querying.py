from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from srch3.backbones import ReasoningEmbedder, generate, querying
from srch3.backbones.querying import QueryEmbedder, parse_mode
from srch3.errors import ConfigError
from srch3.modules import SFTModule
from srch3.types import Mode
from tests.toy import toy_embedder

TEXTS = ["parse a date", "file", "sort and merge lists", "hash", "read a stream of bytes", "node", "lock a thread"]
ALL = ["thinking", "direct", "empty", "shuffled", "copied", "mean-3", "budget-2"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> ReasoningEmbedder:
    """Its thoughts end at different times: the embed token is likely where some of its other tokens were."""
    embedder = toy_embedder(tmp_path_factory.mktemp("model"), max_thought_tokens=8)
    embedder.build()
    embedder.eval()
    thoughts = generate(embedder, embedder.tokenize(TEXTS, "thinking"), temperature=0.0).completions.inputs
    rows: Any = embedder.causal_lm.get_input_embeddings().weight
    with torch.no_grad():
        rows[embedder.embed_token_id] = 0.4 * sum(rows[tokens[place]] for place, tokens in enumerate(thoughts, start=1))
    return embedder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Samples, temperature and longest thought of each generation."""
    seen: list[tuple[Any, ...]] = []

    def spy(embedder: Any, prompts: Any, samples: int, temperature: float, limit: Any = None, **more: Any) -> Any:
        seen.append((samples, temperature, limit))
        return generate(embedder, prompts, samples, temperature, limit, **more)

    monkeypatch.setattr(querying, "generate", spy)
    return seen


def embed(backbone: ReasoningEmbedder, texts: list[str], *modes: Mode, seed: int = 0) -> Any:
    with torch.no_grad():
        return QueryEmbedder(backbone, seed).embed(texts, modes)


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, atol=1e-5, rtol=0)


def test_modes_are_taken_apart() -> None:
    assert parse_mode("thinking", 8) == ("thinking", 0)
    assert parse_mode("mean-16", 8) == ("mean", 16)
    assert parse_mode("budget-8", 8) == ("budget", 8)


@pytest.mark.parametrize(
    "mode", ["thinkin", "", "mean", "mean-0", "mean-", "budget--1", "budget-2x", "mean-04", "Direct"]
)
def test_unknown_modes_are_refused(mode: str, backbone: ReasoningEmbedder) -> None:
    expected = (
        "model.init_args.modes: expected one of 'thinking', 'direct', 'empty', 'shuffled', 'copied', 'mean-N' and"
    )
    with pytest.raises(ConfigError, match=expected) as refusal:
        SFTModule(backbone, modes=["thinking", mode])
    assert repr(mode) in str(refusal.value)


def test_a_budget_beyond_the_longest_thought_is_refused(backbone: ReasoningEmbedder) -> None:
    with pytest.raises(ConfigError, match=r"modes: expected a budget of at most 8 tokens, .* got 'budget-9'"):
        SFTModule(backbone, modes=["budget-9"])


def test_thinking_is_the_likeliest_thought(backbone: ReasoningEmbedder) -> None:
    rollouts = generate(backbone, backbone.tokenize(TEXTS, "thinking"), temperature=0.0)
    thinking = embed(backbone, TEXTS, "thinking")["thinking"]
    close(thinking.embeddings, rollouts.embeddings)
    assert thinking.thoughts == [backbone.decode_thought(tokens) for tokens in rollouts.completions.inputs]
    assert thinking.lengths == [len(tokens) for tokens in rollouts.completions.inputs]
    assert thinking.emitted == rollouts.emitted.tolist()
    assert len(set(thinking.lengths)) > 2
    assert set(thinking.emitted) == {True, False}


@pytest.mark.parametrize("budget", [1, 2, 5, 8])
@pytest.mark.parametrize("also", [(), ("thinking",), ("budget-7",)])
def test_a_budget_ends_thoughts_as_generation_would(
    budget: int, also: tuple[str, ...], backbone: ReasoningEmbedder
) -> None:
    prompts = backbone.tokenize(TEXTS, "thinking")
    expected = generate(backbone, prompts, temperature=0.0, max_tokens=budget)
    embedded = embed(backbone, TEXTS, *also, f"budget-{budget}")[f"budget-{budget}"]
    close(embedded.embeddings, expected.embeddings)
    assert embedded.lengths == [len(tokens) for tokens in expected.completions.inputs]
    assert embedded.emitted == expected.emitted.tolist()
    assert embedded.thoughts == [backbone.decode_thought(tokens) for tokens in expected.completions.inputs]


def test_a_small_budget_changes_long_thoughts_alone(backbone: ReasoningEmbedder) -> None:
    embedded = embed(backbone, TEXTS, "thinking", "budget-4")
    moved = (embedded["thinking"].embeddings - embedded["budget-4"].embeddings).abs().amax(1) > 1e-4
    assert moved.tolist() == [length > 5 for length in embedded["thinking"].lengths]
    assert 0 < moved.sum() < len(TEXTS)


def test_a_mean_is_that_of_sampled_thoughts_which_depend_on_seed_and_text(backbone: ReasoningEmbedder) -> None:
    embedded = embed(backbone, TEXTS, "mean-3", "mean-2")
    for row, text in enumerate(TEXTS):
        alone = embed(backbone, [text], "mean-1", "mean-2", "mean-3")
        close(embedded["mean-2"].embeddings[row], alone["mean-2"].embeddings[0])
        close(embedded["mean-3"].embeddings[row], alone["mean-3"].embeddings[0])
        first = alone["mean-1"].embeddings[0]
        assert alone["mean-1"].thoughts[0] == embedded["mean-3"].thoughts[row].split("\n")[0]
        assert (first - alone["mean-2"].embeddings[0]).abs().max() > 1e-4
    backwards = embed(backbone, TEXTS[::-1], "mean-3")["mean-3"]
    close(backwards.embeddings.flip(0), embedded["mean-3"].embeddings)
    assert backwards.thoughts[::-1] == embedded["mean-3"].thoughts
    assert embed(backbone, TEXTS, "mean-3", seed=1)["mean-3"].thoughts != embedded["mean-3"].thoughts


def test_a_mean_is_normalised_over_the_embeddings_of_its_thoughts(
    backbone: ReasoningEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []

    def keep(*args: Any, **more: Any) -> Any:
        kept.append(generate(*args, **more))
        return kept[-1]

    monkeypatch.setattr(querying, "generate", keep)
    embedded = embed(backbone, TEXTS, "mean-3", "mean-2")
    (rollouts,) = kept
    for row in range(len(TEXTS)):
        for mode, count in (("mean-2", 2), ("mean-3", 3)):
            vectors = rollouts.embeddings[3 * row : 3 * row + count]
            close(embedded[mode].embeddings[row], vectors.mean(0) / vectors.mean(0).norm())
            own = slice(3 * row, 3 * row + count)
            assert embedded[mode].lengths[row] == sum(len(tokens) for tokens in rollouts.completions.inputs[own])
            assert embedded[mode].emitted[row] == all(rollouts.emitted[own].tolist())


def test_controls_are_given_what_they_are_named_after(backbone: ReasoningEmbedder) -> None:
    prompts = backbone.tokenize(TEXTS, "thinking")
    embedded = embed(backbone, TEXTS, "direct", "empty", "copied")
    end = backbone.embed_token_id
    with torch.no_grad():
        close(embedded["direct"].embeddings, backbone.embed(backbone.tokenize(TEXTS, "direct")))
        close(embedded["empty"].embeddings, backbone.embed([[*prompt, end] for prompt in prompts]))
        copies = [backbone.tokenizer(f" {text}", add_special_tokens=False)["input_ids"][:7] for text in TEXTS]
        close(
            embedded["copied"].embeddings,
            backbone.embed([[*prompt, *copy, end] for prompt, copy in zip(prompts, copies, strict=True)]),
        )
    assert embedded["copied"].thoughts[1] == "file"
    assert embedded["copied"].lengths == [len(copy) + 1 for copy in copies]
    assert max(embedded["copied"].lengths) == 8 < len(backbone.tokenizer(TEXTS[4])["input_ids"])
    assert embedded["direct"].thoughts == embedded["empty"].thoughts == [""] * len(TEXTS)
    assert embedded["direct"].lengths == embedded["empty"].lengths == [1] * len(TEXTS)
    assert not any(flag for mode in embedded.values() for flag in mode.emitted)


@pytest.mark.parametrize("sizes", [[7], [2, 2, 2, 1], [1, 1, 1, 1, 1, 1, 1], [3, 4], [1, 6]])
def test_a_shuffled_thought_is_never_the_querys_own(sizes: list[int], backbone: ReasoningEmbedder) -> None:
    own = embed(backbone, TEXTS, "thinking")["thinking"].thoughts
    queries = QueryEmbedder(backbone, 0)
    for _ in range(2):
        queries.begin()
        given, texts = [], list(TEXTS)
        for size in sizes:
            some, texts = texts[:size], texts[size:]
            with torch.no_grad():
                given += queries.embed(some, ["shuffled"])["shuffled"].thoughts
        first = own[sizes[0] - 1] if sizes[0] > 1 else ""
        assert given == [first, *own[:-1]]
        assert sum(one != other for one, other in zip(given, own, strict=True)) >= 5  # two thoughts may be alike


def test_a_shuffled_thought_is_read_after_the_prompt_of_its_new_query(backbone: ReasoningEmbedder) -> None:
    prompts = backbone.tokenize(TEXTS, "thinking")
    completions = generate(backbone, prompts, temperature=0.0).completions.inputs
    mixed = [[*prompt, *completions[row - 1]] for row, prompt in enumerate(prompts)]
    with torch.no_grad():
        close(embed(backbone, TEXTS, "shuffled")["shuffled"].embeddings, backbone.embed(mixed))


def test_no_thought_is_written_twice(backbone: ReasoningEmbedder, calls: list[tuple[Any, ...]]) -> None:
    embed(backbone, TEXTS, *ALL, "mean-5", "budget-3")
    assert calls == [(1, 0.0, None), (5, 1.0, None)]
    calls.clear()
    embed(backbone, TEXTS, "budget-2", "budget-4", "copied")
    assert calls == [(1, 0.0, 4)]
    calls.clear()
    embed(backbone, TEXTS, "direct", "empty", "copied")
    assert calls == []


def test_modes_do_not_disturb_each_other(backbone: ReasoningEmbedder) -> None:
    together = embed(backbone, TEXTS, *ALL)
    assert list(together) == ALL
    for mode in ALL:
        alone = embed(backbone, TEXTS, mode)[mode]
        close(together[mode].embeddings, alone.embeddings)
        assert together[mode][1:] == alone[1:]
    vectors = torch.stack([together[mode].embeddings for mode in ALL])
    apart = (vectors[:, None] - vectors).abs().amax((2, 3))
    assert (apart + torch.eye(len(ALL)) > 1e-3).all()


def test_another_model_may_read_what_this_one_writes(tmp_path: Path) -> None:
    embedder = toy_embedder(tmp_path, max_thought_tokens=8)
    embedder.build()
    embedder.eval()
    embedder.remember()
    with torch.no_grad():
        for parameter in embedder.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        prompts = embedder.tokenize(TEXTS, "thinking")
        written = QueryEmbedder(embedder, 0).embed(TEXTS, ALL)
        read = QueryEmbedder(embedder, 0).embed(TEXTS, ALL, embedder.as_remembered)
        completions = generate(embedder, prompts, temperature=0.0).completions.inputs
        with embedder.as_remembered():
            other = embedder.embed([[*prompt, *some] for prompt, some in zip(prompts, completions, strict=True)])
            assert generate(embedder, prompts, temperature=0.0).completions.inputs != completions
    close(read["thinking"].embeddings, other)
    for mode in ALL:
        assert read[mode].thoughts == written[mode].thoughts
        assert (read[mode].embeddings - written[mode].embeddings).abs().max() > 1e-3
