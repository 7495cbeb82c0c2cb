from pathlib import Path

import pytest
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import SingleDeviceStrategy

from srch3.checkpoint_callbacks import BestCheckpoint, LastCheckpoint
from srch3.checkpoints import AtomicCheckpointIO
from srch3.cli import SearchCLI, main
from srch3.environments import NoEnvironment, SearchEnvironment
from tests.cli.line import built, toy


def test_the_environment_is_a_callback_that_no_list_of_callbacks_displaces() -> None:
    cli = built("--trainer.callbacks=RichProgressBar", "--trainer.enable_progress_bar=true")
    kinds = [type(callback) for callback in cli.trainer.callbacks]
    assert NoEnvironment in kinds
    assert kinds.count(RichProgressBar) == 1
    assert kinds[-2:] == [BestCheckpoint, LastCheckpoint]


def test_the_search_environment_is_the_default() -> None:
    args = [arg for arg in toy("fit")[1:] if "environment" not in arg]
    cli = main(args, run=False)
    assert any(isinstance(callback, SearchEnvironment) for callback in cli.trainer.callbacks)


def test_classes_go_by_their_short_names() -> None:
    config = built("--environment=SearchEnvironment", "--environment.index=HnswIndex", "--environment.index.m=8").config
    assert config.environment.init_args.index.class_path.endswith("HnswIndex")
    assert config.environment.init_args.index.init_args.m == 8


def test_samplers_are_left_alone_and_seeds_are_fixed_by_default() -> None:
    config = built().config
    assert config.trainer.use_distributed_sampler is False
    assert config.seed_everything == 0


def test_a_users_own_checkpoint_replaces_the_best_and_not_the_last() -> None:
    cli = built("--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.monitor=val/other")
    assert [type(keeper) for keeper in cli.trainer.checkpoint_callbacks] == [ModelCheckpoint, LastCheckpoint]


@pytest.mark.parametrize("switch", ["--trainer.enable_checkpointing=false", "--trainer.fast_dev_run=true"])
def test_checkpoints_can_be_switched_off(switch: str) -> None:
    keepers = built(switch).trainer.checkpoint_callbacks
    assert not any(isinstance(keeper, BestCheckpoint | LastCheckpoint) for keeper in keepers)


def test_files_are_atomic_unless_the_user_brings_other_ones() -> None:
    assert isinstance(built().trainer.strategy.checkpoint_io, AtomicCheckpointIO)
    brought = built("--trainer.plugins=TorchCheckpointIO")
    assert type(brought.trainer.strategy.checkpoint_io) is TorchCheckpointIO


def test_a_strategy_with_files_of_its_own_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    own = TorchCheckpointIO()
    kept = SearchCLI.instantiate_trainer(built(), strategy=SingleDeviceStrategy("cpu", checkpoint_io=own))
    assert kept.strategy.checkpoint_io is own


def test_print_config_shows_what_was_asked_and_runs_nothing(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(toy("fit", "--model.lr=0.75", "--print_config"))
    assert stop.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["lr"] == 0.75
    assert list(folder.iterdir()) == []
