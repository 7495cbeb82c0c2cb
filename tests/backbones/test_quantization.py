from pathlib import Path

import pytest
import torch
from torch import nn

from srch3.backbones import LoRA, ReasoningEmbedder, quantization
from srch3.backbones.quantization import keep_frozen_out_of_checkpoints, quantization_config
from srch3.errors import ConfigError
from tests.models import make_model_folder


def test_quantised_weights_without_adapters_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.init_args\.quantization: expected `lora: LoRA` beside 'nf4'"):
        ReasoningEmbedder("x", quantization="nf4")


def test_a_machine_without_a_gpu_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    embedder = ReasoningEmbedder(make_model_folder(tmp_path / "m"), lora=LoRA(), quantization="int8")
    with pytest.raises(ConfigError, match=r"quantization: expected an NVIDIA GPU for 'int8', got .*; leave") as refusal:
        embedder.build()
    assert "\n" not in str(refusal.value)


def test_an_environment_without_bitsandbytes_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"expected bitsandbytes for 'nf4', .*pip install 'srch3\[quantization\]'"):
        quantization_config("nf4")


def test_how_weights_are_quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(quantization, "find_spec", lambda name: name)
    four, eight = quantization_config("nf4"), quantization_config("int8")
    assert (four.load_in_4bit, four.load_in_8bit, eight.load_in_4bit, eight.load_in_8bit) == (True, False, False, True)
    assert (four.bnb_4bit_quant_type, four.bnb_4bit_use_double_quant) == ("nf4", True)
    assert four.bnb_4bit_compute_dtype == torch.bfloat16


def test_checkpoints_hold_and_restore_what_is_trained_alone() -> None:
    def model() -> nn.Module:
        inner = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2), nn.Linear(2, 2))
        inner[0].requires_grad_(False)
        inner[2].requires_grad_(False)
        inner[3].weight = inner[0].weight
        inner[4] = inner[1]
        keep_frozen_out_of_checkpoints(inner)
        return nn.ModuleDict({"first": nn.Linear(1, 1), "backbone": inner, "last": nn.Linear(1, 1)})

    saved, restored = model(), model()
    state = saved.state_dict()
    others = {f"{place}.{name}" for place in ("first", "last") for name in ("weight", "bias")}
    trained = {f"backbone.{place}.{name}" for place in (1, 4) for name in ("weight", "bias")}
    assert set(state) == {*trained, "backbone.3.bias", *others}
    restored.load_state_dict(state)
    torch.testing.assert_close(restored.state_dict(), state, atol=0, rtol=0)
    for absent in ("backbone.1.weight", "first.bias", "last.weight"):
        with pytest.raises(RuntimeError, match=f"Missing key.*{absent}"):
            restored.load_state_dict({name: value for name, value in state.items() if name != absent})
