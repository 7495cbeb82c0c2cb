"""What was finished already, and what it took, so that running again goes on instead of starting over."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from experiments.quickstart.process import Spent
from experiments.quickstart.stages import Stage

NAME = "stage.json"


class Progress(NamedTuple):
    """How far a stage got, over all attempts with the same settings.

    Attributes:
        fingerprint: That of the stage's settings.
        finished: Whether it came to its end.
        attempts: How often it was started.
        seconds: Of all attempts together.
        peak_mib: The largest of all attempts.
    """

    fingerprint: str = ""
    finished: bool = False
    attempts: int = 0
    seconds: float = 0.0
    peak_mib: float = 0.0

    def after(self, spent: Spent) -> "Progress":
        """With one more attempt."""
        return self._replace(
            finished=spent.code == 0,
            attempts=self.attempts + 1,
            seconds=self.seconds + spent.seconds,
            peak_mib=max(self.peak_mib, spent.peak_mib),
        )


def progress_of(stage: Stage, output: Path) -> tuple[Progress, bool]:
    """How far a stage got, and whether an earlier attempt is lost since it had other settings.

    What was made with other settings is removed, so that nothing of it can be taken for the present stage's.

    Args:
        stage: The stage.
        output: Folder of the whole run.
    """
    folder = output / stage.name
    found = _read(folder / NAME)
    if found is not None and found.fingerprint == stage.fingerprint:
        return found, False
    forget(stage, output)
    return Progress(stage.fingerprint), found is not None


def save(progress: Progress, stage: Stage, output: Path) -> None:
    """Writes down how far a stage got; the file is whole at any time."""
    folder = output / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(progress._asdict(), folder / NAME)


def write_json(content: Any, path: Path) -> None:
    """Writes a file that is whole at any time."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def forget(stage: Stage, output: Path) -> None:
    """Removes what a stage left behind; never a folder that is not its own."""
    folder = output / stage.name
    if (folder / NAME).is_file():
        shutil.rmtree(folder)


def resuming(stage: Stage, output: Path) -> list[str]:
    """The stage's command, going on from the checkpoint of an earlier attempt where there is one."""
    last = output / stage.name / "last.ckpt"
    return [*stage.command, "--ckpt_path", str(last)] if stage.resumable and last.is_file() else stage.command


def _read(path: Path) -> Progress | None:
    try:
        return Progress(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        return Progress()
