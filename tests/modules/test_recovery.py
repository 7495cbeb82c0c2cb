from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from srch3.environments import SearchEnvironment
from srch3.errors import NumericError
from srch3.modules import SFTModule
from srch3.modules.recovery import last_good_checkpoint, way_back
from tests.toy import ToyDataModule, quiet_trainer, toy_embedder


def saved(path: Path, step: int) -> str:
    torch.save({"global_step": step, "state_dict": {}}, path)
    return str(path)


def keeper(last: str = "", best: str = "", others: tuple[str, ...] = ()) -> ModelCheckpoint:
    callback = ModelCheckpoint()
    callback.last_model_path, callback.best_model_path = last, best
    callback.best_k_models = {path: torch.tensor(0.0) for path in others}
    return callback


def run(*keepers: ModelCheckpoint, ckpt_path: str | None = None) -> Any:
    return SimpleNamespace(checkpoint_callbacks=list(keepers), ckpt_path=ckpt_path)


def test_the_newest_checkpoint_from_before_is_named(tmp_path: Path) -> None:
    paths = {step: saved(tmp_path / f"{step}.ckpt", step) for step in (10, 20, 30, 40)}
    trainer = run(keeper(last=paths[40]), keeper(best=paths[10], others=(paths[30], paths[20])))
    assert last_good_checkpoint(trainer, 41) == paths[40]
    assert last_good_checkpoint(trainer, 40) == paths[30]
    assert last_good_checkpoint(trainer, 30) == paths[20]
    assert last_good_checkpoint(trainer, 11) == paths[10]
    assert last_good_checkpoint(trainer, 10) is None
    assert way_back(trainer, 35) == f"resume from the last good checkpoint with --ckpt_path {paths[30]}"
    assert way_back(trainer, 5) == "no checkpoint from before is left, so start again"


def test_a_resumed_run_may_go_back_to_where_it_began(tmp_path: Path) -> None:
    began = saved(tmp_path / "other.ckpt", 8)
    assert last_good_checkpoint(run(keeper(), ckpt_path=began), 9) == began
    assert last_good_checkpoint(run(keeper(), ckpt_path=began), 8) is None
    assert last_good_checkpoint(run(), 8) is None


def test_what_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.ckpt", 1)
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes(Path(saved(tmp_path / "whole.ckpt", 2)).read_bytes()[:100])
    empty = tmp_path / "empty.ckpt"
    empty.touch()
    torch.save({"state_dict": {}}, tmp_path / "mute.ckpt")
    torch.save([1], tmp_path / "list.ckpt")
    odd = tuple(str(tmp_path / name) for name in ("torn.ckpt", "empty.ckpt", "mute.ckpt", "list.ckpt", "absent.ckpt"))
    assert last_good_checkpoint(run(keeper(best=good, others=odd)), 9) == good
    assert last_good_checkpoint(run(keeper(others=odd)), 9) is None


class Saboteur(L.Callback):
    """Spoils the weights that an optimizer step has just made."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            next(module.parameters()).data.fill_(torch.nan)


def test_a_loss_that_is_no_number_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    model = SFTModule(toy_embedder(tmp_path / "model"), optimizer=torch.optim.AdamW)
    saver = ModelCheckpoint(tmp_path / "kept", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    callbacks = [SearchEnvironment(show_progress=False), Saboteur(3), saver]
    trainer = quiet_trainer(tmp_path, max_steps=9, limit_val_batches=0, callbacks=callbacks, enable_checkpointing=True)
    with pytest.raises(NumericError, match="the training loss became nan at step 3") as stop:
        trainer.fit(model, ToyDataModule(batch_size=4))
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {f"step={step}.ckpt" for step in (1, 2, 3)}
    assert str(stop.value).endswith(
        f"; resume from the last good checkpoint with --ckpt_path {tmp_path}/kept/step=2.ckpt"
    )
