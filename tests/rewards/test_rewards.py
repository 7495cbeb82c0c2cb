import math

import pytest
import torch
from torch import Tensor, tensor

from srch3.errors import ConfigError
from srch3.rewards import (
    BaseReward,
    Contrastive,
    Format,
    Length,
    LogRank,
    Margin,
    RankingReward,
    RankMargin,
    ScaledDCG,
    SimilarityRank,
    Sum,
    Truncation,
)
from srch3.types import Outcome
from tests.rewards.outcomes import outcome, random_outcome

SCORES = tensor([[0.9, 0.8, 0.5], [0.7, 0.6, 0.4], [0.9, 0.3, 0.1]])
GRADES = tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
FOUND = outcome(SCORES, GRADES, positive_scores=tensor([0.8, 0.7, -0.2]))

RANKING: list[type[RankingReward]] = [ScaledDCG, LogRank, Margin, RankMargin, SimilarityRank, Contrastive]


# By hand


def test_scaled_dcg_by_hand() -> None:
    torch.testing.assert_close(ScaledDCG()(FOUND), tensor([0.8 / math.log2(3), 0.7, 0.0]))


def test_log_rank_by_hand() -> None:
    torch.testing.assert_close(LogRank(k=3)(FOUND), tensor([0.5, 1.0, 0.0]))


def test_log_rank_among_few_documents_is_that_of_lrem() -> None:
    torch.testing.assert_close(LogRank()(FOUND), tensor([1 - math.log(2) / math.log(3), 1.0, 0.0]))
    last = outcome(tensor([[0.9, 0.8, 0.5]]), tensor([[0.0, 0.0, 1.0]]))
    assert LogRank()(last).item() == 0
    assert LogRank(k=3)(last).item() == pytest.approx(1 - math.log(3) / math.log(4))


def test_margin_by_hand() -> None:
    torch.testing.assert_close(Margin()(FOUND), tensor([0.0, 0.1, 0.0]))
    torch.testing.assert_close(Margin(delta=0.04)(FOUND), tensor([0.0, 0.06, 0.0]))
    torch.testing.assert_close(Margin(delta=0.04, clipped=False)(FOUND), tensor([-0.14, 0.06, -1.14]))


def test_where_all_hits_are_relevant_the_last_one_bounds_the_negatives() -> None:
    judged = outcome(tensor([[0.9, 0.8]]), tensor([[1.0, 1.0]]))
    assert Margin()(judged).item() == pytest.approx(0.1)
    assert RankMargin()(judged).item() == pytest.approx(0.85 - 0.8)
    assert Margin(k=1, clipped=False)(judged).item() == 0


def test_rank_margin_by_hand() -> None:
    torch.testing.assert_close(RankMargin()(FOUND), tensor([0.8 - 0.7, 0.7 - 0.5, 0.0]))
    torch.testing.assert_close(RankMargin(top=1)(FOUND), tensor([0.0, 0.7 - 0.5, 0.0]))
    weight = 1 / (1 + math.exp((0.4 - 0.6) / 0.5))
    expected = 0.7 - (weight * 0.6 + (1 - weight) * 0.4)
    assert RankMargin(negative_temperature=0.5)(FOUND)[1].item() == pytest.approx(expected, abs=1e-6)


def test_rank_margin_counts_the_share_of_positives_that_come_early() -> None:
    judged = outcome(tensor([[0.9, 0.8, 0.6, 0.5]]), tensor([[1.0, 0.0, 2.0, 0.0]]))
    gap = (0.9 + 0.6) / 2 - (0.8 + 0.5) / 2
    assert RankMargin(top=1)(judged).item() == pytest.approx(gap)
    assert RankMargin(top=2)(judged).item() == pytest.approx(gap / 2)
    assert RankMargin(top=3)(judged).item() == pytest.approx(gap)


def test_similarity_rank_by_hand() -> None:
    rewards = SimilarityRank(gamma=0.1)(FOUND)
    first = 0.8 / (1 + math.log(2)) - 0.1 * (0.9 * -1 + 0.5 * (math.log(3) - 1))
    second = 0.7 - 0.1 * (0.6 * (math.log(2) - 1) + 0.4 * (math.log(3) - 1))
    third = -0.2 / (1 + math.log(4)) - 0.1 * (0.9 * -1 + 0.3 * (math.log(2) - 1) + 0.1 * (math.log(3) - 1))
    torch.testing.assert_close(rewards, tensor([first, second, third]))


def test_contrastive_by_hand() -> None:
    embeddings = tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, 0.6]])
    judged = outcome(
        tensor([[0.5, 0.2]] * 4),
        tensor([[1.0, 0.0]] * 4),
        [True, True, True, False],
        embeddings=embeddings,
        groups=tensor([5, 2, 5, 5]),
    )
    near, far = tensor([0.0, 0.0, 0.0]), tensor([0.6, 0.8, 0.8])
    expected = (0.3 + 0.2 * near - 0.2 * far) / 0.1
    torch.testing.assert_close(Contrastive()(judged), torch.cat([expected, tensor([-1.0])]))


