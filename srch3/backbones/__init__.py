"""The model: a causal LM that reasons its way to an embedding."""

from srch3.backbones.completions import Completions, Scored
from srch3.backbones.generation import Rollouts, generate
from srch3.backbones.lora import LoRA
from srch3.backbones.prompts import BasePrompts, ChatPrompts, PlainPrompts
from srch3.backbones.reasoning_embedder import ReasoningEmbedder

__all__ = [
    "BasePrompts",
    "ChatPrompts",
    "Completions",
    "LoRA",
    "PlainPrompts",
    "ReasoningEmbedder",
    "Rollouts",
    "Scored",
    "generate",
]
