import errno
import logging
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from srch3.errors import ConfigError, DataError, SearchError
from srch3.messages import exit_in_one_line, in_our_words, quieten
from srch3.usage import UsageError, explain


class MyError(SearchError):
    """An error of a user's own."""


def worker_text(error: str) -> str:
    heading = "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):"
    return f'{heading}\n  File "x"\n{error}'


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            DataError("data.init_args.root: expected a folder;\n got nothing"),
            "data.init_args.root: expected a folder; got nothing",
        ),
        (MyError("mine"), "mine"),
        (DataError(worker_text("srch3.errors.DataError: corpus: empty")), "corpus: empty"),
        (MyError(worker_text("package.MyError: a: b")), "a: b"),
        (MisconfigurationException("No `test_step`\ndefined"), "No `test_step` defined"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x.csv"),
            "cannot write runs/x.csv: No space left on device",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write a file: No space left on device"),
        (
            ValueError("loaded state dict has a different number of parameter groups"),
            "ckpt_path: the checkpoint's optimizer has other parameters than the configured model trains",
        ),
        (
            torch.multiprocessing.ProcessRaisedException(
                "-- Process 1:\nTraceback\nsrch3.errors.DataError: empty", 1, 1
            ),
            "empty",
        ),
        (torch.multiprocessing.ProcessRaisedException("-- Process 1:\nTraceback\nValueError: x", 1, 1), None),
        (OSError(errno.EPIPE, "Broken pipe"), None),
        (ValueError("a bug"), None),
    ],
)
def test_known_errors_become_one_line_and_unknown_ones_do_not(error: Exception, words: str | None) -> None:
    assert in_our_words(error) == words


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_too_little_memory_says_what_to_lower(error: Exception) -> None:
    assert "lower data.init_args.batch_size" in str(in_our_words(error))


def test_weights_that_do_not_fit_name_the_first_misfit() -> None:
    with pytest.raises(RuntimeError) as misfit:
        nn.Linear(2, 1).load_state_dict(nn.Linear(3, 1).state_dict())
    assert "size mismatch for weight" in str(in_our_words(misfit.value))
    with pytest.raises(RuntimeError) as long:
        nn.Linear(2, 1).load_state_dict({f"{'x' * 50}{number}": torch.ones(1) for number in range(9)})
    words = str(in_our_words(long.value))
    assert len(words) < 300
    assert "\n" not in words
    assert in_our_words(RuntimeError("Error(s) in loading state_dict for Line:")) is not None


@pytest.mark.parametrize(("error", "code"), [(UsageError("a"), 2), (ConfigError("a"), 1), (KeyboardInterrupt(), 130)])
def test_exit_codes(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, exit_in_one_line():
        raise error
    assert stop.value.code == code
    assert stop.value.__cause__ is error
    assert capsys.readouterr().err == ("stopped\n" if code == 130 else "error: a\n")


@pytest.mark.parametrize(("value", "kind"), [("1", ConfigError), ("0", SystemExit), ("", SystemExit)])
def test_debugging_shows_the_traceback(value: str, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRCH3_DEBUG", value)
    with pytest.raises(kind), exit_in_one_line():
        raise ConfigError("a")


@pytest.mark.filterwarnings("always")
def test_only_known_noise_is_silenced() -> None:
    with warnings.catch_warnings(record=True) as heard, quieten():
        warnings.warn("The 'train_dataloader' does not have many workers which may be a bottleneck.", stacklevel=1)
        warnings.warn("\n    ``f`` was deprecated in v4.49.0 and will be\n    removed in v5.0.0.\n", stacklevel=1)
        warnings.warn("Found 3 module(s) in eval mode at the start of training.", stacklevel=1)
    assert [str(warning.message)[:5] for warning in heard] == ["Found"]


def test_advertisements_are_silenced_for_the_time_being(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    advertisement = "💡 Tip: For seamless cloud logging, try installing something"
    with caplog.at_level("INFO"):
        with quieten():
            logger.info(advertisement)
            logger.info("Restored all states")
        assert caplog.messages == ["Restored all states"]
        logger.info(advertisement)
    assert caplog.messages[1:] == [advertisement]


def test_a_complaint_of_an_unknown_kind_is_joined_to_one_line() -> None:
    assert explain(TypeError("something\n  new"), {"a": 1}, []) == "something new (see: python -m srch3 fit --help)"


def test_a_file_that_is_not_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.yaml").write_bytes(b"\xff\xd8\xff")
    words = explain(TypeError("Unexpected config: x"), ["fit", "-c", "image.yaml"], [])
    assert words == "--config: cannot read image.yaml: not a text file"


def test_a_config_that_turns_out_fine_leaves_the_parsers_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fine.yaml").write_text("model: a\n")
    words = explain(TypeError("Problems parsing config: a loop"), ["fit", "-c", "fine.yaml"], [])
    assert words.startswith("Problems parsing config: a loop")
