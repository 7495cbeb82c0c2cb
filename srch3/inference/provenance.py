"""Where a model comes from: its base, the settings and figures of the run that trained it."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from srch3.inference.model import CONFIG_FILE

_LEVELS = 4
_STEPS = "global_step"


class Provenance(NamedTuple):
    """What a run's folder says about a checkpoint in it.

    Attributes:
        config: The run's settings, with paths cut to their last part, so that they tell nothing of the machine; none
            where the model is not from a run.
        step: Optimizer steps.
        figures: By name, such as ``val/thinking/ndcg@10``, measured at that step or the nearest one before it.
    """

    config: dict[str, Any] | None = None
    step: int | None = None
    figures: Mapping[str, float] = {}


def provenance(model: str | Path) -> Provenance:
    """What is known of a checkpoint; nothing of a folder.

    Args:
        model: A checkpoint that loads, or an exported folder.
    """
    path = Path(model).expanduser().absolute()
    folders = [] if path.is_dir() else list(path.parents)[:_LEVELS]
    run = next((folder for folder in folders if (folder / CONFIG_FILE).is_file()), None)
    if run is None:
        return Provenance()
    config = yaml.safe_load((run / CONFIG_FILE).read_text(encoding="utf-8"))
    step = int(torch.load(path, map_location="cpu", weights_only=True, mmap=True).get(_STEPS, 0))
    return Provenance(without_paths(config), step, _figures(run / "metrics.csv", step))


def without_paths(value: Any) -> Any:
    """The same settings with every absolute path cut to its last part."""
    if isinstance(value, dict):
        return {name: without_paths(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    if isinstance(value, str) and value.startswith(("/", "~/")) and "\n" not in value:
        return Path(value).name
    return value


def _figures(path: Path, step: int) -> dict[str, float]:
    """What was measured of searches, each the last time up to ``step``."""
    if not path.is_file():
        return {}
    found: dict[str, float] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if int(float(row.get("step") or 0)) <= step:
                found |= {name: float(value) for name, value in row.items() if value and _searched(name)}
    return found


def _searched(name: str) -> bool:
    return name.count("/") == 2 and "@" in name.rpartition("/")[2] and name.startswith(("val/", "test/"))
