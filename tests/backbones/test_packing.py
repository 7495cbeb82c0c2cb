import random
from typing import Any

import pytest
import torch
import transformers

from srch3.backbones import Completions
from srch3.backbones.packing import Unit, arrange, pack, pairs_per_token
from tests.models import SMALL

CPU = torch.device("cpu")


def completions(*lengths: int) -> Completions:
    inputs = [[100 + member] * length for member, length in enumerate(lengths)]
    return Completions(inputs, inputs, [[True] * length for length in lengths])


def test_each_completion_is_read_once_behind_its_own_prompt() -> None:
    rng = random.Random(0)
    prompts = [[number] * rng.randrange(1, 40) for number in range(6)]
    owners = [rng.randrange(6) for _ in range(40)]
    given = completions(*(rng.randrange(1, 30) for _ in owners))
    for token_cost in (0.0, 10.0, 200.0, 1e6):
        units = arrange(prompts, owners, given, token_cost, 8192)
        assert sorted(member for unit in units for member in unit.members) == list(range(40))
        for unit in units:
            assert all(unit.prompt is prompts[owners[member]] for member in unit.members)
            assert unit.length == len(unit.prompt) + sum(len(given.inputs[member]) for member in unit.members)
            assert token_cost or len(unit.members) == 1


def test_the_cheapest_number_of_copies_is_taken() -> None:
    # Prompt 20, completions 4·10. One copy costs 60k + 60², two 80k + 2·40², four 120k + 4·30².
    given, prompt = completions(10, 10, 10, 10), [[0] * 20]
    for token_cost, copies in ((0.0, 4), (10.0, 2), (19.0, 2), (21.0, 1)):
        assert len(arrange(prompt, [0] * 4, given, token_cost, 8192)) == copies
    # Prompt 1: four copies cost 44k + 4·11², three 43k + 3·14.3², two 42k + 2·21², one 41k + 41².
    for token_cost, copies in ((130.0, 4), (134.0, 3), (270.0, 2), (790.0, 2), (810.0, 1)):
        assert len(arrange([[0]], [0] * 4, given, token_cost, 8192)) == copies


def test_the_longest_are_spread_over_the_copies() -> None:
    units = arrange([[0] * 20], [0] * 5, completions(30, 2, 3, 31, 1), 40.0, 8192)
    assert sorted(unit.members for unit in units) == [[0, 2], [1, 3, 4]]


def test_shared_sequences_keep_to_the_budget() -> None:
    prompts, owners, given = [[0] * 20], [0] * 8, completions(*[10] * 8)
    assert [unit.length for unit in arrange(prompts, owners, given, 1e6, 8192)] == [100]
    assert max(unit.length for unit in arrange(prompts, owners, given, 1e6, 60)) <= 60
    assert [unit.length for unit in arrange(prompts, owners, given, 1e6, 20)] == [30] * 8


def test_a_pass_by_hand() -> None:
    given = Completions([[5, 6], [7], [8, 9]], [[5, 6], [7], [8, 9]], [[True, True], [False], [True, False]])
    packed = pack([Unit([1, 2], [0, 1], 5), Unit([3], [2], 3)], given, 0, CPU)
    assert packed.ids.tolist() == [[1, 2, 5, 6, 7], [3, 8, 9, 0, 0]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 2], [0, 1, 2, 0, 0]]
    assert packed.before.tolist() == [1, 2, 5]
    assert packed.last.tolist() == [3, 4, 7]
    assert packed.mask[:, 0].int().tolist() == [
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]],
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]],
    ]


def test_a_pass_without_shared_prompts_leaves_the_mask_to_the_model() -> None:
    packed = pack([Unit([1, 2], [1], 3), Unit([1, 2], [0], 4)], completions(2, 1), 0, CPU)
    assert packed.mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def model(name: str = "LlamaConfig", attention: str = "sdpa", **settings: Any) -> transformers.PreTrainedModel:
    config = getattr(transformers, name)(**SMALL, vocab_size=50, pad_token_id=0, eos_token_id=1, **settings)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def test_the_cost_of_a_token_counts_multiplications() -> None:
    # A layer: queries and outputs 2·32·32, keys and values 2·32·16, feed-forward 3·32·64, norms 2·32; a pair: 2·32.
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32
    assert pairs_per_token(model(), 100) == pytest.approx((2 * layer + 32) / (2 * 64))


def test_prompts_are_not_shared_where_that_would_change_anything() -> None:
    assert pairs_per_token(model("MistralConfig", sliding_window=8), 8) > 0
    assert pairs_per_token(model("MistralConfig", sliding_window=8), 9) == 0
    assert pairs_per_token(model("OlmoConfig"), 8) == 0
    other = model(attention="eager")
    assert pairs_per_token(other, 8) > 0
    other.config._attn_implementation = "flash_attention_2"
    assert pairs_per_token(other, 8) == 0


def test_units_do_not_depend_on_the_order_of_groups() -> None:
    given = completions(4, 5, 6, 7)
    ordered = arrange([[0] * 9, [1] * 9], [0, 0, 1, 1], given, 1e6, 8192)
    mixed = arrange([[0] * 9, [1] * 9], [0, 1, 0, 1], given, 1e6, 8192)
    assert [unit.members for unit in ordered] == [[0, 1], [2, 3]]
    assert [unit.members for unit in mixed] == [[0, 2], [1, 3]]
