import io
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar
from rich import get_console, reconfigure

from srch3.environments import SearchEnvironment
from srch3.environments.progress import encoding_bar
from tests.environments.toy import ToyData, ToyModule, toy_corpus, trainer


@pytest.fixture
def terminal() -> Iterator[io.StringIO]:
    screen = io.StringIO()
    reconfigure(file=screen, force_terminal=True, width=120)
    yield screen
    reconfigure()


def test_a_short_pass_shows_nothing(terminal: io.StringIO) -> None:
    with encoding_bar("Encoding", 10) as advance:
        advance(10)
    assert terminal.getvalue() == ""


def test_a_long_pass_shows_how_far_it_is(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srch3.environments.progress.PATIENCE", 0.0)
    with encoding_bar("Encoding things", 10) as advance:
        advance(3)
        advance(4)
    assert "Encoding things" in terminal.getvalue()
    assert "7/10" in terminal.getvalue()


def test_nothing_is_shown_where_that_was_asked(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srch3.environments.progress.PATIENCE", 0.0)
    with encoding_bar("Encoding", 10, visible=False) as advance:
        advance(10)
    assert terminal.getvalue() == ""


def test_the_bar_goes_away_when_encoding_fails(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srch3.environments.progress.PATIENCE", 0.0)

    def fail() -> None:
        with encoding_bar("Encoding", 10) as advance:
            advance(1)
            assert get_console()._live_stack
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not get_console()._live_stack


class Watched(ToyModule):
    def encode_documents(self, texts: Sequence[str], on_progress: Callable[[int], None] | None = None) -> torch.Tensor:
        vectors = super().encode_documents(texts, on_progress)
        self.depths = [*getattr(self, "depths", []), len(get_console()._live_stack)]
        return vectors


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
def test_both_progress_bars_share_the_screen(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("progress", "encoding"):
        monkeypatch.setattr(f"srch3.environments.{module}.PATIENCE", 0.0)
    lightnings = RichProgressBar(console_kwargs={"file": terminal, "force_terminal": True, "width": 120})
    model = Watched()
    run = trainer(SearchEnvironment(), lightnings, enable_progress_bar=True)
    run.fit(model, datamodule=ToyData(toy_corpus(20), toy_corpus(30)))
    assert max(model.depths) == 2
    assert not get_console()._live_stack
    for words in ("Epoch 0", "Encoding training corpus", "Encoding refresh", "Encoding val documents"):
        assert words in terminal.getvalue()


def test_a_file_gets_no_empty_lines() -> None:
    printed = io.StringIO()
    reconfigure(file=printed, force_terminal=False)
    try:
        with encoding_bar("Encoding", 10) as advance:
            advance(10)
    finally:
        reconfigure()
    assert printed.getvalue() == ""
