"""The stages, as LightningModules: a base from nothing, supervised, reinforced."""

from srch3.modules.base import BaseRetrievalModule
from srch3.modules.causal_lm import CausalLMModule
from srch3.modules.rl import RLModule
from srch3.modules.sft import SFTModule

__all__ = ["BaseRetrievalModule", "CausalLMModule", "RLModule", "SFTModule"]
