import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from srch3.backbones import LoRA, ReasoningEmbedder, Rollouts, generate
from srch3.backbones.decoding import PlainDecoder, SharedDecoder, attends_to_all, start
from srch3.errors import NumericError
from tests.models import FAMILIES, make_model_folder

TEXTS = ["parse a date", "the quick brown fox jumps over the lazy dog while reading", "embeddings", "raise an error"]
SEEDS = [11, 12, 13, 14]
SLIDING = {"mistral", "gemma2"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    folders = {family: make_model_folder(root / family, family) for family in FAMILIES}
    for family in SLIDING:
        folder = Path(make_model_folder(root / f"wide_{family}", family))
        config = json.loads((folder / "config.json").read_text())
        config |= {"sliding_window": 512} | ({"attn_logit_softcapping": 0.5} if family == "gemma2" else {})
        (folder / "config.json").write_text(json.dumps(config))
        folders[f"wide_{family}"] = str(folder)
    return folders


def built(model: str, **settings: object) -> ReasoningEmbedder:
    embedder = ReasoningEmbedder(model, **settings)  # type: ignore[arg-type]
    embedder.build()
    return embedder.eval()


def likely_to_stop(embedder: ReasoningEmbedder, bonus: float = 3.0) -> ReasoningEmbedder:
    """Completions end at different times."""

    def more(module: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> Tensor:
        return logits + bonus * (torch.arange(logits.shape[-1]) == embedder.embed_token_id)

    embedder.causal_lm.get_output_embeddings().register_forward_hook(more)
    return embedder


@contextmanager
def passes(embedder: ReasoningEmbedder) -> Iterator[list[tuple[int, ...]]]:
    """The shapes of what the model reads."""
    shapes: list[tuple[int, ...]] = []
    matrix = embedder.causal_lm.get_input_embeddings()
    hook = matrix.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    yield shapes
    hook.remove()


def assert_equals_teacher_forcing(
    embedder: ReasoningEmbedder, prompts: Sequence[list[int]], rollouts: Rollouts, temperature: float
) -> None:
    """One sequence at a time, without padding and without a cache."""
    samples = len(rollouts.logprobs) // len(prompts)
    completions = rollouts.completions
    for number, logprobs in enumerate(rollouts.logprobs):
        prompt, inputs = prompts[number // samples], completions.inputs[number]
        ids = torch.tensor([[*prompt, *inputs]])
        with torch.no_grad():
            logits = embedder.causal_lm(input_ids=ids).logits[0] / (temperature or 1.0)
            hidden = embedder.causal_lm.base_model(input_ids=ids).last_hidden_state[0, -1]
        targets = torch.tensor(completions.targets[number])[:, None]
        expected = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, targets)[:, 0]
        counted = torch.tensor(completions.counted[number])
        torch.testing.assert_close(logprobs, expected[counted], atol=1e-5, rtol=0)
        torch.testing.assert_close(
            rollouts.embeddings[number], torch.nn.functional.normalize(hidden, dim=0), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("family", [*FAMILIES, "wide_mistral", "wide_gemma2"])
def test_rollouts_equal_a_teacher_forced_pass(folders: dict[str, str], family: str, temperature: float) -> None:
    embedder = likely_to_stop(built(folders[family], max_thought_tokens=12))
    prompts = embedder.tokenize(TEXTS, "thinking")
    assert attends_to_all(embedder.causal_lm, 64) == (family not in SLIDING)
    lengths = set()
    for some, samples in ((prompts, 4), (prompts[:2], 2)):
        seeds = SEEDS[: len(some)] if temperature else None
        rollouts = generate(embedder, some, samples, temperature, seeds=seeds)
        assert_equals_teacher_forcing(embedder, some, rollouts, temperature)
        if temperature:
            assert len({tuple(tokens) for tokens in rollouts.completions.inputs}) > samples
        lengths |= {len(logprobs) for logprobs in rollouts.logprobs}
    assert temperature == 0 or len(lengths) > 1


def test_with_adapters_rollouts_equal_a_teacher_forced_pass(folders: dict[str, str]) -> None:
    embedder = likely_to_stop(built(folders["qwen2"], max_thought_tokens=8, lora=LoRA(r=2)))
    prompts = embedder.tokenize(TEXTS, "thinking")
    assert_equals_teacher_forcing(embedder, prompts, generate(embedder, prompts, 3, 1.0, seeds=SEEDS), 1.0)


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "gemma2"])
def test_completions_do_not_depend_on_what_is_generated_beside_them(folders: dict[str, str], family: str) -> None:
    embedder = likely_to_stop(built(folders[family], max_thought_tokens=12))
    prompts = embedder.tokenize(TEXTS, "thinking")
    together = generate(embedder, prompts, 5, 1.0, seeds=SEEDS)
    expected = [together.completions.targets[row * 5 : row * 5 + 5] for row in range(4)]
    backwards = generate(embedder, prompts[::-1], 5, 1.0, seeds=SEEDS[::-1])
    assert [backwards.completions.targets[row * 5 : row * 5 + 5] for row in (3, 2, 1, 0)] == expected
    for row in range(4):
        alone = generate(embedder, [prompts[row]], 2, 1.0, seeds=[SEEDS[row]])
        assert alone.completions.targets == expected[row][:2]
        torch.testing.assert_close(alone.embeddings, together.embeddings[row * 5 : row * 5 + 2], atol=1e-5, rtol=0)
    for budget in (16, 200):  # several batches; one batch, whose prompts are read in several passes
        embedder.tokens_per_batch = budget
        with passes(embedder) as shapes:
            batches = generate(embedder, prompts, 5, 1.0, seeds=SEEDS)
        assert sum(width > 1 for _, width in shapes) == 4
        assert (max(rows for rows, _ in shapes) == 20) == (budget == 200 and family != "gemma2")
        assert batches.completions == together.completions
        torch.testing.assert_close(batches.embeddings, together.embeddings, atol=1e-5, rtol=0)
        assert torch.equal(batches.truncated, together.truncated)
        torch.testing.assert_close(torch.cat(batches.logprobs), torch.cat(together.logprobs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["qwen2", "mistral"])
def test_prompts_are_read_once_and_finished_sequences_leave_at_once(folders: dict[str, str], family: str) -> None:
    embedder = likely_to_stop(built(folders[family], max_thought_tokens=12))
    prompts = embedder.tokenize(TEXTS, "thinking")
    with passes(embedder) as shapes:
        rollouts = generate(embedder, prompts, 5, 1.0, seeds=SEEDS)
    read = [len(tokens) for tokens in rollouts.completions.inputs]
    assert shapes[0] == (4, max(map(len, prompts)))
    assert shapes[1:] == [(sum(length > step for length in read), 1) for step in range(max(read))]
    assert any(before != after for before, after in pairwise(shapes[1:]))


def test_a_prompt_is_stored_once_where_several_sequences_share_it(folders: dict[str, str]) -> None:
    shared, plain = built(folders["qwen2"]), built(folders["mistral"])
    prompts = shared.tokenize(TEXTS, "thinking")
    with torch.no_grad():
        decoder = start(shared, prompts, 2, 5)
        assert isinstance(decoder, SharedDecoder)
        assert decoder._layers[0].prompt_keys.shape[0] == 4
        assert decoder._layers[0].own_keys.shape[:3] == (8, 2, 5)
        assert isinstance(start(shared, prompts[:1], 2, 5), PlainDecoder)
        assert isinstance(start(plain, prompts, 2, 5), PlainDecoder)


def test_greedy_rollouts_equal_transformers_generate(folders: dict[str, str]) -> None:
    embedder = built(folders["qwen2"], max_thought_tokens=10)
    prompts = embedder.tokenize(TEXTS, "thinking")
    for some in (prompts, prompts * 2):
        rollouts = generate(embedder, some, temperature=0.0)
        for prompt, targets, counted in zip(
            some, rollouts.completions.targets, rollouts.completions.counted, strict=True
        ):
            expected = embedder.causal_lm.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                do_sample=False,
                max_new_tokens=10,
                eos_token_id=embedder.stop_ids,
            )[0, len(prompt) :]
            assert [token for token, counts in zip(targets, counted, strict=True) if counts] == expected.tolist()


def test_stop_tokens_end_a_thought_and_the_embed_token_is_forced(folders: dict[str, str]) -> None:
    embedder = built(folders["qwen2"], max_thought_tokens=6)
    prompts = embedder.tokenize(TEXTS, "thinking")
    head = embedder.causal_lm.get_output_embeddings()

    def only(token: int) -> None:
        def forward(hidden: torch.Tensor) -> torch.Tensor:
            logits = torch.full((len(hidden), head.weight.shape[0]), -50.0)
            logits[:, token] = 50.0
            return logits

        head.forward = forward

    eos = int(embedder.tokenizer.eos_token_id)  # type: ignore[arg-type]
    only(eos)
    ended = generate(embedder, prompts, seeds=SEEDS)
    assert ended.completions.inputs == [[embedder.embed_token_id]] * 4
    assert ended.completions.targets == [[eos]] * 4
    assert ended.completions.counted == [[True]] * 4
    assert not ended.emitted.any()
    assert not ended.truncated.any()
    only(embedder.embed_token_id)
    emitting = generate(embedder, prompts, seeds=SEEDS)
    assert emitting.emitted.all()
    assert not emitting.truncated.any()
    assert emitting.completions.targets == [[embedder.embed_token_id]] * 4
    only(77)
    endless = generate(embedder, prompts, seeds=SEEDS)
    assert endless.completions.inputs == [[77] * 6 + [embedder.embed_token_id]] * 4
    assert endless.completions.counted == [[True] * 6 + [False]] * 4
    assert [len(row) for row in endless.logprobs] == [6] * 4
    assert not endless.emitted.any()
    assert endless.truncated.all()


def test_a_thought_that_ends_with_its_last_token_is_not_truncated(folders: dict[str, str]) -> None:
    embedder = likely_to_stop(built(folders["qwen2"], max_thought_tokens=12), bonus=1.0)
    prompts = embedder.tokenize(TEXTS, "thinking")
    rollouts = generate(embedder, prompts, 8, seeds=SEEDS)
    limit = int(max(len(row) for row, cut in zip(rollouts.logprobs, rollouts.truncated, strict=True) if not cut))
    again = generate(embedder, prompts, 8, seeds=SEEDS, max_tokens=limit)
    for length, emitted, truncated, targets in zip(
        map(len, again.logprobs), again.emitted, again.truncated, again.completions.targets, strict=True
    ):
        assert truncated == (length == limit and not any(token in embedder.stop_ids for token in targets[:length]))
        assert not (emitted and truncated)
    assert any(len(row) == limit and not cut for row, cut in zip(again.logprobs, again.truncated, strict=True))


def test_a_budget_cuts_the_same_thought_short(folders: dict[str, str]) -> None:
    embedder = likely_to_stop(built(folders["llama"], max_thought_tokens=9))
    prompts = embedder.tokenize(TEXTS, "thinking")
    whole = generate(embedder, prompts, 4, seeds=SEEDS)
    for budget in (1, 4):
        cut = generate(embedder, prompts, 4, seeds=SEEDS, max_tokens=budget)
        for long, short in zip(whole.completions.targets, cut.completions.targets, strict=True):
            assert short[:budget] == long[:budget]
            assert len(short) == len(long) or short[budget:] == [embedder.embed_token_id]


def test_no_thought_equals_the_prompt_followed_by_the_embed_token(folders: dict[str, str]) -> None:
    embedder = built(folders["llama"])
    for prompts in (embedder.tokenize(TEXTS, "thinking"), embedder.tokenize(TEXTS * 2, "thinking")):
        with torch.no_grad():
            expected = embedder.embed([[*prompt, embedder.embed_token_id] for prompt in prompts])
        rollouts = generate(embedder, prompts, temperature=0.0, max_tokens=0)
        torch.testing.assert_close(rollouts.embeddings, expected, atol=1e-5, rtol=0)
        assert rollouts.completions.inputs == [[embedder.embed_token_id]] * len(prompts)
        assert rollouts.completions.counted == [[False]] * len(prompts)
        assert [len(row) for row in rollouts.logprobs] == [0] * len(prompts)


@pytest.mark.parametrize("precision", ["autocast", "bfloat16"])
def test_half_precision_changes_embeddings_little(folders: dict[str, str], precision: str) -> None:
    exact = built(folders["qwen2"])
    embedder = built(folders["qwen2"], dtype="bfloat16" if precision == "bfloat16" else "float32")
    prompts = exact.tokenize(TEXTS * 2, "thinking")
    expected = generate(exact, prompts, temperature=0.0, max_tokens=1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
        found = generate(embedder, prompts, temperature=0.0, max_tokens=1)
    assert found.embeddings.dtype == found.logprobs[0].dtype == torch.float32
    same = [a == b for a, b in zip(found.completions.inputs, expected.completions.inputs, strict=True)]
    assert sum(same) >= 4
    assert ((found.embeddings * expected.embeddings).sum(1)[torch.tensor(same)] > 0.99).all()


def test_training_goes_on_after_rollouts_in_mixed_precision(folders: dict[str, str]) -> None:
    embedder = built(folders["qwen2"], max_thought_tokens=3).train()
    prompts = embedder.tokenize(TEXTS, "thinking")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rollouts = generate(embedder, prompts, 2, seeds=SEEDS)
        logits = embedder.logits(
            embedder.hidden_states(*(torch.tensor([[5, 6]]), torch.ones(1, 2), torch.arange(2)[None]))
        )
        (logits.logsumexp(-1).sum() * rollouts.embeddings.sum() * torch.cat(rollouts.logprobs).sum()).backward()
    gradients = [parameter.grad for parameter in embedder.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_diverged_weights_are_named_and_the_model_is_left_as_it_was(
    folders: dict[str, str], temperature: float
) -> None:
    embedder = built(folders["qwen2"], max_thought_tokens=4).train()
    prompts = embedder.tokenize(TEXTS * 2, "thinking")
    with torch.no_grad():
        embedder.causal_lm.get_output_embeddings().weight.fill_(torch.nan)
    with pytest.raises(NumericError, match="weights have diverged"):
        generate(embedder, prompts, temperature=temperature, seeds=range(8))
    assert embedder.training
    assert embedder.causal_lm.config._attn_implementation == "sdpa"


def test_the_model_is_left_as_it_was_when_a_pass_fails(folders: dict[str, str]) -> None:
    embedder = built(folders["qwen2"], max_thought_tokens=4).train()
    prompts = embedder.tokenize(TEXTS * 2, "thinking")

    def fail(module: nn.Module, inputs: tuple[Tensor]) -> None:
        if embedder.causal_lm.config._attn_implementation != "sdpa":
            raise MemoryError

    embedder.causal_lm.get_input_embeddings().register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        generate(embedder, prompts, samples=2, temperature=0.0)
    assert embedder.training
    assert embedder.causal_lm.config._attn_implementation == "sdpa"


def test_sampling_needs_a_seed_for_each_prompt(folders: dict[str, str]) -> None:
    embedder = built(folders["qwen2"])
    prompts = embedder.tokenize(TEXTS, "thinking")
    for seeds in (None, [1, 2]):
        with pytest.raises(ValueError, match="seeds: expected one per prompt"):
            generate(embedder, prompts, seeds=seeds)