def test_format_wants_a_thought_and_the_embed_token() -> None:
    judged = outcome(torch.zeros(4, 0), torch.zeros(4, 0), [True, False, True, True], thoughts=["a", "b", "", " \n"])
    assert Format()(judged).tolist() == [1, 0, 0, 0]


def test_length_is_that_of_the_thought() -> None:
    judged = outcome(
        torch.zeros(5, 0), torch.zeros(5, 0), [True, True, True, False, False], lengths=tensor([2, 3, 5, 4, 5])
    )
    assert Length(shortest=2, longest=4)(judged).tolist() == [0, 1, 1, 1, 0]
    assert Length()(judged).tolist() == [1] * 5


def test_truncation_costs_one() -> None:
    judged = outcome(torch.zeros(2, 0), torch.zeros(2, 0), truncated=tensor([True, False]))
    assert Truncation()(judged).tolist() == [-1, 0]


# Sums


def test_a_sum_adds_what_its_parts_earn_times_their_weights() -> None:
    judged = random_outcome()
    total = Sum([Format(weight=0.5), Length(longest=9, weight=0.2), LogRank(k=50), Truncation(weight=0.0)])
    expected = 0.5 * Format()(judged) + 0.2 * Length(longest=9)(judged) + LogRank(k=50)(judged)
    torch.testing.assert_close(total(judged), expected)
    parts = total.with_parts(judged)[1]
    assert list(parts) == ["format", "length", "log_rank", "truncation"]
    torch.testing.assert_close(parts["length"], Length(longest=9)(judged))
    torch.testing.assert_close(parts["truncation"], -judged.truncated.float())


def test_a_sum_searches_as_deep_as_any_part_wants() -> None:
    assert Sum([LogRank(k=7), ScaledDCG(k=30), Format()]).k == 30
    assert Sum([Format(), Length()]).k == 0


def test_parts_of_one_name_are_told_apart() -> None:
    judged = random_outcome()
    inner = Sum([Margin(delta=0.1), RankMargin()])
    parts = Sum([Margin(), inner, Margin(delta=0.2)]).with_parts(judged)[1]
    assert list(parts) == ["margin", "margin_2", "rank_margin", "margin_3"]
    torch.testing.assert_close(parts["margin_3"], Margin(delta=0.2)(judged))


def test_a_reward_with_parameters_is_part_of_the_module() -> None:
    class Learned(BaseReward):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(tensor(2.0))

        def judge(self, outcome: Outcome) -> Tensor:
            return self.scale * outcome.lengths

    total = Sum([Learned()])
    assert len(list(total.parameters())) == 1
    assert not total(random_outcome()).requires_grad


# Refusals


@pytest.mark.parametrize(
    ("kind", "arguments", "name"),
    [
        *[(kind, {"k": 0}, "k") for kind in RANKING],
        (ScaledDCG, {"k": -3}, "k"),
        *[(kind, {"missing": math.nan}, "missing") for kind in RANKING],
        *[(kind, {"weight": -1.0}, "weight") for kind in (ScaledDCG, Format, Length, Truncation)],
        (Margin, {"delta": math.inf}, "delta"),
        (RankMargin, {"top": 0}, "top"),
        (RankMargin, {"top": 101}, "top"),
        (RankMargin, {"negative_temperature": 0.0}, "negative_temperature"),
        (SimilarityRank, {"gamma": -0.1}, "gamma"),
        (Contrastive, {"consistency": -0.1}, "consistency"),
        (Contrastive, {"temperature": 0.0}, "temperature"),
        (Length, {"shortest": -1}, "shortest"),
        (Length, {"longest": -1}, "longest"),
    ],
)
def test_impossible_settings_are_refused_by_their_name(
    kind: type[BaseReward], arguments: dict[str, float], name: str
) -> None:
    (value,) = arguments.values()
    message = rf"^model\.init_args\.reward\.init_args\.{name}: expected [^\n]+; got {value} in {kind.__name__}; [^\n]+$"
    with pytest.raises(ConfigError, match=message):
        kind(**arguments)


def test_a_sum_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"reward\.init_args\.rewards: expected at least one reward; got none in Sum"):
        Sum([])


class Counting(BaseReward):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.calls = shape, 0

    def judge(self, outcome: Outcome) -> Tensor:
        self.calls += 1
        return torch.ones(self.shape)


def test_total_and_parts_are_judged_once() -> None:
    judged, reward = random_outcome(), Counting((len(random_outcome().emitted),))
    total, parts = Sum([reward, Truncation()]).with_parts(judged)
    torch.testing.assert_close(total, parts["counting"] + parts["truncation"])
    assert reward.calls == 1


@pytest.mark.parametrize("extra", [(), (1,)])
def test_a_reward_of_another_shape_is_named(extra: tuple[int, ...]) -> None:
    judged = random_outcome()
    count = len(judged.emitted)
    shape = (count, 1) if extra else ()
    with pytest.raises(ConfigError, match=r"model.init_args.reward: expected one number .* from Counting.judge"):
        Sum([Counting(shape)])(judged)
