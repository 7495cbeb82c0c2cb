from pathlib import Path

import lightning as L
import pytest
import torch
import yaml

from srch3.cli import main
from tests.cli.line import FAST, LAST, toy


def test_a_run_leaves_its_config_metrics_and_checkpoints_in_its_own_folder(folder: Path) -> None:
    for _ in range(2):
        main(toy("fit", "--model.lr=0.25"))
    for version in ("version_0", "version_1"):
        config = yaml.safe_load((folder / "runs" / version / "config.yaml").read_text())
        assert config["model"] == {
            "class_path": "tests.programs.Line",
            "init_args": {"lr": 0.25, "weight_decay": 0.0, "decays": False, "width": 1},
        }
        assert (folder / "runs" / version / "metrics.csv").is_file()
        assert sorted(path.name for path in (folder / "runs" / version / "checkpoints").iterdir()) == [
            "best.ckpt",
            "last.ckpt",
        ]
    assert sorted(path.name for path in folder.iterdir()) == ["runs"]


def test_the_saved_config_of_a_fit_runs_again_and_serves_the_other_subcommands(folder: Path) -> None:
    fitted = main(toy("fit"))
    config = "runs/version_0/config.yaml"
    again = main(["fit", "-c", config])
    assert torch.equal(fitted.model.weight, again.model.weight)
    tested = main(["test", "-c", config, "--ckpt_path", LAST])
    assert tested.trainer.callback_metrics["test/weight"] == fitted.model.weight.sum()


def test_later_files_and_options_win_and_files_named_in_a_file_are_found_beside_it(folder: Path) -> None:
    (folder / "parts").mkdir()
    (folder / "parts" / "line.yaml").write_text("class_path: tests.programs.Line\ninit_args: {lr: 0.5, width: 3}\n")
    (folder / "base.yaml").write_text(
        "model: parts/line.yaml\ndata: tests.programs.NumberData\nenvironment: NoEnvironment\n"
    )
    (folder / "more.yaml").write_text("model:\n  class_path: tests.programs.SteeperLine\n  init_args: {lr: 0.25}\n")
    cli = main(["-c", "base.yaml", "-c", "more.yaml", "--model.init_args.weight_decay=0.125", *FAST], run=False)
    assert type(cli.model).__name__ == "SteeperLine"
    assert (cli.model.lr, cli.model.weight.numel(), cli.model.weight_decay) == (0.25, 3, 0.125)


def test_settings_may_be_a_dictionary() -> None:
    cli = main(
        {
            "model": {"class_path": "tests.programs.Line"},
            "data": {"class_path": "tests.programs.NumberData"},
            "environment": {"class_path": "NoEnvironment"},
        },
        run=False,
    )
    assert isinstance(cli.model, L.LightningModule)


def test_a_run_names_its_folder_and_its_checkpoints(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        main(toy("fit"))
    (begun,) = [line for line in caplog.messages if line.startswith("this run's folder")]
    (over,) = [line for line in caplog.messages if line.startswith("fit is done")]
    assert begun == "this run's folder: runs/version_0"
    best, last = (f"runs/version_0/checkpoints/{name}.ckpt" for name in ("best", "last"))
    assert over == f"fit is done, in runs/version_0; checkpoints: {best}, {last}"
    assert Path(best).is_file()
    assert Path(last).is_file()


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("max_steps=2 --trainer.val_check_interval=3", f"; checkpoints: {LAST}; no best.ckpt, since no validation ran"),
        ("enable_checkpointing=false", "; no checkpoint was written"),
    ],
)
def test_a_run_says_which_checkpoints_it_lacks(caplog: pytest.LogCaptureFixture, option: str, expected: str) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        main(toy("fit", *f"--trainer.{option}".split()))
    (over,) = [line for line in caplog.messages if line.startswith("fit is done")]
    assert over == f"fit is done, in runs/version_0{expected}"


def test_weights_and_biases_gets_the_whole_nested_config_offline(folder: Path) -> None:
    wandb = pytest.importorskip("wandb")
    cli = main(
        toy("fit", "--trainer.logger=WandbLogger", "--trainer.logger.offline=true", "--trainer.logger.project=p")
    )
    config = dict(cli.trainer.logger.experiment.config)
    version = cli.trainer.logger.version
    wandb.finish()
    assert config["model"]["init_args"]["lr"] == 0.1
    assert config["last_checkpoint"]["every_n_minutes"] == 5.0
    assert (folder / "runs" / "p" / version / "config.yaml").is_file()
    assert [path.name for path in folder.iterdir()] == ["runs"]


def test_without_a_logger_the_config_goes_to_the_root_of_the_run(folder: Path) -> None:
    main(toy("fit", "--trainer.logger=false", "--trainer.default_root_dir=here"))
    assert (folder / "here" / "config.yaml").is_file()
    assert (folder / "here" / "checkpoints" / "last.ckpt").is_file()
