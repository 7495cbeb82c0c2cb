"""Weights in four or eight bits, for adapters on a model that would not fit otherwise (QLoRA, arXiv 2305.14314)."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from srch3.errors import ConfigError

ARGUMENT = "model.init_args.backbone.init_args.quantization"

Quantization = Literal["nf4", "int8"]


def quantization_config(kind: Quantization) -> BitsAndBytesConfig:
    """How transformers is to load the weights; it computes in bfloat16.

    Raises:
        ConfigError: There is no NVIDIA GPU, or bitsandbytes is not installed.
    """
    if not torch.cuda.is_available():
        raise ConfigError(
            f"{ARGUMENT}: expected an NVIDIA GPU for {kind!r}, got a machine where torch {torch.__version__} finds "
            "none; leave quantization out, or run where there is one"
        )
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"{ARGUMENT}: expected bitsandbytes for {kind!r}, got an environment without it; install it with "
            "`pip install 'srch3[quantization]'`, or leave quantization out"
        )
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def keep_frozen_out_of_checkpoints(module: nn.Module) -> None:
    """Saves and restores what is trained alone: quantised weights come from the model's folder, and do not change."""

    def saved(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        trained = {prefix + name for name, parameter in _parameters(module) if parameter.requires_grad}
        for name in [name for name in state if name.startswith(prefix) and name not in trained]:
            del state[name]

    def restored(module: nn.Module, keys: Any) -> None:
        frozen = [name for name, parameter in _parameters(module) if not parameter.requires_grad]
        names = tuple(f".{name}" for name in (*frozen, *dict(module.named_buffers())))
        keys.missing_keys[:] = [key for key in keys.missing_keys if not f".{key}".endswith(names)]

    module.register_state_dict_post_hook(saved)
    module.register_load_state_dict_post_hook(restored)


def _parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Under every name that a state dict has for them, also where two layers share one."""
    return module.named_parameters(remove_duplicate=False)
