"""The second stages of published work: their numbers, their rewards, and two steps of each."""

import csv
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from srch3.backbones import ChatPrompts, PlainPrompts
from srch3.cli import SearchCLI, main
from srch3.modules import RLModule
from srch3.rewards import BaseReward, Sum
from tests.models import make_model_folder
from tests.runs import CONFIGS, QUIET
from tests.test_recipes import flat, make_data

RECIPES = CONFIGS / "recipes" / "rl"
ARXIV = {
    "search_r3": "2510.07048",
    "lrem": "2510.14321",
    "grace": "2510.04506",
    "elva": "2606.20280",
    "embed_rl": "2602.13823",
    "ume_r1": "2511.00405",
}
REWARDS = {
    "search_r3": {"scaled_dcg": 1.0},
    "lrem": {"format": 0.5, "length": 0.2, "log_rank": 1.0},
    "grace": {"contrastive": 1.0},
    "elva": {"margin": 0.4, "similarity_rank": 0.6},
    "embed_rl": {"format": 0.05, "rank_margin": 0.2},
    "ume_r1": {"format": 1.0, "rank_margin": 1.0},
}
TERMS = ("policy_loss", "reference_kl", "info_nce")
WEIGHTS = {
    "search_r3": (1.0, 0.04, 0.0),
    "lrem": (1.0, 0.0, 0.1),
    "grace": (1.0, 0.0, 0.0),
    "elva": (1.0, 0.2, 0.0),
    "embed_rl": (1.0, 0.01, 0.0),
    "ume_r1": (1.0, 0.04, 0.0),
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "search_r3": {
        "model.backbone.model": "Qwen/Qwen2.5-1.5B-Instruct",
        "model.backbone.embed_token": "<|embed_token|>",
        "model.backbone.truncation": "left",
        "model.pool.class_path": "srch3.rewards.IndexPool",
        "model.rollouts_on": "queries",
        "environment.refresh.class_path": "srch3.environments.ContestedRefresh",
    },
    "lrem": {
        "model.backbone.model": "Qwen/Qwen2.5-3B-Instruct",
        "model.optimizer.lr": 1e-6,
        "model.schedule": "cosine",
        "model.warmup": 0.03,
        "model.samples": 8,
        "model.scale_by_std": True,
        "model.pool.class_path": "srch3.rewards.BatchPool",
        "model.rollouts_on": "queries",
        "data.batch_size": 256,
        "trainer.max_epochs": 1,
    },
    "grace": {
        "model.backbone.model": "Qwen/Qwen2.5-1.5B-Instruct",
        "model.backbone.max_thought_tokens": 2048,
        "model.optimizer.lr": 1e-6,
        "model.schedule": "constant",
        "model.reward.consistency": 0.2,
        "model.reward.temperature": 0.1,
        "model.reward.missing": -1.0,
        "model.samples": 8,
        "model.temperature": 1.0,
        "model.scale_by_std": False,
        "model.policy_loss.normaliser": "dapo",
        "model.rollouts_on": "both",
        "model.documents": "thinking",
        "data.batch_size": 64,
        "trainer.max_epochs": 2,
    },
    "elva": {
        "model.optimizer.lr": 1e-6,
        "model.backbone.lora.class_path": "srch3.backbones.LoRA",
        "model.samples": 8,
        "model.pool.hard": 50,
        "model.pool.random": 50,
        "model.documents": "thinking",
        "data.limit_train": 11000,
        "trainer.max_epochs": 1,
    },
    "embed_rl": {
        "model.optimizer.lr": 3e-6,
        "model.optimizer.weight_decay": 0.0,
        "model.schedule": "constant",
        "model.samples": 4,
        "model.temperature": 1.0,
        "model.scale_by_std": True,
        "model.policy_loss.normaliser": "dapo",
        "model.pool.across_ranks": True,
        "model.rollouts_on": "both",
        "model.frozen": "embedder",
        "model.backbone.max_thought_tokens": 2048,
        "data.batch_size": 32,
        "trainer.max_epochs": 1,
    },
    "ume_r1": {
        "model.optimizer.lr": 1e-6,
        "model.samples": 8,
        "model.policy_loss.clip_low": 0.2,
        "model.policy_loss.clip_high": 0.2,
        "model.modes": ["thinking", "direct"],
        "data.batch_size": 256,
        "data.limit_train": 11000,
    },
}
NAMES = sorted(ARXIV)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(name: str, *options: str) -> list[str]:
    return ["--config", str(RECIPES / f"{name}.yaml"), "--data.init_args.root=beir", *QUIET, *options]


@cache
def build(name: str) -> SearchCLI:
    return main(recipe(name), run=False)


