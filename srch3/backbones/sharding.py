"""Whole weights where a strategy keeps each process's share of them alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp._common_utils import TrainingState


@contextmanager
def whole_weights(model: nn.Module | None) -> Iterator[None]:
    """Within it, every process has all weights of the model, and may run as many forward passes as it likes.

    Nothing happens where that is so anyway: within a training or validation step, and under other strategies. All
    processes must enter together. Weights must not be changed within.

    Args:
        model: What the strategy made of the module, ``trainer.model``.
    """
    if not isinstance(model, FullyShardedDataParallel) or model.training_state is not TrainingState.IDLE:
        yield
        return
    with FullyShardedDataParallel.summon_full_params(model, writeback=False):
        yield
