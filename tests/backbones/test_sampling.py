import pytest
import torch

from srch3.backbones.sampling import _running_sums, _triangular_sums, choose, draw_uniforms


def test_uniform_numbers_depend_on_seed_sample_and_position_alone() -> None:
    some = draw_uniforms([5, 2**63 - 1], samples=2, positions=3).view(2, 2, 3)
    more = draw_uniforms([9, 2**63 - 1, 5], samples=4, positions=10).view(3, 4, 10)
    assert torch.equal(some[0], more[2, :2, :3])
    assert torch.equal(some[1], more[1, :2, :3])
    assert len(set(more.flatten().tolist())) == 120
    assert ((more >= 0) & (more < 1)).all()


def test_tokens_follow_the_softmax_at_the_temperature() -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0, 0.0, 1.0, -torch.inf, 0.3, -2.0]])
    uniforms = draw_uniforms([3, 4], samples=10, positions=1000).flatten()
    for temperature in (1.0, 0.5, 2.0):
        tokens = choose(logits.expand(len(uniforms), -1), temperature, uniforms).tokens
        expected = (logits[0] / temperature).softmax(0) * len(uniforms)
        counts = tokens.bincount(minlength=8)
        possible = expected > 0
        assert counts[5] == 0
        chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
        assert chi_square < 22.5  # the 0.999 quantile with 6 degrees of freedom


@pytest.mark.parametrize("vocabulary", [1, 100, 128, 129, 1000])
def test_tokens_equal_those_of_one_long_cumulative_sum(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(200, vocabulary, generator=generator) * 3
    uniforms = torch.rand(200, dtype=torch.float64, generator=generator)
    chosen = choose(logits, 0.7, uniforms)
    cumulative = (logits.double() / 0.7).softmax(1).cumsum(1)
    assert chosen.tokens.tolist() == (cumulative < uniforms[:, None]).sum(1).tolist()
    expected = (logits / 0.7).log_softmax(1).gather(1, chosen.tokens[:, None])[:, 0]
    torch.testing.assert_close(chosen.logprobs, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("vocabulary", [5, 128, 300])
def test_impossible_tokens_are_never_taken_at_either_end(vocabulary: int) -> None:
    for possible in range(0, vocabulary, 3):
        logits = torch.full((2, vocabulary), -torch.inf)
        logits[:, possible] = 1.0
        extremes = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
        assert choose(logits, 1.0, extremes).tokens.tolist() == [possible] * 2


def test_rare_tokens_of_a_large_vocabulary_keep_their_share() -> None:
    vocabulary = 150_001
    uniforms = (torch.arange(vocabulary, dtype=torch.float64)[-2000:] + 0.5) / vocabulary
    tokens = choose(torch.zeros(1, vocabulary).expand(2000, -1), 1.0, uniforms).tokens
    assert tokens.tolist() == list(range(vocabulary - 2000, vocabulary))


def test_zero_temperature_takes_the_likeliest_token_and_its_probability_at_one() -> None:
    chosen = choose(torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, -1.0]]), 0.0)
    assert chosen.tokens.tolist() == [1, 0]
    torch.testing.assert_close(chosen.logprobs, torch.tensor([-0.407606, -0.551445]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_a_number_gives_a_token_and_no_probability(value: float) -> None:
    chosen = choose(torch.full((1, 300), value), 1.0, torch.tensor([0.5], dtype=torch.float64))
    assert 0 <= int(chosen.tokens) < 300
    assert chosen.logprobs.isnan().all()


def test_running_sums_by_a_product_are_those_by_adding_up() -> None:
    values = torch.rand(5, 300, generator=torch.Generator().manual_seed(0))
    expected = values.double().cumsum(1)
    torch.testing.assert_close(_triangular_sums(values), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(_running_sums(values), expected, atol=0, rtol=0)
