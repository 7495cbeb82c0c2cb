"""Text to pre-train a small causal language model on, made of the training pairs of a retrieval data set."""

import hashlib
from collections.abc import Sequence
from typing import Any, cast

import lightning as L
import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from srch3.data.base import RetrievalDataModule
from srch3.data.corpus import Corpus
from srch3.data.loaders import BatchLoader, TrainLoader, finished_batches, process_of
from srch3.data.python_source import PythonSourceDataModule
from srch3.data.sampler import Draw, EpochBatchSampler
from srch3.data.selection import stable_share
from srch3.data.tokenizer import train_tokenizer
from srch3.errors import CheckpointError, ConfigError, DataError
from srch3.types import Query, Split

_CHARACTERS_PER_TOKEN = 6


class MinedTextDataModule(L.LightningDataModule):
    """Blocks of token ids from queries and the documents that answer them.

    One text per query: half of them the query before its document, so that a model learns what follows from a query,
    half the document before its query, so that it learns to sum up. Which half is decided by the id. The texts are
    joined, each followed by the end-of-text token, and cut into blocks of equal length.

    Training blocks come from the source's training queries alone, and so does the tokenizer, which is trained here.
    Validation blocks come from its validation queries. The order of training can be resumed at any batch.

    Args:
        source: Where queries and documents come from; by default the installed Python packages.
        vocab_size: Tokens in the vocabulary, special ones included.
        sequence_length: Tokens per block.
        max_document_tokens: Cut documents off after this many tokens; a search embedding need not see more.
        batch_size: Blocks per step and process.
        max_tokenizer_texts: Train the tokenizer on at most this many queries with their documents, drawn by their ids.
        max_val_blocks: Validate on at most this many blocks.
        seed: Decides the order of training.

    Raises:
        ConfigError: Where a number is out of range.
    """

    def __init__(
        self,
        source: RetrievalDataModule | None = None,
        vocab_size: int = 6144,
        sequence_length: int = 128,
        max_document_tokens: int = 96,
        batch_size: int = 32,
        max_tokenizer_texts: int = 8000,
        max_val_blocks: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        settings = {
            "sequence_length": (sequence_length, 2),
            "max_document_tokens": (max_document_tokens, 1),
            "batch_size": (batch_size, 1),
            "max_tokenizer_texts": (max_tokenizer_texts, 1),
            "max_val_blocks": (max_val_blocks, 1),
            "seed": (seed, 0),
        }
        for name, (value, least) in settings.items():
            if value < least:
                raise ConfigError(f"data.init_args.{name}: expected at least {least}; got {value}")
        self.source = source or PythonSourceDataModule()
        self.vocab_size = vocab_size
        self.sequence_length = sequence_length
        self.max_document_tokens = max_document_tokens
        self.batch_size = batch_size
        self.max_tokenizer_texts = max_tokenizer_texts
        self.max_val_blocks = max_val_blocks
        self.seed = seed
        self._tokenizer: PreTrainedTokenizerFast | None = None
        self._blocks: dict[Split, Int64[Tensor, "blocks seq"]] = {}

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer, trained on the training texts when it is first asked for."""
        if self._tokenizer is None:
            corpus = self.source.corpus("train")
            queries = self.source.queries("train")
            ranked = sorted(queries, key=lambda query: (stable_share(query.id, "tokenizer"), query.id))
            chosen = ranked[: self.max_tokenizer_texts]
            texts = [text for query in chosen for text in (query.text, _answer(query, corpus))]
            self._tokenizer = train_tokenizer(texts, self.vocab_size)
        return self._tokenizer

    def blocks(self, split: Split) -> Int64[Tensor, "blocks seq"]:
        """Token ids of all blocks of ``train`` or ``val``.

        Raises:
            DataError: Where the texts do not fill one block.
        """
        if split not in self._blocks:
            ids = self._token_ids(split)
            count = len(ids) // self.sequence_length
            if count == 0:
                raise DataError(
                    f"data.init_args.sequence_length: expected at least {self.sequence_length} tokens of text"
                    f" in {split}; got {len(ids)}; use more data or shorter sequences"
                )
            blocks = torch.tensor(ids[: count * self.sequence_length]).view(count, self.sequence_length)
            self._blocks[split] = blocks if split == "train" else blocks[: self.max_val_blocks]
        return self._blocks[split]

    def prepare_data(self) -> None:
        """Prepares the source, so that in a run of several processes one does it for all."""
        self.source.prepare_data()

    def setup(self, stage: str) -> None:
        """Trains the tokenizer and cuts the texts into blocks."""
        if stage == "fit":
            self.blocks("train")
        self.blocks("val")

    def train_dataloader(self) -> TrainLoader[Tensor]:
        """Batches of blocks (batch, seq) in an order of their own in each epoch, resumable at any batch."""
        blocks = self.blocks("train")
        rank, world_size = process_of(self.trainer)
        sampler = EpochBatchSampler([[row] for row in range(len(blocks))], self.batch_size, self.seed, rank, world_size)

        def build(draws: Sequence[Draw]) -> Int64[Tensor, "batch seq"]:
            return blocks[[draw.query for draw in draws]]

        return TrainLoader(sampler, build, finished=finished_batches(self.trainer))

    def val_dataloader(self) -> BatchLoader[Tensor, Tensor]:
        """Batches of validation blocks (batch, seq) in their order."""
        rank, world_size = process_of(self.trainer)
        batches = self.blocks("val")[rank::world_size].split(self.batch_size)
        return BatchLoader([list(batch) for batch in batches], _stacked, 0)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to have in common with this one."""
        return {"tokenizer": self._fingerprint()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compares with an earlier run.

        Raises:
            CheckpointError: Where the tokenizer is another, so that token ids would mean something else.
        """
        if state_dict["tokenizer"] != self._fingerprint():
            raise CheckpointError(
                "ckpt_path: expected a run with the same tokenizer; got another one, because data.init_args or the"
                " texts have changed; train from the beginning, or restore what was changed"
            )

    def _fingerprint(self) -> str:
        return hashlib.sha256(self.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()

    def _token_ids(self, split: Split) -> list[int]:
        corpus, queries = self.source.corpus(split), self.source.queries(split)
        characters = _CHARACTERS_PER_TOKEN * self.max_document_tokens
        asked = self._encoded([query.text for query in queries])
        answers = self._encoded([_answer(query, corpus)[:characters] for query in queries])
        (line_break,) = self._encoded(["\n"])
        ids: list[int] = []
        for query, question, answer in zip(queries, asked, answers, strict=True):
            parts = [question, answer[: self.max_document_tokens]]
            first, second = parts if stable_share(query.id, "layout") < 0.5 else reversed(parts)
            ids += [*first, *line_break, *second, self.tokenizer.eos_token_id]
        return ids

    def _encoded(self, texts: list[str]) -> list[list[int]]:
        return cast("list[list[int]]", self.tokenizer(texts, add_special_tokens=False)["input_ids"])


def _answer(query: Query, corpus: Corpus) -> str:
    """The first of the most relevant documents."""
    best = max(query.relevant, key=lambda document_id: query.relevant[document_id])
    return corpus.texts[corpus.row(best)]


def _stacked(blocks: Sequence[Tensor]) -> Int64[Tensor, "batch seq"]:
    return torch.stack(tuple(blocks))
