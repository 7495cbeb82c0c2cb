"""A trained model that embeds: texts in, float32 arrays out."""

import copy
import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from srch3.backbones import ReasoningEmbedder
from srch3.backbones.documents import document_sequences
from srch3.backbones.encoding import embed
from srch3.backbones.querying import EmbeddedQueries, QueryEmbedder, parse_mode
from srch3.backbones.settings import Documents, settings_of
from srch3.backbones.tokenization import Tokens
from srch3.errors import ConfigError, DataError
from srch3.inference.model import TrainedModel, load_model, revision_of
from srch3.inference.precision import Precision, resolve
from srch3.inference.streaming import Pieces, stream
from srch3.types import Mode

_DOCUMENTS_AT_ONCE = 8192
_QUERIES_AT_ONCE = 512
_STREAMED = {"thinking", "budget"}

Progress = Callable[[int], None]


class Embedder:
    """Embeds queries and documents as the model did in training; several threads may call, and take turns.

    Embeddings have unit length; the cosine of a query and a document is their dot product.

    Args:
        backbone: A built model. It is changed: put into evaluation mode, moved, and its weights into ``precision``.
        documents: Whether a document is embedded at once, or after a thought about it.
        device: Where to compute; by default on a GPU, where there is one.
        precision: In which the weights are kept and used; ``auto`` takes bfloat16 where that is known to be faster.
        seed: Of the thoughts in mode ``mean-N``.

    Attributes:
        backbone: The model.
        documents: As given.
        revision: Hexadecimal digits that change with every weight, and with every setting that shapes an embedding; not
            with the precision or the device.
        settings: What ``srch3.json`` says in an exported folder.
    """

    default_mode: Mode = "thinking"
    """How queries are embedded unless asked otherwise."""

    def __init__(
        self,
        backbone: ReasoningEmbedder,
        documents: Documents = "direct",
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        seed: int = 0,
    ) -> None:
        self.backbone, self.documents, self.seed = backbone, documents, seed
        self.settings: dict[str, Any] = settings_of(backbone, documents)
        self.revision = revision_of(TrainedModel(backbone, documents))
        where = _device(device)
        self.dtype = resolve(precision, where)
        writes_exactly = precision == "auto" and where.type == "cpu"
        if writes_exactly and documents == "thinking":
            self.dtype = torch.float32
        self._document_backbone: ReasoningEmbedder | None = None
        self._lock = threading.RLock()
        backbone.eval().requires_grad_(False)
        if backbone.quantization is None:
            keep_weights_in(backbone, torch.float32 if writes_exactly else self.dtype)
            backbone.to(where)

    @classmethod
    def load(
        cls,
        model: str | Path,
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        trusted: bool = True,
    ) -> "Embedder":
        """Loads an exported folder, or a checkpoint of a run.

        Args:
            model: A folder with ``srch3.json``, or a checkpoint file with its run's ``config.yaml`` in a folder above.
            device: Where to compute; by default on a GPU, where there is one.
            precision: In which the weights are kept and used; ``auto`` takes bfloat16 where that is known to be faster.
            trusted: Whether a run's configuration may name classes that have to be imported from outside srch3.

        Raises:
            ModelError: There is no such model, or it cannot be loaded.
            CheckpointError: The checkpoint cannot be used.
            ConfigError: There is no such device, or a setting cannot be used.
        """
        _device(device)
        loaded = load_model(model, trusted)
        return cls(loaded.backbone, loaded.documents, device, precision)

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self.backbone.dim

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.device

    @property
    def precision(self) -> str:
        """What documents are embedded in: ``float32`` or ``bfloat16``."""
        return str(self.dtype).removeprefix("torch.")

    def encode_queries(
        self, texts: Sequence[str], mode: Mode = "thinking", on_progress: Progress | None = None
    ) -> Float[np.ndarray, "queries dim"]:
        """Embeddings of queries, in order.

        Args:
            texts: The queries.
            mode: As in ``srch3.types.Mode``.
            on_progress: Called with the number of queries after each part of them.

        Raises:
            ConfigError: There is no such mode.
            DataError: Something is not a text.
        """
        return self.embed_queries(texts, [mode], on_progress)[mode].embeddings.cpu().numpy()

    def encode_documents(
        self, texts: Sequence[str], on_progress: Progress | None = None
    ) -> Float[np.ndarray, "docs dim"]:
        """Embeddings of documents, in order.

        Args:
            texts: The documents, titles included.
            on_progress: Called with the number of documents after each part of them.

        Raises:
            DataError: Something is not a text.
        """
        checked = _checked(texts)
        vectors = np.empty((len(checked), self.dim), np.float32)
        for start in range(0, len(checked), _DOCUMENTS_AT_ONCE):
            some = slice(start, start + _DOCUMENTS_AT_ONCE)
            with self._lock, torch.inference_mode():
                vectors[some] = self._documents(checked[some], on_progress).cpu().numpy()
        return vectors

    def _documents(self, texts: list[str], on_progress: Progress | None) -> Float[Tensor, "docs dim"]:
        if self._document_backbone is None:
            self._document_backbone = _in_dtype(self.backbone, self.dtype)
        backbone = self._document_backbone
        return embed(backbone, document_sequences(backbone, texts, self.documents), on_progress)

    def embed_queries(
        self, texts: Sequence[str], modes: Sequence[Mode], on_progress: Progress | None = None
    ) -> dict[Mode, EmbeddedQueries]:
        """Queries with their thoughts, in each of the modes; modes share the thoughts that they can share.

        Args:
            texts: The queries.
            modes: As in ``srch3.types.Mode``.
            on_progress: Called with the number of queries after each part of them.

        Raises:
            ConfigError: There is no such mode.
            DataError: Something is not a text.
        """
        checked, embedder = _checked(texts), QueryEmbedder(self.backbone, self.seed)
        for mode in modes:
            self._check_mode(mode)
        nothing = EmbeddedQueries(torch.empty(0, self.dim), [], [], [])
        found = {mode: [nothing] for mode in modes}
        for start in range(0, len(checked), _QUERIES_AT_ONCE):
            some = checked[start : start + _QUERIES_AT_ONCE]
            with self._lock, torch.inference_mode():
                for mode, embedded in embedder.embed(some, modes).items():
                    found[mode].append(embedded._replace(embeddings=embedded.embeddings.cpu()))
            if on_progress:
                on_progress(len(some))
        return {mode: _joined(parts) for mode, parts in found.items()}

    def stream(self, text: str, mode: Mode = "thinking") -> Generator[str, None, EmbeddedQueries]:
        """One query, with its thought as it is written.

        Closing the generator ends the writing. In modes in which nothing is written step by step, the thought, if there
        is one, comes in one piece.

        Args:
            text: The query.
            mode: As in ``srch3.types.Mode``.

        Yields:
            Pieces of the thought, which together are the thought.

        Returns:
            The query as :meth:`embed_queries` gives it (``embedded = yield from …``, or ``StopIteration.value``).

        Raises:
            ConfigError: There is no such mode.
            DataError: The query is not a text.
        """
        checked = _checked([text])
        watched = self._check_mode(mode) in _STREAMED

        def read(on_tokens: Callable[[Tokens], None]) -> EmbeddedQueries:
            with self._lock, torch.inference_mode():
                embedder = QueryEmbedder(self.backbone, self.seed)
                found = embedder.embed(checked, [mode], on_tokens=on_tokens if watched else None)[mode]
                return found._replace(embeddings=found.embeddings.cpu())

        return stream(read, Pieces(self.backbone.decode_thought, self.backbone.stop_ids), self._lock)

    def _check_mode(self, mode: Mode) -> str:
        """The kind of a mode."""
        return parse_mode(mode, self.backbone.max_thought_tokens, "mode").kind


