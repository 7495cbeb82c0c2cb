"""What follows a prompt, and what a teacher-forced pass over it gives."""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from srch3.backbones.tokenization import Tokens


class Completions(NamedTuple):
    """What follows each prompt, teacher-forced: the tokens that are read, and those that are to be predicted.

    Attributes:
        inputs: Tokens that follow the prompt; the last one is the embed token.
        targets: What the model is to predict in place of each input. Equal to ``inputs``, except where a sampled end
            of turn was replaced by the embed token.
        counted: False at a target that nobody chose, namely an embed token which was forced.
    """

    inputs: list[Tokens]
    targets: list[Tokens]
    counted: list[list[bool]]


class Scored(NamedTuple):
    """A teacher-forced pass over prompts and completions; columns beyond a completion's end are zero.

    Attributes:
        logits: Of the counted targets, row after row, not yet divided by a temperature.
        counted: Where in ``(batch, seq)`` those logits stand.
        targets: The tokens they are to predict.
        embeddings: At the embed token, unit length, float32.
    """

    logits: Float[Tensor, "counted vocabulary"]
    counted: Bool[Tensor, "batch seq"]
    targets: Tensor
    embeddings: Float[Tensor, "batch dim"]
