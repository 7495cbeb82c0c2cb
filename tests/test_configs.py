import inspect
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, StrategyRegistry
from torch.distributed.fsdp import ShardingStrategy

import srch3.backbones
import srch3.data
import srch3.environments
import srch3.indexes
import srch3.losses
import srch3.modules
import srch3.monitoring
import srch3.rewards
from srch3.backbones import ChatPrompts, LoRA, PlainPrompts
from srch3.cli import SearchCLI, main
from srch3.data import BeirDataModule, ColumnThoughts, JsonlDataModule, KeywordThoughts
from srch3.environments import ContestedRefresh, SearchEnvironment
from srch3.indexes import ExactIndex, HnswIndex
from srch3.modules import RLModule, SFTModule
from srch3.rewards import ScaledDCG

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
FILES = sorted(path.relative_to(ROOT) for path in CONFIGS.rglob("*.yaml"))
OWN_COMMAND = [path for path in FILES if "quickstart" not in path.parts]
GROUPS = {"trainer", "model", "data", "environment", "best_checkpoint", "last_checkpoint", "search_results"}
PLACEHOLDERS = {"BEIR_FOLDER": "beir", "MODEL_FOLDER": "model", "TRAIN_FILE": "train.jsonl", "DATA_SET": "saved"}
NEEDS_GPU = {"fsdp.yaml", "deepspeed.yaml"}
CPU = ["--trainer.accelerator=cpu", "--trainer.devices=1"]
PACKAGES = [
    srch3.backbones, srch3.data, srch3.environments, srch3.indexes, srch3.losses, srch3.modules, srch3.monitoring,
    srch3.rewards,
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder beside the configurations, in which nothing that they name exists."""
    (tmp_path / "configs").symlink_to(CONFIGS)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    left_behind = {path.name for path in tmp_path.iterdir()} - {"configs"}
    assert left_behind == set(), "building alone must neither read nor write anything"


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    return content


def header(path: Path) -> str:
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:first])


def command(text: str) -> list[str]:
    """The options of the one command in a header or a fenced block, placeholders filled in."""
    (found,) = re.findall(r"^ *(python -m srch3 (?:.*\\\n)*.*)$", text, re.MULTILINE)
    words = shlex.split(found.replace("\\\n", " "))
    assert words[:3] == ["python", "-m", "srch3"]
    for name, value in PLACEHOLDERS.items():
        words = [word.replace(name, value) for word in words]
    return words[3:]


def build(*options: str) -> SearchCLI:
    return main([*options, *CPU], run=False)


def kind_of(content: dict[str, Any]) -> str:
    if "class_path" in content:
        return "part"
    return "whole" if {"model", "data"} <= set(content) else "layer"


# Every file


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_is_a_part_a_layer_or_a_whole_experiment(path: Path) -> None:
    expected = {"part": {"backbone", "data", "environment", "backbone.yaml"}, "layer": {"trainer"}}
    places = {path.parent.name, path.name}
    kind = next((kind for kind, names in expected.items() if names & places), "whole")
    content = read(path)
    assert kind_of(content) == kind
    assert set(content) <= ({"class_path", "init_args"} if kind == "part" else GROUPS | {"seed_everything"})


@pytest.mark.parametrize("path", OWN_COMMAND, ids=str)
def test_the_command_in_the_header_builds_with_the_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subcommand, *options = command(header(path))
    assert subcommand == "fit"
    named_in = [(ROOT / option).read_text(encoding="utf-8") for option in options if option.endswith(".yaml")]
    part = str(path.relative_to("configs"))
    assert str(path) in options or any(f": {part}" in text or f": ../{part}" in text for text in named_in)
    if path.name in NEEDS_GPU:
        with pytest.raises(SystemExit) as stop:
            main([subcommand, *options, "--print_config"])
        assert stop.value.code == 0
        printed, asked = yaml.safe_load(capsys.readouterr().out)["trainer"], read(path)["trainer"]
        assert all(printed[name] == value for name, value in asked.items() if name != "strategy")
    else:
        assert isinstance(build(*options), SearchCLI)


@pytest.mark.parametrize("path", [path for path in FILES if kind_of(read(path)) == "whole"], ids=str)
def test_every_whole_experiment_is_one_file_with_at_most_paths_missing(path: Path) -> None:
    init_args = read(path)["data"].get("init_args", {})
    needs_root = read(path)["data"]["class_path"] == "BeirDataModule" and "root" not in init_args
    needs_model = path.parent.name == "small"
    options = ["--data.init_args.root=beir"] * needs_root
    options += ["--model.init_args.backbone.init_args.model=model"] * needs_model
    built = build("-c", str(path), *options)
    assert type(built.model).__name__ == read(path)["model"]["class_path"]
    assert type(built.datamodule).__name__ == read(path)["data"]["class_path"]


@pytest.mark.parametrize("path", OWN_COMMAND, ids=str)
def test_headers_say_what_the_file_is_and_whose_values_these_are(path: Path) -> None:
    first, *rest = header(path).splitlines()
    assert first.endswith((".", ":"))
    assert re.search(r"\b(paper|[Oo]urs)\b", " ".join([first, *rest]))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_file_is_unused(path: Path) -> None:
    table = (CONFIGS / "README.md").read_text(encoding="utf-8")
    assert f"`{path.relative_to('configs')}`" in table or f"`{path.name}`" in table


def test_the_table_names_no_file_that_is_not_there() -> None:
    table = re.findall(r"^\| `.*", (CONFIGS / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = set(re.findall(r"`([\w./-]+\.yaml)`", "\n".join(table)))
    assert named
    assert {Path(name).name for name in named} <= {path.name for path in FILES}


# Every key


def objects(content: Any) -> Iterator[tuple[type, dict[str, Any]]]:
    """Every class in a configuration that is one of ours, with the arguments that it is given."""
    if isinstance(content, list):
        for item in content:
            yield from objects(item)
    if not isinstance(content, dict):
        return
    name = content.get("class_path", "")
    found = next((getattr(package, name) for package in PACKAGES if hasattr(package, name)), locate(name))
    if isinstance(found, type) and found.__module__.startswith("srch3"):
        yield found, content.get("init_args", {})
    for value in content.values():
        yield from objects(value)


def documented(kind: type) -> set[str]:
    """Arguments that the docstrings of a class and its bases explain."""
    sections = re.findall(r"^Args:\n((?: +.*\n?|\n)+)", "\n".join(inspect.getdoc(k) or "" for k in kind.__mro__), re.M)
    return set(re.findall(r"^ {4}(\w+): ", "\n".join(sections), re.M))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_argument_in_a_file_is_documented(path: Path) -> None:
    for kind, arguments in objects(read(path)):
        assert set(arguments) <= documented(kind), kind


def test_an_undocumented_argument_is_found() -> None:
    ((kind, arguments),) = objects([{"class_path": "KeywordThoughts", "init_args": {"terms": 1, "words": 2}}])
    assert set(arguments) - documented(kind) == {"words"}


# What the experiments come to


def test_stage_one_has_the_papers_model_and_unit_weights() -> None:
    built = build("-c", "configs/sft.yaml", "--data.init_args.root=beir")
    model, data = built.model, built.datamodule
    assert isinstance(model, SFTModule)
    assert model.backbone.name == "Qwen/Qwen2.5-1.5B-Instruct"
    assert model.backbone.embed_token == "<|embed_token|>"
    assert isinstance(model.backbone.prompts, ChatPrompts)
    terms = (model.cross_entropy, model.base_kl, model.info_nce, model.triplet_margin)
    assert [term.weight for term in terms] == [1, 1, 1, 1]
    assert isinstance(data, BeirDataModule)
    assert isinstance(data.thoughts, KeywordThoughts)


def test_stage_two_has_the_papers_reward_and_an_environment() -> None:
    built = build("-c", "configs/rl.yaml", "--data.init_args.root=beir")
    assert isinstance(built.model, RLModule)
    assert isinstance(built.model.reward, ScaledDCG)
    assert (built.model.samples, built.model.temperature) == (8, 1.0)
    (environment,) = (c for c in built.trainer.callbacks if isinstance(c, SearchEnvironment))
    assert isinstance(environment.index, ExactIndex)
    assert isinstance(environment.refresh, ContestedRefresh)


@pytest.mark.parametrize("pair", ["", "small/"])
def test_the_stages_of_a_pair_share_the_model_and_no_training_query(pair: str) -> None:
    options = ["--data.init_args.root=beir"] + ["--model.init_args.backbone.init_args.model=m"] * bool(pair)
    one, two = (build("-c", f"configs/{pair}{stage}.yaml", *options) for stage in ("sft", "rl"))
    assert one.datamodule.train_slice[1] <= two.datamodule.train_slice[0]
    assert without_path(one.config.model.init_args.backbone) == without_path(two.config.model.init_args.backbone)


def without_path(config: Namespace) -> dict[str, Any]:
    return {name: value for name, value in config.as_dict().items() if name != "__path__"}


# Composition


def test_layers_change_only_what_they_name_and_the_later_wins() -> None:
    small = ["-c", "configs/small/sft.yaml", "--data.init_args.root=beir", f"{BACKBONE}.init_args.model=model"]
    alone = build(*small)
    layered = build(*small, "-c", "configs/trainer/rehearsal.yaml")
    assert (alone.trainer.max_steps, layered.trainer.max_steps) == (300, 3)
    assert layered.trainer.gradient_clip_val == alone.trainer.gradient_clip_val == 1.0
    assert build("-c", "configs/trainer/rehearsal.yaml", *small).trainer.max_steps == 300
    assert build(*small, "-c", "configs/trainer/rehearsal.yaml", "--trainer.max_steps=5").trainer.max_steps == 5


BACKBONE = "--model.init_args.backbone"


def test_a_part_on_the_command_line_takes_the_place_of_the_experiments_own() -> None:
    built = build("-c", "configs/sft.yaml", "--data.init_args.root=beir", BACKBONE, "configs/backbone/tiny.yaml")
    assert isinstance(built.model.backbone.prompts, PlainPrompts)
    assert built.model.backbone.max_thought_tokens == 16
    adapted = build("-c", "configs/sft.yaml", "--data.init_args.root=beir", BACKBONE, LORA)
    assert isinstance(adapted.model.backbone.lora, LoRA)


LORA = "configs/backbone/qwen2.5-1.5b-lora.yaml"


def test_of_another_data_module_the_settings_that_both_know_stay() -> None:
    built = build("-c", "configs/rl.yaml", "--data", "configs/data/jsonl.yaml", "--data.init_args.train=train.jsonl")
    data = built.datamodule
    assert isinstance(data, JsonlDataModule)
    assert tuple(data.train_slice) == (0.7, 1.0)
    assert (data.batch_size, data._limits["val"]) == (32, 500)
    assert isinstance(data.thoughts, ColumnThoughts)


def test_environments_can_be_swapped() -> None:
    options = ["-c", "configs/rl.yaml", "--data.init_args.root=beir"]
    built = build(*options, "--environment", "configs/environment/hnsw.yaml", "--environment.init_args.index.m=8")
    (environment,) = (c for c in built.trainer.callbacks if isinstance(c, SearchEnvironment))
    assert isinstance(environment.index, HnswIndex)
    assert (environment.index.m, environment.index.ef) == (8, 200)


def test_files_named_in_a_file_of_ones_own_are_found_beside_it(folder: Path) -> None:
    blocks = re.findall(r"```yaml configs/mine\.yaml\n(.*?)```", (CONFIGS / "README.md").read_text(), re.DOTALL)
    mine = folder / "mine.yaml"
    text = re.sub(r": (\w+/\w+\.yaml)", r": configs/\1", blocks[0])
    mine.write_text(text)
    try:
        built = build("-c", "mine.yaml", f"{BACKBONE}.init_args.model=model")
    finally:
        mine.unlink()
    assert built.model.backbone.max_query_tokens == 32
    assert built.trainer.max_steps == 500


def test_weights_and_biases_is_one_line() -> None:
    options = ["-c", "configs/sft.yaml", "--data.init_args.root=beir"]
    assert isinstance(build(*options).trainer.logger, CSVLogger)
    for more in (["-c", "configs/trainer/wandb.yaml"], ["--trainer.logger=WandbLogger"]):
        assert isinstance(build(*options, *more).trainer.logger, WandbLogger)


def test_several_processes_are_one_layer() -> None:
    options = ["-c", "configs/sft.yaml", "--data.init_args.root=beir", "-c", "configs/trainer/ddp.yaml"]
    assert isinstance(build(*options).trainer.strategy, DDPStrategy)


def test_strategies_that_shard() -> None:
    sharded = read(Path("configs/trainer/fsdp.yaml"))["trainer"]["strategy"]
    assert sharded["class_path"] == "FSDPStrategy"
    strategy = FSDPStrategy(**sharded["init_args"])
    assert strategy.sharding_strategy is ShardingStrategy.SHARD_GRAD_OP
    assert "auto_wrap_policy" not in strategy.kwargs
    assert read(Path("configs/trainer/deepspeed.yaml"))["trainer"]["strategy"] in StrategyRegistry


def readme_commands() -> list[str]:
    text = (CONFIGS / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [block for block in blocks if "configs/mine.yaml" not in block and "runs/" not in block]


@pytest.mark.parametrize("block", readme_commands())
def test_commands_of_the_readme_build(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    subcommand, *options = command(block)
    if "--print_config" in options:
        with pytest.raises(SystemExit) as stop:
            main([subcommand, *options])
        assert stop.value.code == 0
        assert yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["root"] == "beir"
    else:
        assert isinstance(build(*options), SearchCLI)


# Help


@pytest.mark.parametrize("words", [[], ["fit"], ["validate"], ["test"], ["predict"]])
def test_help_exits_well(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["srch3", *words, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("srch3", run_name="__main__")
    assert stop.value.code == 0
    assert "usage: python -m srch3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "kind", "says"),
    [
        ("--model.help", "SFTModule", "--model.train_modes"),
        ("--model.help", "RLModule", "--model.samples"),
        ("--data.help", "BeirDataModule", "--data.val_fraction"),
        ("--environment.help", "SearchEnvironment", "--environment.audit_every_n_steps"),
    ],
)
def test_help_on_one_class_explains_its_arguments(
    option: str, kind: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", option, kind])
    assert stop.value.code == 0
    assert says in capsys.readouterr().out