def rewards(name: str) -> list[BaseReward]:
    reward = build(name).model.reward
    return list(reward.rewards) if isinstance(reward, Sum) else [reward]


# What the files say


def test_the_tables_know_every_recipe() -> None:
    found = {path.stem for path in RECIPES.glob("*.yaml")}
    assert found == set(ARXIV) == set(REWARDS) == set(WEIGHTS) == set(PUBLISHED)


@pytest.mark.parametrize("name", NAMES)
def test_headers_name_the_work_its_figures_and_what_differs(name: str) -> None:
    lines = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if line.startswith("#"))
    assert f"arXiv {ARXIV[name]}" in lines[0]
    assert len(lines) <= 80
    assert re.search(r"\d\.\d|\.\d\d", text.split("#\n")[2].replace(ARXIV[name], "")), "the paper's figures"
    starts = [text.index(f"\n# {words}") for words in ("The paper's", "Ours", "What differs: ")]
    assert starts == sorted(starts)
    assert re.search(r"\b(read|reported)\b", text[starts[0] : starts[1]])


# The numbers of the papers


@pytest.mark.parametrize("name", NAMES)
def test_rewards_and_terms_have_the_published_weights(name: str) -> None:
    model = build(name).model
    assert isinstance(model, RLModule)
    assert {reward.name: reward.weight for reward in rewards(name)} == REWARDS[name]
    assert tuple(getattr(model, term).weight for term in TERMS) == WEIGHTS[name]


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_the_published_ones(name: str) -> None:
    settings = flat(build(name))
    assert {key: settings[key] for key in PUBLISHED[name]} == PUBLISHED[name]


def test_thoughts_of_lrem_may_be_longer_than_is_rewarded() -> None:
    _, length, rank = rewards("lrem")
    backbone = build("lrem").model.backbone
    assert isinstance(backbone.prompts, PlainPrompts)
    assert (length.shortest, length.longest) == (0, 16)
    assert backbone.max_thought_tokens > length.longest + 1
    assert rank.k > build("lrem").datamodule.batch_size


def test_lrem_goes_on_from_the_form_of_its_cold_start() -> None:
    first = main(["--config", str(RECIPES.parent / "lrem_cold_start.yaml"), "--data.init_args.root=beir"], run=False)
    one, two = (cli.model.backbone for cli in (first, build("lrem")))
    assert vars(one.prompts) == vars(two.prompts)
    assert (one.name, one.embed_token) == (two.name, two.embed_token)


def test_pools_are_judged_as_far_as_they_go() -> None:
    margin, order = rewards("elva")
    assert (margin.k, order.k) == (100, 1 + 50 + 50)
    _, embed_rl = rewards("embed_rl")
    assert (embed_rl.top, embed_rl.negative_temperature) == (8, 0.5)
    _, ume_r1 = rewards("ume_r1")
    assert (ume_r1.top, ume_r1.negative_temperature) == (8, None)
    assert embed_rl.k == ume_r1.k > 256


@pytest.mark.parametrize("name", ["grace", "elva"])
def test_one_prompt_asks_about_queries_and_documents(name: str) -> None:
    prompts = build(name).model.backbone.prompts
    assert isinstance(prompts, ChatPrompts)
    assert prompts.systems["thinking"] == prompts.systems["thinking_document"]
    assert prompts.systems["thinking"].endswith("{embed_token}.")


# Training


@pytest.mark.parametrize("name", NAMES)
def test_two_steps(name: str, folder: Path) -> None:
    make_data(folder / "beir")
    model = f"--model.init_args.backbone.init_args.model={make_model_folder(folder / 'model')}"
    short = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--model.init_args.samples=3"]
    short += ["--data.init_args.batch_size=6", "--data.init_args.limit_val=8", "--model.init_args.hits=40"]
    tiny = [f"--model.init_args.backbone.init_args.max_{text}_tokens={count}" for text, count in TOKENS.items()]
    cli = main(["fit", *recipe(name, model, *short, *tiny)])
    with Path("runs/version_0/metrics.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    assert sum("train/loss" in row for row in rows) == 2
    assert all(math.isfinite(value) for row in rows for value in row.values())
    logged = set().union(*rows)
    used = {term for term, weight in zip(TERMS, WEIGHTS[name], strict=True) if weight > 0}
    assert {term for term in TERMS if f"train/{term}" in logged} == used
    assert {f"train/reward/{part}" for part in REWARDS[name]} <= logged or len(REWARDS[name]) == 1
    assert {f"val/{mode}/ndcg@10" for mode in cli.model.modes} <= logged
    assert Path("runs/version_0/checkpoints/last.ckpt").is_file()


TOKENS = {"query": 64, "document": 64, "thought": 6}
