"""Makes what both sides start from: the texts, the model with its first weights, and the order of training.

The texts are docstrings and functions of installed packages, at most one pair per docstring and per function, so that
no positive of a batch is another query's too: that is where our loss leaves a document out and theirs does not.
"""

import json
import shutil
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiments.benchmarks.models import qwen2
from experiments.benchmarks.sft.settings import Order, Setup
from srch3.backbones import PlainPrompts, ReasoningEmbedder
from srch3.data import JsonlDataModule, PythonSourceDataModule
from srch3.data.selection import stable_share
from srch3.data.tokenizer import train_tokenizer
from srch3.errors import DataError
from srch3.types import Split

TOKENIZER_TEXTS = 4000
HELD_OUT = 2000


class Pair(NamedTuple):
    """A query and its document; as they are, and as the other side is given them.

    Attributes:
        query: As it is.
        document: As it is.
        anchor: The query cut to its length, in our prompt, with the embed token at its end.
        positive: The same for the document.
    """

    query: str
    document: str
    anchor: str
    positive: str


def prepare(setup: Setup, orders: Sequence[Order]) -> dict[str, Any]:
    """Writes everything into the folder of the setup.

    Args:
        setup: What both sides have in common.
        orders: Those that are trained on.

    Returns:
        What was made, in figures.
    """
    folder = Path(setup.folder)
    folder.mkdir(parents=True, exist_ok=True)
    source = _source(setup)
    train, test = _texts(source, "train"), _texts(source, "test")
    needed = max(order.batch_size * order.steps for order in orders)
    if needed > len(train):
        raise DataError(f"--steps, --cached-steps: expected at most {len(train):,} pairs, got {needed:,}; take fewer")
    embedder = _embedder(setup, [text for pair in train[:TOKENIZER_TEXTS] for text in pair])
    kept, held = _rendered(train[:needed], embedder), _rendered(test[:HELD_OUT], embedder)
    for name, pairs in (("train", kept), ("test", held)):
        rows = ({"query": pair.query, "positives": [pair.document], **pair._asdict()} for pair in pairs)
        write_lines(folder / f"{name}.jsonl", rows)
    by_text = {pair.query: pair for pair in kept}
    for order in orders:
        write_lines(folder / f"{order.name}.jsonl", _in_order(setup, order, by_text))
    return {
        "training_pairs": len(kept),
        "held_out_pairs": len(held),
        "parameters": sum(parameter.numel() for parameter in embedder.parameters()),
        "query_tokens": _lengths(embedder, [pair.anchor for pair in kept]),
        "document_tokens": _lengths(embedder, [pair.positive for pair in kept]),
    }


def backbone(setup: Setup, model: str | Path | None = None) -> ReasoningEmbedder:
    """Our side's backbone, not yet loaded."""
    return ReasoningEmbedder(
        str(model or Path(setup.folder) / "model"),
        prompts=PlainPrompts(),
        max_query_tokens=setup.max_query_tokens,
        max_document_tokens=setup.max_document_tokens,
        seed=setup.seed,
    )


def data_module(setup: Setup, order: Order) -> JsonlDataModule:
    """Our side's data, in the given order."""
    folder = Path(setup.folder)
    return JsonlDataModule(
        str(folder / "train.jsonl"),
        val=str(folder / "test.jsonl"),
        batch_size=order.batch_size,
        seed=setup.seed,
        bucket_batches=order.bucket_batches,
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads what `write_lines` wrote."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes one JSON object per line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _source(setup: Setup) -> PythonSourceDataModule:
    if not setup.small:
        return PythonSourceDataModule()
    library = Path(sysconfig.get_path("stdlib"))
    return PythonSourceDataModule([str(library / "email")], [str(library / "asyncio")], cache_dir="")


def _texts(source: PythonSourceDataModule, split: Split) -> list[tuple[str, str]]:
    """Docstrings and functions in an order that depends on themselves alone, each once."""
    queries = sorted(source.queries(split), key=lambda query: (stable_share(query.id, "benchmark"), query.id))
    corpus = source.corpus(split)
    seen: set[str] = set()
    pairs = []
    for query in queries:
        pair = query.text, corpus.texts[corpus.row(next(iter(query.relevant)))]
        if seen.isdisjoint(pair):
            pairs.append(pair)
            seen.update(pair)
    return pairs


def _embedder(setup: Setup, texts: Sequence[str]) -> ReasoningEmbedder:
    """Random weights with a trained tokenizer, saved once the embed token has its row."""
    folder = Path(setup.folder)
    tokenizer = train_tokenizer(texts, setup.vocab_size)
    qwen2(tokenizer, setup.hidden_size, setup.layers, setup.heads, setup.seed).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    embedder = backbone(setup, folder / "base")
    embedder.build()
    shutil.rmtree(folder / "model", ignore_errors=True)
    embedder.save_pretrained(folder / "model")
    return embedder


def _rendered(texts: Sequence[tuple[str, str]], embedder: ReasoningEmbedder) -> list[Pair]:
    queries, documents = zip(*texts, strict=True)
    render = embedder.prompt_tokenizer.render
    columns = zip(queries, documents, render(queries, "direct"), render(documents, "document"), strict=True)
    return [Pair(*column) for column in columns]


def _in_order(setup: Setup, order: Order, pairs: dict[str, Pair]) -> Iterable[dict[str, Any]]:
    loader = iter(data_module(setup, order).train_dataloader())
    for _ in range(order.steps):
        for query in next(loader).texts:
            yield {"anchor": pairs[query].anchor, "positive": pairs[query].positive}


def _lengths(embedder: ReasoningEmbedder, prompts: list[str]) -> dict[str, float]:
    lengths = torch.tensor([len(ids) for ids in embedder.tokenizer(prompts)["input_ids"]], dtype=torch.float64)
    spread = {f"p{share}": int(lengths.quantile(share / 100)) for share in (10, 50, 90)}
    return {"mean": round(float(lengths.mean()), 1), **spread}
