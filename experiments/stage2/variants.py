"""What is compared: the full recipe of ``rl.yaml``, one change to it at a time, and controls that do without it."""

from typing import NamedTuple

from srch3.types import Mode

ALL_MODES: tuple[Mode, ...] = ("thinking", "mean-1", "mean-4", "direct", "empty", "shuffled", "copied")


class Variant(NamedTuple):
    """A way to go on from the model of stage 1.

    Attributes:
        question: What it asks.
        options: The change, as options of ``python -m srch3 fit``.
        control: Whether it is trained by ``control.yaml``, without rewards.
        modes: What it is measured in.
        in_time: The control that this one repeats, with as many steps as fit into the training time of ``full``.
        validations: How many, evenly spread; None for as many as ``rl.yaml`` has.
    """

    question: str
    options: str = ""
    control: bool = False
    modes: tuple[Mode, ...] = ALL_MODES
    in_time: str | None = None
    validations: int | None = None


STAGE_1 = "stage 1"
FULL = "full"
_MODEL = "--model.init_args"
_DIRECT = f"{_MODEL}.train_modes [direct] {_MODEL}.modes [direct]"
_PAUSE = (
    f"{_MODEL}.train_modes [thinking] {_MODEL}.modes [thinking] "
    "--data.init_args.thoughts experiments.stage2.pauses.PauseThoughts"
)

VARIANTS = {
    FULL: Variant("What does the whole recipe reach?"),
    "joint-only": Variant("Does the policy gradient add anything?", f"{_MODEL}.policy_loss.init_args.weight 0"),
    "strong-policy": Variant(
        "What if the policy gradient counts ten times as much as the joint one?",
        f"{_MODEL}.policy_loss.init_args.weight 1",
    ),
    "policy-only": Variant(
        "Does the joint gradient add anything? Without it the policy gradient has its full weight.",
        f"{_MODEL}.info_nce.init_args.weight 0 {_MODEL}.policy_loss.init_args.weight 1",
    ),
    "no-kl": Variant("Is staying near stage 1 worth it?", f"{_MODEL}.reference_kl.init_args.weight 0"),
    "batch-pool": Variant(
        "Is ranking among the batch's documents as good? Without a search there are no hard negatives either.",
        f"{_MODEL}.pool BatchPool {_MODEL}.hard_negatives 0",
    ),
    "frozen-index": Variant(
        "What if documents are never encoded again? Validation, which encodes them, is at the end alone.",
        "--environment.init_args.refresh NoRefresh",
        validations=1,
    ),
    "full-refresh": Variant(
        "What if all documents are encoded again in every step?", "--environment.init_args.refresh FullRefresh"
    ),
    "direct": Variant(
        "Would plain contrastive training on the same new queries do, in as many steps?",
        _DIRECT,
        control=True,
        modes=("direct",),
    ),
    "direct-in-time": Variant("The same, in as much time?", _DIRECT, True, ("direct",), "direct"),
    "pause": Variant(
        "Would a thought that means nothing do, in as many steps?", _PAUSE, control=True, modes=("thinking",)
    ),
    "pause-in-time": Variant("The same, in as much time?", _PAUSE, True, ("thinking",), "pause"),
}
"""By name. A change must not say what ``rl.yaml`` says already."""
