"""Loading a causal LM and its tokenizer, by name or by path."""

from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from srch3.backbones.quantization import Quantization, quantization_config
from srch3.backbones.tokenization import Truncation
from srch3.errors import ModelError

ARGUMENT = "model.init_args.backbone.init_args.model"

Dtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]


def load_causal_lm(
    name: str,
    dtype: Dtype,
    attention: Attention | None,
    truncation: Truncation = "right",
    quantization: Quantization | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a model and its tokenizer from a folder or a hub.

    Weights are read from safetensors files alone, and no code that comes with a model is run.

    Args:
        name: A folder written by ``save_pretrained``, or the name of a model on the hub.
        dtype: Type of the weights in memory, whatever type they are stored in.
        attention: Implementation of attention; none leaves the choice to transformers.
        truncation: Which end of a too long text the tokenizer cuts.
        quantization: Type of the linear layers' weights in place of ``dtype``.

    Raises:
        ModelError: There is no such model, or it is not a causal LM.
        ConfigError: This machine cannot hold weights so quantised.
    """
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise ModelError(f"{ARGUMENT}: expected a folder written by save_pretrained, got {name!r}, which is absent")
    path = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    quantized = {"quantization_config": quantization_config(quantization)} if quantization else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, truncation_side=truncation)
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, dtype), attn_implementation=attention, use_safetensors=True, **quantized
        )
    except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{ARGUMENT}: expected the folder or the hub name of a causal language model in safetensors, got {name!r}: "
            f"{reason}"
        ) from error
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:
        raise ModelError(
            f"{ARGUMENT}: expected a tokenizer beside the model, got none in {name!r}; save one there with "
            "tokenizer.save_pretrained"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer
