"""Timing of both sides in turns, and whether they found the same embeddings."""

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from sentence_transformers import SentenceTransformer
from torch.nn import functional as F

from experiments.benchmarks.encode.prepare import Texts
from experiments.benchmarks.encode.settings import KINDS, SIDES, Kind, Model, Settings, Side
from srch3.indexes import ExactIndex
from srch3.inference.embedder import Embedder
from srch3.metrics import query_scores

Vectors = Float[np.ndarray, "texts dim"]

BLOCK = (16, 128)
"""Sequences and tokens of the bare model's passes."""


class Encoder(NamedTuple):
    """One side in one precision.

    Attributes:
        documents: Encodes documents.
        queries: Encodes queries, without a thought.
    """

    documents: Callable[[list[str]], Vectors]
    queries: Callable[[list[str]], Vectors]


class Floor(NamedTuple):
    """What the machine could do in one precision.

    Attributes:
        tokens: Per second, of the bare model on full blocks of tokens.
        flops: Per second, of one large matrix product.
    """

    tokens: float
    flops: float


def load(folder: Path, side: Side, kind: Kind) -> Encoder:
    """Loads a folder as a user of either side does."""
    if side == "srch3":
        embedder = Embedder.load(folder, device="cpu", precision=kind)
        return Encoder(embedder.encode_documents, lambda texts: embedder.encode_queries(texts, mode="direct"))
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": getattr(torch, kind)})

    def documents(texts: list[str]) -> Vectors:
        return np.asarray(model.encode_document(texts, show_progress_bar=False), np.float32)

    return Encoder(documents, lambda texts: np.asarray(model.encode_query(texts, show_progress_bar=False), np.float32))


def measure(
    settings: Settings, model: Model, folder: Path, texts: Texts, note: Callable[[str], None]
) -> dict[str, Any]:
    """The figures of a model.

    Args:
        settings: Of the run.
        model: Which of its models.
        folder: Where it is.
        texts: What is encoded.
        note: Is told what is about to happen.
    """
    encoders = {(side, kind): load(folder, side, kind) for kind in KINDS for side in SIDES}
    noted: dict[tuple[Side, Kind], dict[str, list[float]]] = {key: defaultdict(list) for key in encoders}
    found: dict[tuple[Side, Kind], Vectors] = {}
    for key, encoder in encoders.items():
        encoder.documents(texts.documents[:32])  # whatever is set up once is set up
        found[key] = encoder.documents(texts.documents)
    floors: dict[Kind, list[Floor]] = {kind: [] for kind in KINDS}
    for number in range(settings.rounds):
        note(f"{model.title}: round {number + 1} of {settings.rounds}")
        for key in list(encoders) if number % 2 else list(encoders)[::-1]:
            began, cpu = time.perf_counter(), time.process_time()
            encoders[key].documents(texts.documents)
            noted[key]["seconds"].append(time.perf_counter() - began)
            noted[key]["cpu_seconds"].append(time.process_time() - cpu)
        for kind in KINDS:
            floors[kind].append(floor(folder, kind, settings.small))
    exact = found["sentence-transformers", "float32"]
    figures: dict[str, Any] = {"default": Embedder.load(folder, device="cpu").precision, **_sizes(folder, texts)}
    for (side, kind), vectors in found.items():
        line: dict[str, Any] = {**noted[side, kind], "least_cosine": least_cosine(vectors, exact)}
        if model.steps:
            line["ndcg@10"] = ndcg(encoders[side, kind].queries(texts.queries), vectors, texts)
        figures[f"{side} {kind}"] = line
    return figures | {"floor": {kind: [part._asdict() for part in parts] for kind, parts in floors.items()}}


def _sizes(folder: Path, texts: Texts) -> dict[str, Any]:
    backbone = Embedder.load(folder, device="cpu").backbone
    lengths = torch.tensor([len(tokens) for tokens in backbone.tokenize(texts.documents, "document")]).double()
    lm: Any = backbone.causal_lm
    embedded = lm.get_input_embeddings().weight.numel()
    return {
        "documents": len(texts.documents),
        "tokens": int(lengths.sum()),
        "lengths": {f"p{share}": int(lengths.quantile(share / 100)) for share in (10, 50, 90)},
        "parameters": sum(parameter.numel() for parameter in lm.parameters()),
        "parameters_of_layers": sum(parameter.numel() for parameter in lm.base_model.parameters()) - embedded,
    }


def least_cosine(one: Vectors, other: Vectors) -> float:
    """The least cosine between two embeddings of the same text."""
    return float(F.cosine_similarity(torch.from_numpy(one).double(), torch.from_numpy(other).double(), dim=1).min())


def ndcg(queries: Vectors, documents: Vectors, texts: Texts) -> float:
    """Mean nDCG@10 where each query has one document, the one in its own place."""
    index = ExactIndex()
    index.build(F.normalize(torch.from_numpy(documents), dim=1))
    hits = index.search(F.normalize(torch.from_numpy(queries), dim=1), min(100, len(documents)))
    corpus = texts.corpus
    return float(query_scores(hits, [{name: 1} for name in corpus.ids], corpus)["ndcg@10"].double().mean())


@torch.inference_mode()
def floor(folder: Path, kind: Kind, small: bool) -> Floor:
    """What the bare model does with nothing around it, and what the processor can do at all."""
    embedder = Embedder.load(folder, device="cpu", precision=kind)
    model: Any = embedder.backbone.causal_lm.base_model
    ids = torch.randint(0, len(embedder.backbone.tokenizer) // 2, BLOCK)
    square = torch.randn(256 if small else 2048, 256 if small else 2048).to(getattr(torch, kind))
    seconds = _least_seconds(lambda: model(input_ids=ids, use_cache=False))
    return Floor(ids.numel() / seconds, 2 * len(square) ** 3 / _least_seconds(lambda: square @ square))


def _least_seconds(work: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
