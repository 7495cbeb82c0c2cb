"""A resumed run trains with the optimizer settings it was asked for, not with those of the checkpoint."""

from typing import Any

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.optim import Optimizer

_PROGRESS_OF_A_SCHEDULE = {"last_epoch", "best", "num_bad_epochs", "cooldown_counter", "T_cur", "T_i"}


class AskedOptimizerSettings(L.Callback):
    """Makes a resumed run train with the optimizer settings it was asked for.

    Restoring an optimizer also restores its learning rate, weight decay and so on as they were, whatever the
    configuration now says. Where the two differ, this callback applies what was asked and says so in one line. The
    factor that a learning-rate schedule has reached is kept; settings of the schedule itself, such as its length, stay
    those of the checkpoint, which is said as well.
    """

    def __init__(self) -> None:
        self._groups: list[list[dict[str, Any]]] = []
        self._schedules: list[dict[str, Any]] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes note of the settings asked for, before the checkpoint's are put in their place."""
        if trainer.ckpt_path is None:
            return
        self._groups = [
            [_settings(optimizer, group) for group in optimizer.param_groups] for optimizer in trainer.optimizers
        ]
        self._schedules = [_plain(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Applies them."""
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        changes: list[str] = []
        for optimizer, groups in zip(trainer.optimizers, self._groups, strict=False):
            own = [scheduler for scheduler in schedulers if getattr(scheduler, "optimizer", None) is optimizer]
            for number, (group, asked) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
                changes += _apply_rate(group, asked.pop("lr", None), own, number) + _apply_others(group, asked)
        for scheduler, fresh in zip(schedulers, self._schedules, strict=False):
            changes += _kept(fresh, _plain(scheduler.state_dict()))
        self._groups, self._schedules = [], []
        if changes:
            rank_zero_info(f"resumed with other settings than the checkpoint's: {'; '.join(dict.fromkeys(changes))}")


def _settings(optimizer: Optimizer, group: dict[str, Any]) -> dict[str, Any]:
    """Settings of a parameter group, with the learning rate that its schedule starts from."""
    cycled = {"momentum", "betas"} if "max_momentum" in group else set()
    settings = {key: group[key] for key in optimizer.defaults if key in group and key not in cycled}
    return {**settings, "lr": float(group.get("initial_lr", group["lr"]))} if "lr" in group else settings


def _apply_rate(group: dict[str, Any], asked: float | None, schedulers: list[Any], number: int) -> list[str]:
    """Moves a learning rate and its schedule to another base; the schedule's current factor stays."""
    restored = float(group.get("initial_lr", group.get("lr", 0.0)))
    if asked is None or asked == restored:
        return []
    factor = float(group["lr"]) / restored if restored else 1.0
    group["lr"] = asked * factor
    if "initial_lr" in group:
        group["initial_lr"] = asked
    for scheduler in schedulers:
        _move_base(scheduler, number, asked, factor)
    return [f"lr {restored:g} -> {asked:g}"]


def _move_base(scheduler: Any, number: int, asked: float, factor: float) -> None:
    """Moves the base of a schedule and of those it is made of."""
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs[number] = asked
    if getattr(scheduler, "_last_lr", None):
        scheduler._last_lr[number] = asked * factor  # noqa: SLF001
    for part in getattr(scheduler, "_schedulers", []):
        _move_base(part, number, asked, factor)


def _apply_others(group: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Applies settings other than the learning rate."""
    changed = {key: value for key, value in asked.items() if _comparable(group.get(key)) != _comparable(value)}
    lines = [f"{key} {group.get(key)} -> {value}" for key, value in changed.items()]
    group.update(changed)
    return lines


def _kept(asked: dict[str, Any], restored: dict[str, Any]) -> list[str]:
    """Names the settings of a schedule that stay as they are in the checkpoint although others were asked."""
    differ = [key for key in asked if key in restored and asked[key] != restored[key]]
    return [f"schedule keeps {key} {restored[key]} (asked {asked[key]})" for key in differ]


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """The settings, rather than the progress, in the state of a schedule."""
    public = {key: value for key, value in state.items() if not key.startswith("_") and key != "base_lrs"}
    return {
        key: value
        for key, value in public.items()
        if key not in _PROGRESS_OF_A_SCHEDULE and isinstance(value, bool | int | float | str | tuple)
    }


def _comparable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value
