import math

import pytest
import torch
from torch import Tensor, tensor

from srch3.errors import ConfigError
from srch3.rewards import BaseReward, LogRank, ScaledDCG
from srch3.types import Hits, Outcome


def outcome(scores: Tensor, grades: Tensor, emitted: list[bool] | None = None) -> Outcome:
    count, hits = scores.shape
    rows = torch.arange(hits).expand(count, hits)
    arrived = torch.ones(count, dtype=torch.bool) if emitted is None else tensor(emitted)
    return Outcome(Hits(rows, scores), grades, arrived, torch.full((count,), 7), torch.zeros(count, dtype=torch.long))


SCORES = tensor([[0.9, 0.8, 0.5], [0.7, 0.6, 0.4], [0.9, 0.3, 0.1]])
GRADES = tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])


def test_scaled_dcg_by_hand() -> None:
    rewards = ScaledDCG()(outcome(SCORES, GRADES))
    torch.testing.assert_close(rewards, tensor([0.8 / math.log2(3), 0.7, 0.0]))


def test_log_rank_by_hand() -> None:
    rewards = LogRank(k=3)(outcome(SCORES, GRADES))
    torch.testing.assert_close(rewards, tensor([0.5, 1.0, 0.0]))


def test_only_the_first_k_hits_are_judged() -> None:
    assert ScaledDCG(k=1)(outcome(SCORES, GRADES)).tolist() == pytest.approx([0.0, 0.7, 0.0])
    assert LogRank(k=1)(outcome(SCORES, GRADES)).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("reward", [ScaledDCG, LogRank])
def test_completions_without_the_embed_token_earn_what_is_set(reward: type[BaseReward]) -> None:
    judged = outcome(SCORES, GRADES, [True, False, True])
    assert reward()(judged)[1].item() == 0
    assert reward(missing=-0.5)(judged)[1].item() == -0.5
    torch.testing.assert_close(reward(missing=-0.5)(judged)[[0, 2]], reward()(outcome(SCORES, GRADES))[[0, 2]])


@pytest.mark.parametrize("reward", [ScaledDCG, LogRank])
def test_what_a_missing_search_holds_does_not_matter(reward: type[BaseReward]) -> None:
    scores = SCORES.clone()
    scores[1] = torch.nan
    assert reward()(outcome(scores, GRADES, [True, False, True])).isfinite().all()


@pytest.mark.parametrize("reward", [ScaledDCG, LogRank])
def test_rewards_carry_no_gradient(reward: type[BaseReward]) -> None:
    assert not reward()(outcome(SCORES.clone().requires_grad_(), GRADES)).requires_grad


@pytest.mark.parametrize("reward", [ScaledDCG, LogRank])
@pytest.mark.parametrize(("arguments", "name"), [({"k": 0}, "k"), ({"k": -3}, "k"), ({"missing": math.nan}, "missing")])
def test_impossible_settings_are_refused_by_their_name(
    reward: type[BaseReward], arguments: dict[str, float], name: str
) -> None:
    (value,) = arguments.values()
    message = rf"^model\.init_args\.reward\.init_args\.{name}: expected [^\n]+; got {value}; [^\n]+$"
    with pytest.raises(ConfigError, match=message):
        reward(**arguments)
