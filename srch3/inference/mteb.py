"""The model in mteb (version 2): as an encoder that mteb searches with, and as a search of its own."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from mteb.models import ModelMeta
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType
from torch import Tensor

from srch3.errors import DataError
from srch3.functional.similarity import normalise
from srch3.indexes import ExactIndex
from srch3.indexes.base import BaseIndex
from srch3.inference.embedder import Embedder
from srch3.types import Mode

Embeddings = Float[np.ndarray, "texts dim"] | Float[Tensor, "texts dim"]


class MtebEncoder:
    """What mteb calls an encoder.

    Queries of retrieval tasks are embedded in ``mode``, everything else as documents are, so that two texts of a task
    without queries are treated alike. mteb files results by name, revision and experiment: the revision is a hash of
    weights and settings, and mode and precision are the experiment, so that its cache never answers for another model.

    Args:
        model_name: Of an exported folder or a checkpoint; a loaded ``Embedder`` also does.
        revision: Unused; the weights have their own.
        device: Where to compute; by default on a GPU, where there is one.
        mode: How queries are embedded.
        name: What results are filed under, ``organisation/model``.
        kwargs: Of no meaning here.
    """

    def __init__(
        self,
        model_name: str | Embedder,
        revision: str | None = None,
        *,
        device: str | None = None,
        mode: Mode = "thinking",
        name: str = "srch3/model",
        **kwargs: Any,
    ) -> None:
        self.embedder = model_name if isinstance(model_name, Embedder) else Embedder.load(model_name, device)
        self.mode = mode
        self.name = name

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """Name, revision and shape, as mteb files results."""
        backbone = self.embedder.backbone
        return ModelMeta.create_empty(
            {
                "name": self.name,
                "revision": self.embedder.revision,
                "n_parameters": sum(parameter.numel() for parameter in backbone.parameters()),
                "max_tokens": max(backbone.max_query_tokens, backbone.max_document_tokens),
                "embed_dim": self.embedder.dim,
                "similarity_fn_name": ScoringFunction.COSINE,
                "framework": ["PyTorch", "Transformers", "safetensors"],
                "use_instructions": False,
                "experiment_kwargs": {"mode": self.mode, "precision": self.embedder.precision},
            }
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> Float[np.ndarray, "texts dim"]:
        """Embeddings, in order.

        Args:
            inputs: Batches with ``text``.
            task_metadata: Of no meaning here, as everything below but the type.
            hf_split: Name of the split.
            hf_subset: Name of the subset.
            prompt_type: Whether these are queries or documents; neither in tasks that know no such difference.
            kwargs: Batch size and the like: batches are made by length here.

        Raises:
            DataError: A batch has no text.
        """
        texts = [text for batch in inputs for text in _texts(batch)]
        if prompt_type == PromptType.query:
            return self.embedder.encode_queries(texts, self.mode)
        return self.embedder.encode_documents(texts)

    def similarity(self, embeddings1: Embeddings, embeddings2: Embeddings) -> Float[Tensor, "one other"]:
        """Cosines of each of the first with each of the second."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Embeddings, embeddings2: Embeddings) -> Float[Tensor, "texts"]:
        """Cosines of each of the first with its counterpart among the second."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(1)


class MtebSearch(MtebEncoder):
    """The same with its own index, through which mteb's retrieval tasks search.

    Args:
        model_name: Of an exported folder or a checkpoint; a loaded ``Embedder`` also does.
        revision: Unused; the weights have their own.
        searched: The index; its vectors are replaced with each corpus.
        kwargs: ``device``, ``mode`` and ``name``, as `MtebEncoder` has them.
    """

    def __init__(
        self,
        model_name: str | Embedder,
        revision: str | None = None,
        *,
        searched: BaseIndex | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model_name, revision, **kwargs)
        self.searched = ExactIndex() if searched is None else searched
        self._ids: list[str] = []

    def index(self, corpus: Any, **kwargs: Any) -> None:
        """Embeds a corpus and builds the index.

        Args:
            corpus: A data set with ``id``, ``text`` and perhaps ``title``.
            kwargs: The task and so on: of no meaning here.
        """
        self._ids = list(corpus["id"])
        texts = corpus["text"]
        titles = corpus["title"] if "title" in corpus.column_names else [""] * len(texts)
        documents = [f"{title or ''} {text}".strip() for title, text in zip(titles, texts, strict=True)]
        self.searched.build(torch.from_numpy(self.embedder.encode_documents(documents)))

    def search(
        self,
        queries: Any,
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> dict[str, dict[str, float]]:
        """The best documents of each query.

        Args:
            queries: A data set with ``id``, ``text`` and perhaps ``instruction``.
            top_k: Documents per query.
            top_ranked: Documents to choose from, by query; all of them by default.
            kwargs: The task and so on: of no meaning here.

        Returns:
            Cosines by query and document.

        Raises:
            DataError: Nothing was indexed, or a query is not a text.
        """
        if not self._ids:
            raise DataError("search: expected index() before it; got no corpus")
        texts = _query_texts(queries)
        embeddings = torch.from_numpy(self.embedder.encode_queries(texts, self.mode))
        if top_ranked is not None:
            return self._rerank(list(queries["id"]), embeddings, top_k, top_ranked)
        hits = self.searched.search(embeddings, top_k)
        rows = zip(queries["id"], hits.rows.tolist(), hits.scores.tolist(), strict=True)
        return {
            query: {self._ids[row]: score for row, score in zip(found, scores, strict=True)}
            for query, found, scores in rows
        }

    def _rerank(
        self, ids: list[str], embeddings: Tensor, top_k: int, top_ranked: Mapping[str, Sequence[str]]
    ) -> dict[str, dict[str, float]]:
        places = {document: row for row, document in enumerate(self._ids)}
        ranked = {}
        for query, embedding in zip(ids, embeddings, strict=True):
            documents = list(top_ranked.get(query, ()))
            rows = torch.tensor([places[document] for document in documents], dtype=torch.int64)
            scores = self.searched.vectors_of(rows) @ embedding
            best = scores.argsort(descending=True, stable=True)[:top_k].tolist()
            ranked[query] = {documents[place]: float(scores[place]) for place in best}
        return ranked


def _texts(batch: Mapping[str, Any]) -> list[str]:
    if "text" not in batch:
        raise DataError(f"inputs: expected batches with text; got {', '.join(batch) or 'nothing'} alone")
    return list(batch["text"])


def _query_texts(queries: Any) -> list[str]:
    """Queries with their instructions, as mteb's own batches have them."""
    texts = list(queries["text"])
    if not all(isinstance(text, str) for text in texts):
        raise DataError("queries: expected texts; got conversations; use MtebEncoder for this task")
    if "instruction" not in queries.column_names:
        return texts
    return [
        f"{text} {instruction}" if instruction is not None else text
        for text, instruction in zip(texts, queries["instruction"], strict=True)
    ]


def _unit(embeddings: Embeddings) -> Float[Tensor, "texts dim"]:
    matrix = torch.as_tensor(embeddings).cpu()
    return normalise(matrix if matrix.ndim == 2 else matrix[None])
