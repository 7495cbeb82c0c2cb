"""A process that saves pairs of checkpoint and index, and can be killed while it does."""

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch

from srch3.checkpoints import AtomicCheckpointIO
from srch3.environments.pairing import PairedCheckpointIO, find_index
from srch3.environments.storage import Identity, Snapshot, weights_digest
from srch3.indexes import ExactIndex

KEY = "environment"
DOCUMENTS = 200
SYSTEM_CALLS = ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir", "link")


def weights_at(step: int) -> dict[str, torch.Tensor]:
    return {"w": torch.full((8,), float(step))}


def vectors_at(step: int) -> torch.Tensor:
    return torch.nn.functional.normalize(
        torch.randn(DOCUMENTS, 8, generator=torch.Generator().manual_seed(step)), dim=1
    )


def snapshot_at(step: int) -> Snapshot:
    index = ExactIndex()
    index.build(vectors_at(step))
    return Snapshot(index, step, "corpus", step, {"stamps": torch.full((DOCUMENTS,), step)}, {"budget": step / 3})


def save(path: Path, step: int) -> None:
    """A checkpoint of a step with its index."""
    content = {"state_dict": weights_at(step), "global_step": step, "callbacks": {KEY: {}}}
    PairedCheckpointIO(AtomicCheckpointIO(), KEY, lambda: snapshot_at(step)).save_checkpoint(content, path)


def complete_step(path: Path) -> int:
    """The step of a checkpoint, after everything beside it was found to be of that step too."""
    checkpoint = AtomicCheckpointIO().load_checkpoint(path)
    step: int = checkpoint["global_step"]
    generation = find_index(path, checkpoint["callbacks"][KEY])
    assert generation is not None
    generation.check(Identity("corpus", DOCUMENTS, weights_digest(checkpoint["state_dict"])))
    index = ExactIndex()
    index.read(generation.index_folder)
    assert torch.equal(index.vectors, vectors_at(step))
    assert torch.equal(generation.tensors()["stamps"], torch.full((DOCUMENTS,), step))
    assert (generation.step, generation.values) == (step, {"budget": step / 3})
    return step


@contextmanager
def deadly(place: int) -> Iterator[None]:
    """The process is killed just before its so-manieth change to the file system."""
    numbers = count()
    for name in SYSTEM_CALLS:
        setattr(os, name, counted(getattr(os, name), numbers, place))
    yield


def counted(call: Any, numbers: Iterator[int], place: int) -> Any:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if next(numbers) == place:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)

    return wrapped


def kill_everywhere(folder: Path) -> None:
    """Kills the second save before each of its system calls; what is left is the first or the second."""
    for place in count():
        path = folder / f"{place}.ckpt"
        save(path, 1)
        child = os.fork()
        if child == 0:
            with deadly(place):
                save(path, 2)
            os._exit(0)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        print("place", place, complete_step(path) if killed else "done", flush=True)  # noqa: T201
        save(path, 3)
        assert complete_step(path) == 3
        assert len(list(path.with_name(f"{path.name}.index").iterdir())) == 1
        if not killed:
            return


def kill_at_random(folder: Path, rounds: int) -> None:
    """Kills a process that saves again and again at any time."""
    path, draw, step = folder / "last.ckpt", random.Random(0), 0
    save(path, 0)
    for _ in range(rounds):
        child = os.fork()
        if child == 0:
            for later in count(step + 1):
                save(path, later)
        time.sleep(draw.uniform(0.005, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = complete_step(path)
        assert found >= step
        step = found
        print("random", step, flush=True)  # noqa: T201


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # what a killed process wrote is not lost; only a power cut would tell
    kill_everywhere(Path(sys.argv[1]) / "everywhere")
    kill_at_random(Path(sys.argv[1]) / "random", rounds=15)
