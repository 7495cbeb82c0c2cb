"""Small indexes, built without a model."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from srch3.inference.corpus_index import IndexBuilder
from srch3.inference.index_folder import MANIFEST, open_index
from tests.inference.fake_embedder import FakeEmbedder, vectors_of

TEXTS = [f"text {number}" for number in range(11)]


def make_corpus(folder: Path) -> Path:
    """A folder in BEIR's layout with these texts."""
    folder.mkdir()
    write_corpus(folder / "corpus.jsonl", TEXTS)
    return folder


def write_corpus(path: Path, texts: list[str]) -> None:
    lines = [json.dumps({"_id": f"d{row}", "title": "", "text": text}) for row, text in enumerate(texts)]
    path.write_text("\n".join(lines), encoding="utf-8")


def builder(corpus: Path, output: Path, embedder: Any = None, **more: Any) -> IndexBuilder:
    return IndexBuilder(embedder or FakeEmbedder(), "a model", corpus, output, **{"documents_per_part": 4, **more})


def build(corpus: Path, output: Path, embedder: Any = None, **more: Any) -> list[str]:
    """What had to be encoded."""
    embedder = embedder or FakeEmbedder()
    work = builder(corpus, output, embedder, **more)
    work.begin()
    work.encode()
    assert work.finish()
    return list(embedder.encoded)


def assert_right(output: Path, texts: list[str] = TEXTS) -> None:
    opened = open_index(output, verify=True)
    assert list(opened.corpus.texts) == texts
    assert list(opened.corpus.ids) == [f"d{row}" for row in range(len(texts))]
    np.testing.assert_array_equal(opened.index.vectors.numpy(), vectors_of(texts))
    assert sorted(path.name for path in output.iterdir()) == [".lock", "documents", "index", MANIFEST]
