"""The terms of training as modules, each with a weight, so that a configuration can swap and weigh them.

Stage 1 adds up `CrossEntropy`, `BaseKL`, `InfoNCE` and `TripletMargin`; stage 2 `PolicyLoss`, `ReferenceKL` and, if
wanted, `InfoNCE`. Each returns its own value; whoever adds them up multiplies by ``weight``. The formulas are in
`srch3.functional`.
"""

from srch3.losses.base import BaseLoss
from srch3.losses.contrastive import InfoNCE, TripletMargin
from srch3.losses.language import BaseKL, CrossEntropy
from srch3.losses.policy import PolicyLoss, ReferenceKL

__all__ = ["BaseKL", "BaseLoss", "CrossEntropy", "InfoNCE", "PolicyLoss", "ReferenceKL", "TripletMargin"]
