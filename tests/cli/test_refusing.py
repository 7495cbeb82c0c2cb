import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from srch3.checkpoints import read_checkpoint
from srch3.cli import main
from tests.cli.line import LAST, TOY, toy


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "expected a subcommand, one of fit, validate, test, predict"),
        (["fti"], "unknown subcommand fti; did you mean fit?"),
        (["--config", "a.yaml", "fit"], "the subcommand comes first: python -m srch3 fit --config a.yaml"),
        (["--config", "a.yaml"], "expected a subcommand"),
        (["fit"], "missing required keys model, data (see: python -m srch3 fit --help)"),
        (["test", *TOY], "missing required key model (see: python -m srch3 test --help)"),
        (["fit", "--config", "absent.yaml"], "--config: cannot read absent.yaml: No such file or directory"),
        (["fit", "--config=absent.yaml"], "--config: cannot read absent.yaml: No such file or directory"),
        (toy("fit", "--trainer.max_epoch=3"), "unknown key trainer.max_epoch; did you mean trainer.max_epochs?"),
        (toy("fit", "--trianer.max_epochs=3"), "unknown key trianer.max_epochs; did you mean trainer?"),
        (toy("fit", "--trainer.max_epochs=abc"), "trainer.max_epochs: expected int or null; got abc"),
        (toy("fit", "--trainer.max_epochs=steps.txt"), "trainer.max_epochs: expected int or null; got steps.txt"),
        (toy("fit", "--model.lr=fast"), "model.init_args.lr: expected float; got fast"),
        (
            toy("fit", "--model.init_args.lrr=1"),
            "unknown key model.init_args.lrr: Line has no such argument; did you mean lr?",
        ),
        (toy("fit", "--model.zzz=1"), "Line has no such argument; it takes lr, weight_decay, decays, width"),
        (toy("fit", model="Lime"), "model: unknown class tests.programs.Lime"),
        (toy("fit", "--model=SFTModle"), "model: unknown class SFTModle; did you mean SFTModule?"),
        (toy("fit", "--model=no.such.Thing"), "model: unknown class no.such.Thing"),
        (toy("fit", "--model=absent/line.yaml"), "model: file absent/line.yaml does not exist"),
        (
            toy("fit", "--model=srch3.indexes.HnswIndex"),
            "model: expected a subclass of LightningModule; got srch3.indexes",
        ),
        (
            toy("fit", "--environment=SearchEnvironment", "--environment.index=HnswIndx"),
            "environment.init_args.index: unknown class HnswIndx; did you mean HnswIndex?",
        ),
        (
            toy("fit", "--environment=SearchEnvironment", "--environment.index=HnswIndex", "--environment.index.m=x"),
            "environment.init_args.index.init_args.m: expected int; got x",
        ),
        (toy("fit", "--model"), "argument --model: expected one argument"),
        (toy("fit", "extra"), "unrecognized arguments: extra"),
        (toy("fit", "--trainer.logger=CSVLoger"), "trainer.logger: unknown class CSVLoger; did you mean CSVLogger?"),
    ],
)
def test_what_cannot_be_parsed_is_one_line_that_says_what_to_type(
    refusal: Callable[..., str], args: list[str], expected: str
) -> None:
    line = refusal(args)
    assert line.startswith(f"error: {expected}") or (not expected.startswith("unknown") and expected in line)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: [\n", "bad.yaml:2:1: not valid YAML"),
        ("- model\n- data\n", "bad.yaml: expected keys such as `model:` and `data:`; got list"),
        ("\x00", "bad.yaml: not valid YAML"),
        ("modle:\n  class_path: tests.programs.Line\n", "unknown key modle.class_path; did you mean model?"),
        ("model:\n  class_pth: tests.programs.Line\n", "unknown key model.class_pth; did you mean class_path?"),
        ("model:\n  class_path: Lne\n", "model: unknown class Lne; did you mean Line?"),
        ("trainer:\n  max_epohcs: 3\n", "unknown key trainer.max_epohcs; did you mean trainer.max_epochs?"),
        (
            "model:\n  class_path: tests.programs.Line\n  init_args:\n    lr: fast\n",
            "model.init_args.lr: expected float",
        ),
    ],
)
def test_a_bad_config_file_is_one_line(folder: Path, refusal: Callable[..., str], text: str, expected: str) -> None:
    (folder / "bad.yaml").write_text(text)
    assert refusal(["fit", *TOY, "-c", "bad.yaml"]).startswith(f"error: {expected}")


def test_no_environment_at_all_is_refused(refusal: Callable[..., str]) -> None:
    line = refusal(toy("fit", "--environment=null"))
    assert line.startswith("error: missing required key environment; write `environment: NoEnvironment` for none")


def test_what_the_trainer_refuses_is_one_line(refusal: Callable[..., str]) -> None:
    assert refusal(toy("fit", "--trainer.accelerator=abacus"), code=1).startswith("error: trainer: ")


def test_our_errors_while_training_are_one_line(refusal: Callable[..., str]) -> None:
    line = refusal(toy("fit", model="NanLine"), code=1)
    assert line == "error: loss: expected a finite number; got nan; lower the learning rate"


def test_our_errors_in_a_worker_process_are_one_line(refusal: Callable[..., str]) -> None:
    line = refusal(toy("fit", "--data.broken=true", "--data.num_workers=1"), code=1)
    assert line == "error: data.init_args.root: expected a folder; got nothing"


def test_a_metric_to_monitor_that_is_never_logged_is_one_line(refusal: Callable[..., str]) -> None:
    assert "val/nothing" in refusal(toy("fit", "--best_checkpoint.monitor=val/nothing"), code=1)


def test_a_full_disk_while_training_is_one_line(refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    main(toy("fit"))
    monkeypatch.setattr(os, "fsync", refuse)
    line = refusal(toy("fit", "--ckpt_path", LAST, "--trainer.max_epochs=3"), code=1)
    assert "cannot write" in line
    assert "No space left on device" in line
    assert read_checkpoint(Path(LAST))["global_step"] == 8


def test_a_bug_in_a_users_class_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError, match="a bug in a user's subclass"):
        main(toy("fit", model="BuggyLine"))


def test_the_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRCH3_DEBUG", "1")
    with pytest.raises(Exception, match="unknown key modle"):
        main(toy("fit", "--modle=1"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import not_installed_anywhere", "broken_part cannot be imported: No module named 'not_installed_anywhere'"),
        ("class Thing(:", "broken_part cannot be imported: SyntaxError: invalid syntax"),
        ("1 / 0", "broken_part cannot be imported: ZeroDivisionError: division by zero"),
        ("", "broken_part has no Thing"),
    ],
)
def test_a_module_of_the_users_that_cannot_be_imported_says_why(
    folder: Path, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch, source: str, expected: str
) -> None:
    (folder / "broken_part.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("broken_part", None)
    line = refusal(toy("fit", "--environment=broken_part.Thing"))
    assert "environment: unknown class broken_part.Thing; " in line
    assert expected in line


def test_a_module_that_is_nowhere_is_named(refusal: Callable[..., str]) -> None:
    line = refusal(toy("fit", "--environment=nowhere_at_all.parts.Thing"))
    assert "unknown class nowhere_at_all.parts.Thing; there is no module nowhere_at_all: is the folder" in line
