"""Tasks of mteb by name."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from srch3.errors import ConfigError, DataError
from srch3.inference.embedder import Embedder
from srch3.types import Mode

_ALSO = ("ndcg_at_10", "mrr_at_10", "map_at_100", "recall_at_100")


def find_task(name: str) -> Any:
    """A task of mteb.

    Raises:
        ConfigError: mteb is not installed.
        DataError: There is no such task.
    """
    try:
        mteb: Any = importlib.import_module("mteb")
    except ImportError:
        raise ConfigError("task: expected mteb 2 or later; it is not installed; pip install 'mteb>=2'") from None
    try:
        return mteb.get_task(name)
    except KeyError as error:
        hint = str(error.args[0]).partition("not found. ")[2]
        raise DataError(f"task: expected the name of a task of mteb; got {name!r}. {hint}".rstrip()) from None


def evaluate_task(embedder: Embedder, task: Any, modes: Sequence[Mode]) -> dict[Mode, Any]:
    """Runs a task of mteb in each mode, through mteb itself, which loads the data from the hub.

    Results are neither read from mteb's cache nor written to it. Documents are embedded again for each mode.

    Args:
        embedder: The model.
        task: A task of mteb.
        modes: How queries are embedded; tasks without queries are the same in every mode.

    Returns:
        mteb's ``TaskResult`` by mode.
    """
    mteb: Any = importlib.import_module("mteb")
    wrapper: Any = importlib.import_module("srch3.inference.mteb")
    return {
        mode: mteb.evaluate(wrapper.MtebEncoder(embedder, mode=mode), task, cache=None).task_results[0]
        for mode in modes
    }


def task_table(results: Mapping[Mode, Any]) -> Table:
    """The main score of each mode, and the usual ones of retrieval where there are such, as means of all subsets.

    Args:
        results: By mode, as :func:`evaluate_task` gives them.
    """
    first = next(iter(results.values()))
    table = Table(Column(overflow="fold"), title=f"{first.task_name} of mteb", title_justify="left")
    for mode in results:
        table.add_column(mode, justify="right", overflow="fold")
    table.add_row("main score", *(f"{result.get_score():.4f}" for result in results.values()))
    for name in _ALSO:
        means = [_mean(result, name) for result in results.values()]
        if all(mean is not None for mean in means):
            table.add_row(name, *(f"{mean:.4f}" for mean in means))
    return table


def write_task(results: Mapping[Mode, Any], folder: Path) -> None:
    """Writes mteb's own files, ``{task}.{mode}.json``.

    Args:
        results: By mode.
        folder: Is made where it is absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for mode, result in results.items():
        result.to_disk(folder / f"{result.task_name}.{mode}.json")


def _mean(result: Any, name: str) -> float | None:
    found = [scores.get(name) for subsets in result.scores.values() for scores in subsets]
    return None if None in found or not found else sum(found) / len(found)
