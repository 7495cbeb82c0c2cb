import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from srch3.cli import main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, and the command line of a program without arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["srch3"])
    handler = signal.getsignal(signal.SIGINT)
    yield tmp_path
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail, and returns the line that it prints."""

    def run(args: list[str], code: int = 2) -> str:
        with pytest.raises(SystemExit) as stop:
            main(args)
        assert stop.value.code == code
        printed = [line for line in capsys.readouterr().err.splitlines() if "error" in line or "Error" in line]
        assert len(printed) == 1, printed
        return printed[0]

    return run
