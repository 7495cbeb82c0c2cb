import pytest
import torch
from torch import nn

from srch3.backbones.reference import RememberedWeights
from srch3.errors import ConfigError


def test_frozen_weights_are_not_kept_twice() -> None:
    module = nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    assert set(RememberedWeights(module)._weights) == {"weight"}


def test_the_fingerprint_tells_weights_apart_also_where_they_changed_places() -> None:
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
        module.bias.copy_(torch.tensor([0.5, 1.5]))
    assert RememberedWeights(module).fingerprint == 10 + 2 * 2
    with torch.no_grad():
        module.weight.add_(1e-3)
    assert RememberedWeights(module).fingerprint != 14


def test_weights_come_back_after_an_error() -> None:
    module = nn.Linear(2, 2)
    remembered = RememberedWeights(module)
    with torch.no_grad():
        module.weight.add_(1)
    now = module.weight.detach().clone()
    with pytest.raises(ZeroDivisionError), remembered.in_place(module):
        assert 1 / float((module.weight + 1 - now).abs().max().round())
    torch.testing.assert_close(module.weight.detach(), now, atol=0, rtol=0)


def test_weights_that_were_cut_or_renamed_since_are_no_reference() -> None:
    cut, renamed = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4))
    of_cut, of_renamed = RememberedWeights(cut), RememberedWeights(renamed)
    cut.weight.data = cut.weight.data.flatten()[:8]
    renamed.add_module("_wrapped", renamed.pop(0))
    for remembered, module in ((of_cut, cut), (of_renamed, renamed)):
        with pytest.raises(ConfigError, match=r"trainer\.strategy: expected one that keeps whole weights"):
            remembered.in_place(module).__enter__()
