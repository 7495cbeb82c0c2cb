"""The model, its prompts, and the lengths of what it writes; the same for both sides."""

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from experiments.benchmarks.models import qwen2
from experiments.benchmarks.rollout.settings import Model, Shape
from srch3.backbones import PlainPrompts, ReasoningEmbedder

_NEVER = -torch.inf
_CERTAIN = 1e4


def make_embedder(model: Model, longest: int, seed: int, device: str) -> ReasoningEmbedder:
    """A reasoning embedder with random weights.

    Args:
        model: Its size.
        longest: Longest completion.
        seed: Of the weights.
        device: Where it is put.
    """
    tokenizer = _tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        whole = qwen2(tokenizer, model.width, model.layers, model.heads, seed, vocabulary=model.vocabulary)
        whole.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        embedder = ReasoningEmbedder(str(Path(folder)), PlainPrompts(), max_thought_tokens=longest)
        embedder.build()
    embedder.eval().to(device)
    return embedder


def _tokenizer() -> PreTrainedTokenizerFast:
    """One that loads; it is not asked for anything, since prompts are tokens already and thoughts are not read."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(special_tokens=["<end>", "<pad>"], initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")


def make_prompts(model: Model, shape: Shape, seed: int) -> Int64[Tensor, "prompts tokens"]:
    """Random tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, model.vocabulary, (shape.prompts, shape.prompt_tokens), generator=generator)


class Lengths:
    """Makes the model end its completions, by changing the logits of its own output matrix.

    At each step the embed token gets the probability that makes every allowed length as likely as any other. No other
    token ends a completion. The output matrix is asked once per step by both sides, so that the step is known.

    Args:
        embedder: The model.
    """

    def __init__(self, embedder: ReasoningEmbedder) -> None:
        head: Any = embedder.causal_lm.get_output_embeddings()
        self._others = math.log(head.weight.shape[0])
        self._embed_token = embedder.embed_token_id
        self._stops = torch.tensor(embedder.stop_ids, device=embedder.device)
        head.register_forward_hook(self._change)
        self.begin(Shape(1, 1, 1, 1, 1))

    def begin(self, shape: Shape) -> None:
        """A batch of completions is about to be written."""
        self._shape, self._length = shape, 0

    def _change(self, head: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> None:
        self._length += 1
        logits.index_fill_(-1, self._stops, _NEVER)
        logits[..., self._embed_token] = self._logit(self._length)

    def _logit(self, length: int) -> float:
        shape = self._shape
        if length < shape.shortest or shape.shortest == shape.longest:
            return _NEVER
        left = shape.longest - length
        return _CERTAIN if left <= 0 else self._others - math.log(left)
