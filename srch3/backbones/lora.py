"""Low-rank adapters."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from srch3.backbones.embed_token import own_output
from srch3.errors import ConfigError


class LoRA:
    """Trains low-rank adapters and the embed token's rows, and freezes the rest (arXiv 2106.09685).

    Args:
        r: Rank of the adapters.
        alpha: Their scale is ``alpha / r``.
        dropout: Probability of dropping an adapter's input.
        target_modules: Names of the linear layers that get an adapter; ``all-linear`` means every one.
        rslora: Scale by ``alpha / sqrt(r)`` instead, which keeps a high rank learning (arXiv 2312.03732).
    """

    def __init__(
        self,
        r: int = 16,
        alpha: int = 32,
        dropout: float = 0.0,
        target_modules: list[str] | str = "all-linear",
        rslora: bool = False,
    ) -> None:
        self.r = r
        self.alpha = alpha
        self.dropout = dropout
        self.target_modules = target_modules
        self.rslora = rslora

    def apply(self, model: PreTrainedModel, embed_token_id: int) -> PreTrainedModel:
        """Puts the adapters into ``model`` in place and returns it.

        Args:
            model: The causal LM to adapt.
            embed_token_id: The one row of the embedding matrix, and of an output matrix that is not the same, which is
                trained too, as it starts from nothing.

        Raises:
            ConfigError: No layer of the model has one of the names.
        """
        layers = [model.get_input_embeddings(), own_output(model)]
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.target_modules,
            use_rslora=self.rslora,
            trainable_token_indices={_name(model, layer): [embed_token_id] for layer in layers if layer is not None},
            task_type="CAUSAL_LM",
        )
        try:
            get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(
                f"model.init_args.backbone.init_args.lora.target_modules: expected names of linear layers of "
                f"{type(model).__name__}, got {self.target_modules!r} ({str(error).splitlines()[0]})"
            ) from error
        return model


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Within it, the model is the one that the adapters were put into."""
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    adapted = [module for module in model.modules() if isinstance(module, LoraLayer | TrainableTokensWrapper)]
    for module in adapted:
        module.enable_adapters(False)
    try:
        yield
    finally:
        for module in adapted:
            module.enable_adapters(True)
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)


@torch.no_grad()
def merged_weight(layer: nn.Module, name: str) -> Tensor:
    """A weight as a layer without adapters and without quantisation must have it to compute the same.

    Args:
        layer: Any layer, with or without adapters.
        name: Of the weight in a plain layer, such as ``weight`` or ``bias``.
    """
    if isinstance(layer, TrainableTokensWrapper):
        return cast(Tensor, getattr(layer, name))
    plain = layer.get_base_layer() if isinstance(layer, LoraLayer) else layer
    if name != "weight" or not isinstance(plain, nn.Linear | Conv1D):
        return cast(Tensor, getattr(plain, name))
    weight: Tensor = dequantize_module_weight(plain)
    if not isinstance(layer, LoraLayer):
        return weight
    (delta,) = (cast(Tensor, cast(Any, layer).get_delta_weight(adapter)) for adapter in layer.active_adapters)
    return (weight.to(delta.dtype) + delta).to(weight.dtype)


def _name(model: PreTrainedModel, layer: nn.Module) -> str:
    (name,) = (name for name, module in model.named_modules() if module is layer)
    return str(name).rpartition(".")[2]
