from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from experiments.quickstart.stages import read_config
from experiments.stage1 import commands as stage1_commands
from experiments.stage1.commands import Job
from experiments.stage2 import run, smoke
from experiments.stage2.clock import TrainingTime
from experiments.stage2.commands import base_job, stage1_job, steps_in_time, variant_job
from experiments.stage2.pauses import PauseThoughts
from experiments.stage2.settings import HERE, Settings, data_set, parse, with_needs
from experiments.stage2.variants import ALL_MODES, FULL, VARIANTS
from srch3.backbones import PlainPrompts
from srch3.cli import main as srch3
from srch3.modules import RLModule, SFTModule
from tests.experiments.stage1 import make_data, option
from tests.runs import write_lines


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    return make_data(tmp_path / "words")


def settings_for(*arguments: str) -> Settings:
    return parse(run.PROGRAM, "", list(arguments))


def jobs_of(settings: Settings, name: str = FULL, seed: int = 3, steps: int | None = None) -> tuple[Job, Job, Job]:
    base = base_job(settings)
    stage1 = stage1_job(settings, seed, base)
    return base, stage1, variant_job(settings, name, VARIANTS[name], seed, stage1, steps)


# Settings


def test_the_data_give_the_output_its_name(beir: Path) -> None:
    assert settings_for("--root", str(beir)) == Settings(data_set("words", beir), Path("runs/stage2/words"))
    assert settings_for("--quickstart") == Settings(data_set("quickstart", None), Path("runs/stage2/quickstart"))
    chosen = settings_for("--root", str(beir), "--output", "x", "--seeds", "4", "4", "1", "--variants", "no-kl", "full")
    assert (chosen.output, chosen.seeds, chosen.variants) == (Path("x"), (4, 1), ("full", "no-kl"))


def test_the_smoke_version_makes_its_own_data(tmp_path: Path) -> None:
    settings = settings_for("--smoke", "--output", str(tmp_path))
    assert settings.data.root == tmp_path / "data"
    assert list(settings.data.splits()) == ["dev", "test", "unseen"]
    asked = settings.data.test_data()["unseen"].queries("test")
    assert len(asked) == smoke.DOCUMENTS
    assert (settings.steps, settings.stage1_steps) == (smoke.STEPS, smoke.STEPS)


