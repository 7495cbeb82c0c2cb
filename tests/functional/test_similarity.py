import torch
from torch import tensor

from srch3.functional.similarity import cosine, normalise


def test_normalise_scales_to_unit_length() -> None:
    torch.testing.assert_close(normalise(tensor([[3.0, 4.0], [0.0, -2.0]])), tensor([[0.6, 0.8], [0.0, -1.0]]))


def test_normalise_leaves_zero_vectors_at_zero() -> None:
    assert normalise(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2


def test_normalise_widens_half_precision_before_it_divides() -> None:
    vectors = torch.randn(8, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    unit = normalise(vectors)
    assert unit.dtype is torch.float32
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(8), atol=1e-6, rtol=0)


def test_normalise_keeps_float64() -> None:
    assert normalise(torch.ones(1, 2, dtype=torch.float64)).dtype is torch.float64


def test_cosine_agrees_with_torch() -> None:
    left, right = torch.randn(4, 6), torch.randn(5, 6)
    expected = torch.cosine_similarity(left[:, None], right[None], dim=-1)
    torch.testing.assert_close(cosine(normalise(left), normalise(right)), expected, atol=1e-6, rtol=0)


def test_cosine_stays_precise_under_autocast() -> None:
    left, right = normalise(torch.randn(4, 64)), normalise(torch.randn(5, 64))
    exact = cosine(left, right)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.equal((left @ right.T).float(), exact)
        assert torch.equal(cosine(left, right), exact)


def test_cosine_widens_bfloat16_vectors() -> None:
    left, right = normalise(torch.randn(4, 64)).bfloat16(), normalise(torch.randn(5, 64)).bfloat16()
    torch.testing.assert_close(cosine(left, right), left.float() @ right.float().T)
