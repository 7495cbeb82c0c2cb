from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.quickstart.stages import read_config
from experiments.stage1 import commands, several
from experiments.stage1.commands import CONFIGS, Job, base_job, digest, stage1_job
from experiments.stage1.settings import Settings
from experiments.stage1.variants import FULL, UNTRAINED, VARIANTS
from srch3.cli import main as srch3
from srch3.data import BeirDataModule
from tests.experiments.stage1 import make_data, option, settings_for


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    return make_data(tmp_path / "words")


# Settings


def test_the_folder_of_the_data_gives_the_output_its_name(beir: Path) -> None:
    assert settings_for(beir) == Settings(beir, Path("runs/stage1/words"), variants=tuple(VARIANTS))
    assert settings_for(beir, "--smoke").output == Path("runs/stage1/words-smoke")
    chosen = settings_for(beir, "--output", "x", "--seeds", "4", "4", "1", "--variants", "no-thoughts", "full")
    assert (chosen.output, chosen.seeds, chosen.variants) == (Path("x"), (4, 1), ("full", "no-thoughts"))
    assert chosen.data_set == "words"


def test_only_the_splits_that_are_there_are_measured(beir: Path) -> None:
    assert settings_for(beir).splits() == {"dev": "dev", "test": "test", "unseen": "test_unseen"}
    (beir / "qrels" / "test_unseen.tsv").unlink()
    (beir / "qrels" / "dev.tsv").unlink()
    assert settings_for(beir).splits() == {"test": "test"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "-1"], "--seeds of 0 or more"),
        (["--jobs", "0"], "--jobs of 1 or more"),
        (["--smoke", "--publish"], "--publish: expected a full run"),
        (["--variants", "unheard-of"], "invalid choice: 'unheard-of'"),
    ],
)
def test_what_cannot_be_asked_for(
    arguments: list[str], message: str, beir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        settings_for(beir, *arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_training_judgements_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings_for(tmp_path)
    assert "--root: expected a BEIR folder with qrels/train.tsv" in capsys.readouterr().err


# Commands and variants


def stage1(settings: Settings, name: str = FULL, seed: int = 3) -> Job:
    return stage1_job(settings, name, VARIANTS[name], seed, base_job(settings))


def test_variant_and_seed_reach_training_and_every_test(beir: Path, tmp_path: Path) -> None:
    settings = settings_for(beir, "--output", str(tmp_path / "out"))
    job = stage1(settings, "no-base-kl")
    folder = tmp_path / "out" / "no-base-kl" / "seed3"
    assert job.name == "no-base-kl/seed3"
    assert list(job.tests) == ["dev", "test", "unseen"]
    for command in (job.training, *job.tests.values()):
        assert option(command, "-c") == str(CONFIGS / "sft.yaml")
        assert option(command, "--data.init_args.root") == str(beir)
        assert option(command, "--model.init_args.base_kl.init_args.weight") == "0"
        assert option(command, "--model.init_args.backbone.init_args.model") == str(tmp_path / "out" / "base")
        for key in ("--seed_everything", "--model.init_args.seed", "--data.init_args.seed"):
            assert option(command, key) == "3"
    assert option(job.training, "--best_checkpoint.dirpath") == str(folder)
    assert option(job.tests["unseen"], "--data.init_args.test_split") == "test_unseen"
    assert option(job.tests["dev"], "--ckpt_path") == str(folder / "best.ckpt")
    assert option(stage1(settings, "direct-only").tests["test"], "--model.init_args.modes") == commands.ALL_MODES


def test_the_untrained_model_is_measured_as_it_is(beir: Path) -> None:
    job = stage1(settings_for(beir), UNTRAINED)
    assert job.training == []
    assert all("--ckpt_path" not in command for command in job.tests.values())


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_fingerprints_follow_settings_data_and_base(beir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for(beir)
    before = stage1(settings)
    assert stage1(settings) == before
    others = {stage1(settings, "direct-only").fingerprint, stage1(settings, seed=4).fingerprint}
    digest.cache_clear()
    append(beir / "queries.jsonl", '{"_id": "new", "text": "new"}\n')
    others.add(stage1(settings).fingerprint)
    edited = beir.parent / "configs"
    edited.mkdir()
    for name in ("base", "sft"):
        (edited / f"{name}.yaml").write_bytes((CONFIGS / f"{name}.yaml").read_bytes())
    monkeypatch.setattr(commands, "CONFIGS", edited)
    others.add(stage1(settings).fingerprint)
    append(edited / "base.yaml", "# other\n")
    others.add(stage1(settings).fingerprint)
    assert len(others - {before.fingerprint}) == 5


def said(config: dict[str, Any], key: str) -> Any:
    for part in key.removeprefix("--").split("."):
        config = config.get(part, {}) if isinstance(config, dict) else {}
    return config


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in (FULL, UNTRAINED)])
def test_every_variant_changes_the_recipe_and_can_be_built(name: str, beir: Path) -> None:
    words = VARIANTS[name].options.split()
    recipe = read_config(CONFIGS / "sft.yaml")
    changed = [yaml.safe_load(value) != said(recipe, key) for key, value in zip(words[::2], words[1::2], strict=True)]
    assert changed
    assert all(changed)
    root = ["--data.init_args.root", str(beir), "--model.init_args.backbone.init_args.model", "nowhere"]
    built = srch3(["-c", str(CONFIGS / "sft.yaml"), *root, "--trainer.accelerator", "cpu", *words], run=False)
    assert set(VARIANTS[name].modes) == set(built.model.train_modes) | (
        {"direct"} if name == "thought-dropout" else set()
    )


def test_stage_zero_can_be_built(beir: Path) -> None:
    options = base_job(settings_for(beir)).training[1:]
    built = srch3([*options, "--trainer.accelerator", "cpu"], run=False)
    assert built.datamodule.vocab_size == 6144
    assert isinstance(built.datamodule.source, BeirDataModule)
    assert built.model.output_dir == Path("runs/stage1/words/base")


def test_several_commands_run_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(several, "srch3", ran.append)
    several.main(["test -c 'a b.yaml'", "test --x []"])
    assert ran == [["test", "-c", "a b.yaml"], ["test", "--x", "[]"]]