def test_a_control_in_time_brings_what_it_is_timed_by() -> None:
    assert with_needs(["no-kl", "pause-in-time"]) == ("full", "no-kl", "pause", "pause-in-time")
    assert with_needs(["direct"]) == ("direct",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quickstart", "--seeds", "-1"], "--seeds of 0 or more"),
        (["--quickstart", "--steps", "1"], "--steps: expected 2 or more; got 1"),
        (["--quickstart", "--stage1-steps", "0"], "--stage1-steps: expected 2 or more; got 0"),
        (["--smoke", "--publish"], "--publish: expected a full run"),
        (["--smoke", "--quickstart"], "not allowed with argument"),
        (["--root", "nowhere"], "--root: expected a BEIR folder with qrels/train.tsv; got nowhere"),
        ([], "one of the arguments --root --quickstart --smoke is required"),
        (["--quickstart", "--variants", "unheard-of"], "invalid choice: 'unheard-of'"),
    ],
)
def test_what_cannot_be_asked_for(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        settings_for(*arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


# Commands and variants


def test_variant_seed_and_checkpoint_reach_training_and_every_test(beir: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    _, stage1, job = jobs_of(settings_for("--root", str(beir), "--output", str(output)), "no-kl")
    assert (stage1.name, job.name) == ("stage1/seed3", "no-kl/seed3")
    assert list(job.tests) == ["dev", "test", "unseen"]
    for command in (job.training, *job.tests.values()):
        assert option(command, "-c") == str(HERE / "rl.yaml")
        assert option(command, "--data.init_args.root") == str(beir)
        assert option(command, "--model.init_args.reference_kl.init_args.weight") == "0"
        assert option(command, "--model.init_args.backbone.init_args.model") == str(output / "base")
        assert option(command, "--model.init_args.init_from") == str(output / "stage1" / "seed3" / "best.ckpt")
        for key in ("--seed_everything", "--model.init_args.seed", "--data.init_args.seed"):
            assert option(command, key) == "3"
    assert option(job.training, "--best_checkpoint.dirpath") == str(output / "no-kl" / "seed3")
    assert option(job.tests["unseen"], "--data.init_args.test_split") == "test_unseen"
    assert option(job.tests["dev"], "--ckpt_path") == str(output / "no-kl" / "seed3" / "best.ckpt")
    assert option(job.tests["dev"], "--model.init_args.modes") == f"[{','.join(ALL_MODES)}]"
    assert option(stage1.tests["dev"], "-c") == str(HERE / "sft.yaml")


def test_lengths_change_and_the_number_of_validations_does_not(beir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "experiments.stage2.commands.trainer_of", lambda path: {"max_steps": 60, "val_check_interval": 20}
    )
    _, stage1, job = jobs_of(settings_for("--root", str(beir), "--steps", "30", "--stage1-steps", "2"))
    assert option(job.training, "--trainer.max_steps") == "30"
    assert option(job.training, "--trainer.val_check_interval") == "10"
    assert option(stage1.training, "--trainer.max_steps") == "2"
    assert option(stage1.training, "--trainer.val_check_interval") == "1"
    _, stage1, job = jobs_of(settings_for("--root", str(beir)), steps=120)
    assert "--trainer.max_steps" not in stage1.training
    assert option(job.training, "--trainer.val_check_interval") == "40"


def test_a_frozen_index_is_not_refreshed_by_validation(beir: Path) -> None:
    settings = settings_for("--root", str(beir))
    training = jobs_of(settings, "frozen-index")[-1].training
    assert option(training, "--trainer.max_steps") == str(read_config(settings.data.rl)["trainer"]["max_steps"])
    assert option(training, "--trainer.val_check_interval") == option(training, "--trainer.max_steps")


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_fingerprints_follow_settings_data_files_and_what_they_build_on(beir: Path, tmp_path: Path) -> None:
    files = tmp_path / "configs"
    files.mkdir()
    for name in ("sft", "rl", "backbone"):
        (files / f"{name}.yaml").write_bytes((HERE / f"{name}.yaml").read_bytes())
    plain = settings_for("--root", str(beir))
    settings = plain._replace(data=plain.data._replace(sft=files / "sft.yaml", rl=files / "rl.yaml"))

    def fingerprint(*others: Any, **more: Any) -> str:
        return jobs_of(settings, *others, **more)[-1].fingerprint

    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    seen += [fingerprint("no-kl"), fingerprint(seed=4), fingerprint(steps=50)]
    edits: list[Callable[[], None]] = [
        lambda: append(files / "rl.yaml", "  every_n_train_steps: 9\n"),
        lambda: append(files / "backbone.yaml", "  seed: 5\n"),
        lambda: append(files / "sft.yaml", "  every_n_train_steps: 9\n"),
        lambda: append(beir / "queries.jsonl", '{"_id": "new", "text": "new"}\n'),
    ]
    for edit in edits:
        edit()
        stage1_commands.digest.cache_clear()
        seen.append(fingerprint())
    assert len(set(seen)) == len(seen) == 8


def said(config: Any, key: str) -> Any:
    for part in key.removeprefix("--").split("."):
        config = config.get(part, {}) if isinstance(config, dict) else {}
    return config


def build(command: list[str]) -> Any:
    clock_and_all = [word for word in command[1:] if word != "--ckpt_path"]
    return srch3([*clock_and_all, "--trainer.accelerator", "cpu"], run=False)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != FULL])
def test_every_variant_changes_the_recipe_and_can_be_built(name: str, beir: Path) -> None:
    settings = settings_for("--root", str(beir))
    words = VARIANTS[name].options.split()
    recipe = read_config(settings.data.rl)
    changed = [yaml.safe_load(value) != said(recipe, key) for key, value in zip(words[::2], words[1::2], strict=True)]
    assert changed
    assert all(changed)
    built = build(jobs_of(settings, name)[-1].training)
    assert type(built.model) is (SFTModule if VARIANTS[name].control else RLModule)
    assert built.datamodule.train_slice == (0.7, 1.0)
    assert any(isinstance(callback, TrainingTime) for callback in built.trainer.callbacks)


@pytest.mark.parametrize("name", ["direct", "pause"])
@pytest.mark.parametrize("data", ["beir", "quickstart"])
def test_a_control_is_stage_two_under_supervision(name: str, data: str, beir: Path) -> None:
    settings = settings_for("--quickstart") if data == "quickstart" else settings_for("--root", str(beir))
    full, control = (build(jobs_of(settings, each)[-1].training) for each in (FULL, name))
    for key in ("schedule", "warmup", "init_from"):
        assert getattr(control.model, key) == getattr(full.model, key)
    assert control.model.embedding_lr_scale == 5
    for key in ("max_query_tokens", "max_document_tokens", "max_thought_tokens", "name", "seed"):
        assert getattr(control.model.backbone, key) == getattr(full.model.backbone, key)
    assert type(control.model.backbone.prompts) is type(full.model.backbone.prompts) is PlainPrompts
    weights = [torch.nn.Parameter(torch.zeros(1))]
    first, second = (built.model.make_optimizer(weights).defaults for built in (full, control))
    assert first == second
    for key in ("batch_size", "train_slice"):
        assert getattr(control.datamodule, key) == getattr(full.datamodule, key)
    assert control.trainer.max_steps == full.trainer.max_steps
    assert control.model.train_modes == [{"direct": "direct", "pause": "thinking"}[name]]
    assert isinstance(control.datamodule.thoughts, PauseThoughts) == (name == "pause")
    assert not control.model.triplet_margin.used
    assert not control.model.base_kl.used


@pytest.mark.parametrize("data", ["beir", "quickstart"])
def test_stages_share_no_query_and_can_be_built(data: str, beir: Path) -> None:
    settings = settings_for("--quickstart") if data == "quickstart" else settings_for("--root", str(beir))
    base, stage1, full = map(build, (job.training for job in jobs_of(settings)))
    assert stage1.datamodule.train_slice == (0.0, 0.7)
    assert full.datamodule.train_slice == (0.7, 1.0)
    assert base.model.output_dir == settings.output / "base"
    if data == "beir":
        assert base.datamodule.source.train_slice == (0.0, 0.7)


def test_a_control_in_time_has_the_steps_that_fit(tmp_path: Path) -> None:
    settings = settings_for("--quickstart", "--output", str(tmp_path))
    full, twin = (Job(name, [], {}, "") for name in ("full", "direct"))
    for job, rows in ((full, ["9,0.5", "59,120.0"]), (twin, ["39,16.0"])):
        (tmp_path / job.name / "logs" / "version_0").mkdir(parents=True)
        write_lines(tmp_path / job.name / "logs" / "version_0" / "metrics.csv", ["step,train/seconds", *rows])
    assert steps_in_time(settings, full, twin) == 300
