"""Data and a model for the notebooks, made in a moment: things, and riddles that describe them without naming them.

A thing is named by its colour, its material and what it is ("green wooden chair"). A riddle says each of the three in
other words ("to sit on, the colour of grass, once a tree"). No word of a riddle stands in its answer, so that matching
words finds nothing, while a model that works out the answer has found it.
"""

import csv
import itertools
import json
import logging
import random
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", message="IProgress not found")

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils.logging import disable_progress_bar

from srch3.cli import main
from srch3.data.tokenizer import train_tokenizer

disable_progress_bar()
logging.disable(logging.INFO)  # a notebook shows what it is about

FOLDER = Path("runs/riddles")
CONFIGS = Path("..") / "configs" / "small"
QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.log_every_n_steps=1",
]
BACKBONE = "--model.init_args.backbone.init_args"

STAGE_1 = [
    "--trainer.max_steps=80",
    "--trainer.val_check_interval=40",
    "--trainer.check_val_every_n_epoch=null",
    "--data.init_args.batch_size=32",
    "--data.init_args.thoughts=ColumnThoughts",
    "--data.init_args.title_thoughts=true",
    "--model.init_args.optimizer.init_args.lr=3e-3",
    "--model.init_args.cross_entropy.init_args.weight=1",
]
COLOURS = {
    "red": ["the colour of blood", "like a ripe tomato"],
    "green": ["the colour of grass", "like a frog"],
    "blue": ["the colour of the sky", "like the sea"],
    "white": ["the colour of snow", "like milk"],
    "black": ["the colour of coal", "like the night"],
    "yellow": ["the colour of butter", "like a lemon"],
}
MATERIALS = {
    "wooden": ["once a tree", "made by a carpenter"],
    "iron": ["drawn to a magnet", "made by a smith"],
    "glass": ["blown in a furnace", "breaks when it falls"],
    "paper": ["easily torn", "burns quickly"],
    "stone": ["from a quarry", "heavier than it looks"],
}
THINGS = {
    "chair": ["to sit on", "has four legs and a back"],
    "bowl": ["to eat soup from", "round and hollow"],
    "lamp": ["to read by", "shines in the evening"],
    "box": ["to keep letters in", "has a lid"],
    "ship": ["sails across the bath", "has a mast"],
    "mask": ["hides a face", "worn at carnival"],
    "flower": ["stands in a vase", "never withers"],
    "clock": ["tells the time", "has two hands"],
}


def prepare() -> list[str]:
    """Makes data and model, unless they are there; returns the options of srch3 fit that name them."""
    if not (FOLDER / "data").is_dir():
        make_data(FOLDER / "data")
        make_model(FOLDER / "model")
    limits = [f"{BACKBONE}.max_query_tokens=32", f"{BACKBONE}.max_document_tokens=12", f"{BACKBONE}.max_thought_tokens=8"]
    return [f"--data.init_args.root={FOLDER}/data", f"{BACKBONE}.model={FOLDER}/model", *limits, *QUIET]


def log_to(name: str) -> list[str]:
    """The options that give a run its folder below ``FOLDER``."""
    return [f"--trainer.logger.init_args.save_dir={FOLDER}", f"--trainer.logger.init_args.version={name}"]


def stage_1() -> Path:
    """The checkpoint of a short stage 1; trained now, unless it is there."""
    checkpoint = FOLDER / "stage-1" / "checkpoints" / "best.ckpt"
    if not checkpoint.is_file():
        main(["fit", f"--config={CONFIGS}/sft.yaml", *prepare(), *STAGE_1, *log_to("stage-1")])
    return checkpoint


def rows(name: str) -> list[dict[str, float]]:
    """What a run logged, oldest first."""
    with (FOLDER / name / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def series(name: str, metric: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric of a run."""
    found = [row for row in rows(name) if metric in row]
    return [row["step"] for row in found], [row[metric] for row in found]


def make_data(folder: Path) -> Path:
    """Writes 240 things and 960 riddles as a folder in BEIR's layout; test riddles are about things of their own."""
    draw = random.Random(0)
    names = list(itertools.product(COLOURS, MATERIALS, THINGS))
    held_out = set(draw.sample(range(len(names)), 60))
    corpus, queries, judged = [], [], {"train": [], "dev": [], "test": []}
    for row, (colour, material, thing) in enumerate(names):
        corpus.append({"_id": f"thing{row}", "title": f"{colour} {material} {thing}", "text": ""})
        for number in range(4):
            said = [draw.choice(THINGS[thing]), draw.choice(COLOURS[colour]), draw.choice(MATERIALS[material])]
            queries.append({"_id": f"riddle{row}-{number}", "text": ", ".join(said)})
            split = ("dev" if number < 2 else "test") if row in held_out else "train"
            judged[split].append(f"riddle{row}-{number}\tthing{row}\t1")
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _write(folder / "corpus.jsonl", map(json.dumps, corpus))
    _write(folder / "queries.jsonl", map(json.dumps, queries))
    for split, lines in judged.items():
        _write(folder / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *lines])
    return folder


def make_model(folder: Path, width: int = 64) -> Path:
    """Writes a language model of a few hundred thousand weights that has learned nothing, and a tokenizer."""
    said = [*COLOURS.items(), *MATERIALS.items(), *THINGS.items()]
    tokenizer = train_tokenizer([f"{word}, {text} {word}" for word, texts in said for text in texts], vocab_size=400)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _write(path: Path, lines) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
