"""What every side's training is watched with."""

import resource
import sys
import time
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

_MIB = 2**20
_STATUS = Path("/proc/self/status")


class Clock:
    """Notes when steps end, their losses, the tokens that go through the model, and the most memory held.

    Args:
        pad_id: The token that padding is made of; no text holds it.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id
        self.ends: list[float] = []
        self.cpu: list[float] = []
        self.losses: list[Tensor] = []
        self.passes = self.tokens = 0
        self.padding: list[Tensor] = []

    def begin(self, model: PreTrainedModel) -> None:
        """Training is about to take its first step.

        Args:
            model: The transformer, whose inputs are counted.
        """
        self._hook = model.get_input_embeddings().register_forward_pre_hook(self._count)
        self.held = _forget_peak()
        self.note()

    def note(self, loss: Tensor | None = None) -> None:
        """A step has ended."""
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())
        if loss is not None:
            self.losses.append(loss.detach().clone())

    def end(self) -> None:
        """Training is over."""
        self.peak = _peak()
        self._hook.remove()

    def figures(self) -> dict[str, Any]:
        """What was noted."""
        padding = int(sum(self.padding))
        return {
            "seconds": [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)],
            "cpu_seconds": [after - before for before, after in zip(self.cpu, self.cpu[1:], strict=False)],
            "losses": [float(loss) for loss in self.losses],
            "tokens": self.tokens,
            "padding": padding,
            "passes": self.passes,
            "held_mib": self.held / _MIB,
            "peak_mib": self.peak / _MIB,
        }

    def _count(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
        (ids,) = inputs
        self.passes += 1
        self.tokens += ids.numel()
        self.padding.append((ids == self.pad_id).sum())


def _forget_peak() -> int:
    """Starts anew to look for the most memory held, where the system can; returns what is held now, in bytes."""
    if _STATUS.is_file():
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """The most memory held, in bytes."""
    if _STATUS.is_file():
        (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
