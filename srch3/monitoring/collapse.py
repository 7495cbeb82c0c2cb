"""Stops a run of reinforcement learning that has collapsed, before it wastes more time."""

from typing import Any, NamedTuple

import lightning as L
import torch

from srch3.errors import ConfigError, NumericError
from srch3.modules.recovery import way_back

_SHOWN = 5


class _Watched(NamedTuple):
    """A figure with what it must not go beyond.

    Attributes:
        limit: Beyond it the figure is bad.
        sign: 1 where more is worse, -1 where less is.
        argument: Of the guard, which gives the limit.
        advice: What it means, and what helps.
    """

    limit: float
    sign: int
    argument: str
    advice: str

    def is_bad(self, value: float) -> bool:
        return not self.sign * (value - self.limit) <= 0


class CollapseGuard(L.Callback):
    """Stops stage 2 when it has collapsed: when one of its figures was bad in so many training steps in a row.

    The error says which figure, how it went, what helps, and which checkpoint was written before. The figures are the
    means over all processes of those in ``srch3/metrics/README.md``; one that a run does not log is not watched. How
    long each has been bad is part of the checkpoint.

    Args:
        max_similarity: Largest mean cosine of the embeddings of different queries (``train/similarity``); 1 for any.
        min_emitted: Smallest share of completions that end with the embed token (``train/emitted``); 0 for any.
        min_reward_spread: Smallest mean standard deviation of a group's rewards (``train/reward_spread``); 0 for any.
        min_entropy: Smallest mean entropy of the next token, nats (``train/entropy``); 0 for any.
        patience: Bad steps in a row that stop the run.
    """

    def __init__(
        self,
        max_similarity: float = 0.95,
        min_emitted: float = 0.1,
        min_reward_spread: float = 1e-4,
        min_entropy: float = 1e-3,
        patience: int = 20,
    ) -> None:
        if patience < 1:
            raise ConfigError(f"trainer.callbacks: CollapseGuard.patience: expected at least 1 step, got {patience}")
        self.patience = patience
        self._watched = {
            "train/similarity": _Watched(
                max_similarity,
                1,
                "max_similarity",
                "the embeddings of different queries are nearly the same; raise info_nce.weight or lower the learning "
                "rate",
            ),
            "train/emitted": _Watched(
                min_emitted,
                -1,
                "min_emitted",
                "hardly a thought ends with the embed token; train stage 1 longer, raise reference_kl.weight or "
                "max_thought_tokens, or lower the learning rate",
            ),
            "train/reward_spread": _Watched(
                min_reward_spread,
                -1,
                "min_reward_spread",
                "the completions of a query earn the same, from which nothing is learnt; raise samples or temperature, "
                "or choose a finer reward",
            ),
            "train/entropy": _Watched(
                min_entropy,
                -1,
                "min_entropy",
                "the model writes the same each time; raise reference_kl.weight or temperature, or lower the learning "
                "rate",
            ),
        }
        self._streaks: dict[str, dict[str, Any]] = {}
        self._step = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Notes which weights the step's figures are about."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks at the step's figures.

        Raises:
            NumericError: One has been bad for too long.
        """
        names = [name for name in self._watched if name in trainer.callback_metrics]
        if not names:
            return
        figures = torch.stack([trainer.callback_metrics[name].detach().float() for name in names])
        for name, value in zip(names, trainer.strategy.reduce(figures, reduce_op="mean").tolist(), strict=True):
            if not self._watched[name].is_bad(value):
                self._streaks.pop(name, None)
                continue
            streak = self._streaks.setdefault(name, {"step": self._step, "values": []})
            streak["values"].append(value)
            if len(streak["values"]) >= self.patience:
                raise NumericError(self._message(trainer, name, **streak))

    def _message(self, trainer: L.Trainer, name: str, step: int, values: list[float]) -> str:
        watched = self._watched[name]
        places = sorted({round(place * (len(values) - 1) / (_SHOWN - 1)) for place in range(_SHOWN)})
        course = ", ".join(f"{values[place]:.3g}" for place in places)
        return (
            f"training has collapsed: {name} is {'above' if watched.sign > 0 else 'below'} {watched.argument} "
            f"{watched.limit:g} since step {step} ({course}): {watched.advice}; {way_back(trainer, step)}"
        )

    def state_dict(self) -> dict[str, Any]:
        """What has been bad, since when, and how it went."""
        return {"streaks": self._streaks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting."""
        self._streaks = state_dict["streaks"]