def keep_weights_in(backbone: ReasoningEmbedder, dtype: torch.dtype) -> None:
    """Changes the type of the weights in place; buffers, such as those of rotary positions, keep theirs."""
    for parameter in backbone.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def _in_dtype(backbone: ReasoningEmbedder, dtype: torch.dtype) -> ReasoningEmbedder:
    """The model itself, or a copy of it with weights of another type."""
    if backbone.quantization is not None or backbone.causal_lm.dtype == dtype:
        return backbone
    copied = copy.deepcopy(backbone)
    keep_weights_in(copied, dtype)
    return copied


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device: expected a name such as cpu, cuda or cuda:1; got {device!r}") from error
    try:
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device: expected one that this machine has; got {device!r}; cpu always works") from error
    return found


def _checked(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise DataError(f"texts: expected a list of texts; got one text, {texts[:60]!r}; put it into a list")
    found = list(texts)
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise DataError(f"texts: expected strings; got {type(text).__name__} at place {place}")
    return found


def _joined(parts: list[EmbeddedQueries]) -> EmbeddedQueries:
    return EmbeddedQueries(
        torch.cat([part.embeddings for part in parts]),
        [thought for part in parts for thought in part.thoughts],
        [length for part in parts for length in part.lengths],
        [emitted for part in parts for emitted in part.emitted],
    )
