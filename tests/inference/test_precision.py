from typing import Any

import pytest
import torch

from srch3.inference import precision
from srch3.inference.precision import Precision, resolve

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
@pytest.mark.parametrize("device", [CPU, GPU, torch.device("mps")])
def test_what_is_asked_for_is_done_anywhere(asked: Precision, device: torch.device) -> None:
    assert resolve(asked, device) == getattr(torch, asked)


@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "expected"),
    [(False, False, torch.float32), (True, False, torch.bfloat16), (False, True, torch.bfloat16)],
)
def test_auto_goes_by_the_instructions_of_a_cpu(
    avx512_bf16: bool, amx: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision.torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(precision.torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert resolve("auto", CPU) == expected


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_does_not_count_what_a_gpu_emulates(
    native: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> Any:
        return native or including_emulation

    monkeypatch.setattr(precision.torch.cuda, "is_bf16_supported", supported)
    assert resolve("auto", GPU) == expected


def test_auto_takes_float32_on_devices_that_it_does_not_know() -> None:
    assert resolve("auto", torch.device("mps")) == torch.float32
