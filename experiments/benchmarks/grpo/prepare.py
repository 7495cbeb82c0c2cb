"""Makes what both sides start from: a model with a tokenizer, and prompts of an exact number of tokens."""

import json
import shutil
import sysconfig
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from experiments.benchmarks.grpo.settings import Setup, Shape
from experiments.benchmarks.models import qwen2
from srch3.backbones import PlainPrompts, ReasoningEmbedder
from srch3.data import JsonlDataModule
from srch3.data.tokenizer import train_tokenizer
from srch3.errors import DataError

DOCUMENT_CHARACTERS = 80


def prepare(setup: Setup, shapes: Sequence[Shape]) -> dict[str, Any]:
    """Writes everything into the folder of the setup.

    Args:
        setup: What both sides have in common.
        shapes: Those that are measured.

    Returns:
        What was made, in figures.
    """
    folder = Path(setup.folder)
    for name in ("base", "model"):
        shutil.rmtree(folder / name, ignore_errors=True)
    library = Path(sysconfig.get_path("stdlib"))
    sources = [path.read_text(encoding="utf-8") for path in sorted(library.glob("*.py"))[: setup.files]]
    tokenizer = train_tokenizer(sources, setup.vocab_size)
    qwen2(tokenizer, setup.hidden_size, setup.layers, setup.heads, setup.seed).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    embedder = backbone(setup, folder / "base")
    embedder.build()
    embedder.save_pretrained(folder / "model")
    stops = _stops(setup, embedder)
    GenerationConfig(eos_token_id=stops).save_pretrained(folder / "model")
    held_out = json.dumps({"query": "nothing", "positives": ["pass"]}) + "\n"
    (folder / "val.jsonl").write_text(held_out, encoding="utf-8")
    for shape in shapes:
        _write_prompts(setup, shape, embedder, "".join(sources))
    return {"parameters": sum(parameter.numel() for parameter in embedder.parameters()), "stops": len(stops)}


def backbone(setup: Setup, model: str | Path | None = None) -> ReasoningEmbedder:
    """Our side's backbone, not yet loaded."""
    return ReasoningEmbedder(
        str(model or Path(setup.folder) / "model"),
        prompts=PlainPrompts(),
        max_query_tokens=512,
        max_thought_tokens=setup.max_tokens,
        seed=setup.seed,
    )


def data_module(setup: Setup, shape: Shape) -> JsonlDataModule:
    """Our side's data."""
    folder = Path(setup.folder)
    val = str(folder / "val.jsonl")
    return JsonlDataModule(str(folder / f"{shape.name}.jsonl"), val=val, batch_size=setup.prompts, seed=setup.seed)


def prompts_in_order(setup: Setup, shape: Shape) -> list[str]:
    """The prompts of all steps as the model reads them, in the order of our data module."""
    loader = iter(data_module(setup, shape).train_dataloader())
    texts = [text for _ in range(setup.steps) for text in next(loader).texts]
    embedder = backbone(setup)
    embedder.build()
    return embedder.prompt_tokenizer.render(texts, "thinking")


def _stops(setup: Setup, embedder: ReasoningEmbedder) -> list[int]:
    """Tokens that end a completion: the embed token, and so many others that the lengths of completions are mixed."""
    every = round(1 / setup.stop_share)
    special = set(embedder.tokenizer.all_special_ids)
    return [
        embedder.embed_token_id,
        *(token for token in range(every, len(embedder.tokenizer), every) if token not in special),
    ]


def _write_prompts(setup: Setup, shape: Shape, embedder: ReasoningEmbedder, source: str) -> None:
    pieces = islice(_cut(embedder, source, shape.prompt_tokens), setup.prompts * setup.steps)
    lines = [json.dumps({"query": text, "positives": [text[:DOCUMENT_CHARACTERS]]}) + "\n" for text in pieces]
    (Path(setup.folder) / f"{shape.name}.jsonl").write_text("".join(lines), encoding="utf-8")


def _cut(embedder: ReasoningEmbedder, source: str, tokens: int) -> Iterator[str]:
    """Pieces of the source whose prompts have an exact number of tokens, on the other side too."""
    offsets = embedder.tokenizer(source, return_offsets_mapping=True)["offset_mapping"]
    frame = len(embedder.tokenize(["x"], "thinking")[0]) - 1
    seen: set[str] = set()
    for start in range(0, len(offsets) - tokens, tokens):
        text = source[offsets[start][0] : offsets[start + tokens - frame - 1][1]].strip()
        (prompt,) = embedder.tokenize([text], "thinking")
        again = embedder.tokenizer(embedder.prompt_tokenizer.render([text], "thinking"))["input_ids"][0]
        if len(prompt) == tokens and prompt == again and text[:DOCUMENT_CHARACTERS] not in seen:
            seen.add(text[:DOCUMENT_CHARACTERS])
            yield text
    raise DataError(f"--steps: expected at most {len(seen)} prompts of {tokens} tokens, got more; take fewer steps")
