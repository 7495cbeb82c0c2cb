import math

import numpy as np
import pytest
import torch
from torch import Tensor

from srch3.environments import NoCorrection, RidgeCorrection
from srch3.errors import ConfigError
from tests.indexes.clusters import clustered


def moved(thought: Tensor, seed: int = 7, size: float = 0.2) -> Tensor:
    """Where a linear map and some noise take unit vectors."""
    generator = torch.Generator().manual_seed(seed)
    dim = thought.shape[1]
    matrix = torch.eye(dim) + size * torch.randn(dim, dim, generator=generator) / dim**0.5
    noise = 0.05 * torch.randn(thought.shape, generator=generator) / dim**0.5
    return torch.nn.functional.normalize(thought @ matrix + noise, dim=1)


def slow_ridge(parts: list[tuple[Tensor, Tensor]], memory: float, prior: float) -> np.ndarray:
    """Least squares over all pairs of all steps, each row scaled by the root of its weight, and over the prior's."""
    dim = parts[0][0].shape[1]
    left, right = [prior**0.5 * np.eye(dim)], [prior**0.5 * np.eye(dim)]
    for age, (thought, found) in enumerate(reversed(parts)):
        left.append(memory ** (age / 2) * thought.double().numpy())
        right.append(memory ** (age / 2) * found.double().numpy())
    return np.linalg.lstsq(np.concatenate(left), np.concatenate(right), rcond=None)[0]


@pytest.mark.parametrize(("prior", "memory"), [(10.0, 0.8), (0.1, 0.5), (1e3, 0.0)])
def test_the_map_is_that_of_least_squares_over_all_steps(prior: float, memory: float) -> None:
    correction, parts = RidgeCorrection(prior, memory), []
    for seed, count in enumerate((40, 3, 60)):
        thought = clustered(count, dim=16, seed=seed)
        parts.append((thought, moved(thought, seed)))
        matrix = correction.fit(*parts[-1])
        assert matrix is not None
        np.testing.assert_allclose(matrix.numpy(), slow_ridge(parts, memory, prior), atol=1e-8)


def test_the_defaults_are_a_prior_of_ten_documents_and_a_memory_of_four_fifths() -> None:
    correction, thought = RidgeCorrection(), clustered(20, dim=8)
    pairs = [(thought, moved(thought, seed)) for seed in range(2)]
    fits = [correction.fit(*pair) for pair in pairs]
    assert fits[1] is not None
    np.testing.assert_allclose(fits[1].numpy(), slow_ridge(pairs, 0.8, 10.0), atol=1e-8)


def test_it_finds_a_map_that_there_is_and_moves_what_was_not_shown() -> None:
    matrix = torch.eye(16) + 0.3 * torch.randn(16, 16, generator=torch.Generator().manual_seed(1)) / 4
    shown, others = clustered(400, dim=16), clustered(50, dim=16, seed=1)
    fitted = RidgeCorrection(prior=1e-3).fit(shown, (shown @ matrix) / (shown @ matrix).norm(dim=1).mean())
    assert fitted is not None
    cosines = torch.nn.functional.cosine_similarity(others.double() @ fitted, (others @ matrix).double())
    assert float(cosines.min()) > 1 - 1e-5


def test_where_nothing_moved_or_little_is_known_next_to_nothing_changes() -> None:
    thought = clustered(5, dim=16)
    still = RidgeCorrection().fit(thought, thought)
    unsure = RidgeCorrection(prior=1e6).fit(thought, moved(thought))
    assert still is not None
    assert unsure is not None
    torch.testing.assert_close(still, torch.eye(16).double(), atol=1e-12, rtol=0)
    assert float((unsure - torch.eye(16)).abs().max()) < 1e-5


def test_what_was_learned_can_be_saved_and_fitting_does_not_change_it() -> None:
    first, thought = RidgeCorrection(), clustered(30, dim=8)
    assert first.state_dict() == {}
    first.fit(thought, moved(thought))
    saved = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    second = RidgeCorrection()
    second.load_state_dict(saved)
    later = clustered(4, dim=8, seed=1), moved(clustered(4, dim=8, seed=1))
    fits = [correction.fit(*later) for correction in (first, second, RidgeCorrection())]
    assert fits[0] is not None
    assert fits[1] is not None
    assert fits[2] is not None
    assert torch.equal(fits[0], fits[1])
    assert not torch.allclose(fits[0], fits[2])
    torch.testing.assert_close(saved["within"], (thought.double().T @ thought.double()))
    second.load_state_dict({})
    assert torch.equal(second.fit(*later), fits[2])  # type: ignore[arg-type]


def test_gradients_and_autocast_leave_it_alone() -> None:
    thought, there = clustered(30, dim=8), moved(clustered(30, dim=8))
    expected = RidgeCorrection().fit(thought, there)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = RidgeCorrection().fit(thought.requires_grad_(), there.requires_grad_())
    assert expected is not None
    assert found is not None
    assert torch.equal(found, expected)
    assert not found.requires_grad


def test_no_correction_has_no_map() -> None:
    assert NoCorrection().fit(clustered(5), clustered(5, seed=1)) is None
    assert NoCorrection().state_dict() == {}
    NoCorrection().load_state_dict({})


@pytest.mark.parametrize(
    ("name", "value"), [("prior", 0.0), ("prior", -1.0), ("prior", math.nan), ("memory", 1.0), ("memory", -0.1)]
)
def test_impossible_numbers_are_refused(name: str, value: float) -> None:
    with pytest.raises(
        ConfigError, match=f"environment.init_args.correction.init_args.{name}: expected .*; got {value}"
    ):
        RidgeCorrection(**{name: value})
