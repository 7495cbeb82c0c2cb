"""What both sides start from: documents with queries for them, and a model in a folder that both load."""

import sysconfig
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional as F

from experiments.benchmarks.encode.settings import Model, Settings
from experiments.benchmarks.models import qwen2
from srch3.backbones import PlainPrompts, ReasoningEmbedder
from srch3.backbones.export import save_plain
from srch3.data import Corpus, PythonSourceDataModule
from srch3.data.selection import stable_share
from srch3.data.tokenizer import train_tokenizer
from srch3.inference.sentence_transformers_folder import write_direct_folder
from srch3.types import Split

PAIRS = 64
TEMPERATURE = 0.05
TOKENIZER_TEXTS = 4000


class Texts(NamedTuple):
    """Docstrings as queries and functions as documents, in an order that depends on themselves alone.

    Attributes:
        queries: One for each document, in the same order.
        documents: Each once.
    """

    queries: list[str]
    documents: list[str]

    def first(self, count: int) -> "Texts":
        """Some of them."""
        return Texts(self.queries[:count], self.documents[:count])

    @property
    def corpus(self) -> Corpus:
        """The documents by number."""
        return Corpus([str(row) for row in range(len(self.documents))], self.documents)


def read_texts(settings: Settings) -> tuple[Texts, Texts]:
    """Texts to train on, and others to encode."""
    source = PythonSourceDataModule()
    if settings.small:
        library = Path(sysconfig.get_path("stdlib"))
        source = PythonSourceDataModule([str(library / "email")], [str(library / "asyncio")], cache_dir="")
    return _pairs(source, "train"), _pairs(source, "test")


def _pairs(source: PythonSourceDataModule, split: Split) -> Texts:
    queries = sorted(source.queries(split), key=lambda query: (stable_share(query.id, "benchmark"), query.id))
    corpus = source.corpus(split)
    pairs: dict[str, str] = {}
    for query in queries:
        pairs.setdefault(corpus.texts[corpus.row(next(iter(query.relevant)))], query.text)
    return Texts(list(pairs.values()), list(pairs))


def make_folder(settings: Settings, model: Model, texts: Texts) -> Path:
    """The model's folder, which is made where it is not there yet.

    Args:
        settings: Of the run.
        model: Which of its models.
        texts: For the tokenizer and for training.
    """
    folder = settings.output / f"{model.name}-{model.width}-{model.layers}-{model.steps}-{settings.seed}"
    if folder.is_dir():
        return folder
    base = settings.output / f"{model.name}-base"
    some = texts.first(TOKENIZER_TEXTS // 2)
    tokenizer = train_tokenizer([*some.queries, *some.documents], model.vocabulary)
    size = (model.width, model.layers, model.heads)
    qwen2(tokenizer, *size, settings.seed, model.key_heads, model.feed_forward).save_pretrained(base)
    tokenizer.save_pretrained(base)
    embedder = ReasoningEmbedder(
        str(base.absolute()), PlainPrompts(), max_query_tokens=64, max_document_tokens=256, seed=settings.seed
    )
    embedder.build()
    _train(embedder, model, texts)

    def finish(partial: Path) -> None:
        write_direct_folder(embedder, partial)

    save_plain(embedder, folder.absolute(), finish=finish)
    return folder


def _train(embedder: ReasoningEmbedder, model: Model, texts: Texts) -> None:
    """InfoNCE over docstrings and their functions, so that searches find something."""
    optimizer = torch.optim.AdamW(embedder.parameters(), lr=1e-3)
    for step in range(model.steps):
        start = step * PAIRS % max(1, len(texts.documents) - PAIRS)
        queries, documents = (some[start : start + PAIRS] for some in texts)
        both = [*embedder.tokenize(queries, "direct"), *embedder.tokenize(documents, "document")]
        vectors = embedder.embed(both)
        cosines = vectors[: len(queries)] @ vectors[len(queries) :].T
        loss = F.cross_entropy(cosines / TEMPERATURE, torch.arange(len(queries)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
