"""The recipes of published work: their numbers, what the model reads, and two steps of each."""

import csv
import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from srch3.backbones import PlainPrompts
from srch3.cli import SearchCLI, main
from srch3.data import FileThoughts
from srch3.modules import SFTModule
from srch3.types import TrainBatch
from tests.models import make_model_folder
from tests.runs import CONFIGS, QUIET, make_beir_folder, write_lines

RECIPES = CONFIGS / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
ARXIV = {
    "search_r3": "2510.07048",
    "lrem_cold_start": "2510.14321",
    "o1_embedder": "2502.07555",
    "cre_t1": "2603.17387",
}
TERMS = ("cross_entropy", "base_kl", "info_nce", "triplet_margin")
WEIGHTS = {
    "search_r3": (1.0, 1.0, 1.0, 1.0),
    "lrem_cold_start": (0.1, 0.0, 1.0, 0.0),
    "o1_embedder": (0.2, 0.0, 0.8, 0.0),
    "cre_t1": (1.0, 0.0, 1.0, 2.0),
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "search_r3": {
        "model.backbone.model": "Qwen/Qwen2.5-1.5B-Instruct",
        "model.backbone.embed_token": "<|embed_token|>",
        "model.backbone.truncation": "left",
        "model.backbone.lora": None,
        "data.thoughts.class_path": "srch3.data.NoThoughts",
        "data.negatives": None,
    },
    "lrem_cold_start": {
        "model.backbone.model": "Qwen/Qwen2.5-3B-Instruct",
        "model.backbone.max_thought_tokens": 16 + 1,
        "model.backbone.lora": None,
        "model.optimizer.lr": 1e-5,
        "model.schedule": "cosine",
        "model.warmup": 0.03,
        "data.batch_size": 128,
        "data.negatives": 0,
        "trainer.max_epochs": 1,
    },
    "o1_embedder": {
        "model.backbone.model": "Qwen/Qwen2.5-7B",
        "model.backbone.dtype": "bfloat16",
        "model.backbone.max_query_tokens": 32,
        "model.backbone.max_document_tokens": 192,
        "model.backbone.max_thought_tokens": 256 - 32,
        "model.backbone.lora.r": 32,
        "model.backbone.lora.alpha": 64,
        "model.backbone.lora.dropout": 0.1,
        "model.backbone.lora.target_modules": "all-linear",
        "model.optimizer.lr": 1e-4,
        "model.optimizer.weight_decay": 0.0,
        "model.schedule": "linear",
        "model.warmup": 0.1,
        "model.thought_dropout": 0.1,
        "model.info_nce.temperature": 0.02,
        "data.batch_size": 8 * 8,
        "data.negatives": 15,
        "trainer.max_epochs": 1,
    },
    "cre_t1": {
        "model.backbone.model": "Qwen/Qwen2.5-1.5B-Instruct",
        "model.backbone.embed_token": "<emb_token>",
        "data.negatives": None,
    },
}
CHAT = "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
NEGATIVES = {"train0": ["d1", "d2"]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(name: str, *options: str) -> list[str]:
    return ["--config", str(RECIPES / f"{name}.yaml"), "--data.init_args.root=beir", *QUIET, *options]


@cache
def build(name: str, *options: str) -> SearchCLI:
    return main(recipe(name, *options), run=False)


def flat(cli: SearchCLI) -> dict[str, Any]:
    """Every setting, also those that the file leaves at their defaults, by its path without ``init_args``."""
    return {key.replace(".init_args", ""): value for key, value in vars(cli.config.as_flat()).items()}


def header(name: str) -> str:
    lines = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


# What the files say


def test_the_tables_know_every_recipe() -> None:
    assert set(ARXIV) == set(WEIGHTS) == set(PUBLISHED) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_headers_name_the_work_and_tell_its_values_from_ours(name: str) -> None:
    text = header(name)
    assert f"arXiv {ARXIV[name]}" in text.splitlines()[0]
    assert f"-c configs/recipes/{name}.yaml --data.init_args.root BEIR_FOLDER" in text
    starts = [text.index(f"\n# {words}") for words in ("The paper's", "Ours", "What differs: ")]
    assert starts == sorted(starts)
    assert re.search(r"\b(read|reported)\b", text[starts[0] : starts[1]])


@pytest.mark.parametrize("name", [name for name in NAMES if "FileThoughts" in header(name)])
def test_the_options_for_a_teachers_thoughts_are_understood(name: str) -> None:
    (options,) = re.findall(r"`(--data\.init_args\.thoughts .*)`", header(name))
    thoughts = build(name, *options.split()).datamodule.thoughts
    assert isinstance(thoughts, FileThoughts)
    assert thoughts.path == "thoughts.jsonl"


@pytest.mark.parametrize("name", NAMES)
def test_recipes_are_short(name: str) -> None:
    assert len((RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()) <= 80


# The numbers of the papers


@pytest.mark.parametrize("name", NAMES)
def test_terms_have_the_published_weights(name: str) -> None:
    model = build(name).model
    assert isinstance(model, SFTModule)
    terms = [getattr(model, term) for term in TERMS]
    assert tuple(term.weight for term in terms) == WEIGHTS[name]
    assert not any(term.changes for term in terms)
    assert model.train_modes == ["thinking"]


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_the_published_ones(name: str) -> None:
    settings = flat(build(name))
    missing = {key for key, value in PUBLISHED[name].items() if value is not None} - set(settings)
    assert missing == set()
    assert {key: settings.get(key) for key in PUBLISHED[name]} == PUBLISHED[name]


# What the model reads


@pytest.mark.parametrize(
    ("name", "thinking", "direct", "document"),
    [
        ("lrem_cold_start", "tea<think>", "tea<think><emb>", "tea<emb>"),
        ("o1_embedder", "<query>tea</query><thought>", "<query>tea</query><thought><emb>", "tea<emb>"),
    ],
)
def test_forms_without_a_chat_template(name: str, thinking: str, direct: str, document: str) -> None:
    backbone = build(name).model.backbone
    assert isinstance(backbone.prompts, PlainPrompts)
    assert rendered(name) == [thinking, direct, document]


def test_search_r3_asks_for_a_representation_and_is_answered_with_the_token() -> None:
    thinking, direct, document = rendered("search_r3")
    system = "Represent the user's query for finding relevant documents."
    assert thinking == CHAT.format(system=system, text="tea")
    assert direct == f"{thinking}The embedding is <|embed_token|>"
    assert document.endswith("tea<|im_end|>\n<|im_start|>assistant\nThe embedding is <|embed_token|>")


def test_documents_of_cre_t1_are_instruction_text_and_token() -> None:
    thinking, _, document = rendered("cre_t1")
    assert "Then end with <emb_token>." in thinking
    system = "Represent the user's text so that it is found by relevant queries."
    assert document == f"{CHAT.format(system=system, text='tea')}<emb_token>"


def rendered(name: str) -> list[str]:
    """What a tiny model is given for the text "tea" to think about, as a query at once, and as a document."""
    backbone = build(
        name, f"--model.init_args.backbone.init_args.model={make_model_folder(Path('model'))}"
    ).model.backbone
    backbone.build()
    tokenizer = backbone.prompt_tokenizer
    return [tokenizer.render(["tea"], role)[0] for role in ("thinking", "direct", "document")]


# Training


@pytest.mark.parametrize("name", NAMES)
def test_two_steps(name: str, folder: Path) -> None:
    make_data(folder / "beir")
    model = f"--model.init_args.backbone.init_args.model={make_model_folder(folder / 'model')}"
    short = ["--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    short += ["--data.init_args.batch_size=8", "--data.init_args.limit_val=8"]
    cli = main(["fit", *recipe(name, model, *short, "--model.init_args.backbone.init_args.max_thought_tokens=6")])
    with Path("runs/version_0/metrics.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    assert sum("train/loss" in row for row in rows) == 2
    assert all(math.isfinite(value) for row in rows for value in row.values())
    logged = set().union(*rows)
    assert {term for term in TERMS if f"train/{term}" in logged} == used(name)
    assert {f"val/{mode}/ndcg@10" for mode in cli.model.modes} <= logged
    assert Path("runs/version_0/checkpoints/last.ckpt").is_file()
    check_batch(name, next(batch for batch in cli.datamodule.train_dataloader() if "train0" in batch.ids))


def used(name: str) -> set[str]:
    return {term for term, weight in zip(TERMS, WEIGHTS[name], strict=True) if weight > 0}


def check_batch(name: str, batch: TrainBatch) -> None:
    """Thoughts and hard negatives are those of the folder where the recipe has any."""
    row = batch.ids.index("train0")
    assert batch.thoughts[row] == ("" if name == "search_r3" else "thought of train0")
    assert sorted(batch.negative_ids[row]) == ([] if name == "lrem_cold_start" else NEGATIVES["train0"])


def make_data(root: Path) -> None:
    """A BEIR folder with thoughts, and with hard negatives for one query."""
    queries = make_beir_folder(root) / "queries.jsonl"
    asked = [json.loads(line) for line in queries.read_text(encoding="utf-8").splitlines()]
    write_lines(queries, [json.dumps({**query, "thought": f"thought of {query['_id']}"}) for query in asked])
    (root / "negatives").mkdir()
    pairs = [f"{query}\t{document}" for query, documents in NEGATIVES.items() for document in documents]
    write_lines(root / "negatives" / "train.tsv", ["query-id\tcorpus-id", *pairs])
