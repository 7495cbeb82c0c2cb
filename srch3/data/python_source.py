"""Learning to search Python: docstrings are the queries, the functions they describe are the documents."""

import logging
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from srch3.data.base import RetrievalDataModule
from srch3.data.corpus import Corpus
from srch3.data.extraction import Pair
from srch3.data.mining import mine, query_key
from srch3.data.selection import stable_share
from srch3.data.thoughts import KeywordThoughts, ThoughtSource, subwords
from srch3.errors import ConfigError, DataError
from srch3.types import Query, Split

log = logging.getLogger(__name__)

PACKAGES = Path(__file__).parent / "packages.txt"
"""The distributions that the default roots are; fixed, so that a dependency which is added changes no data set."""


class _Parts(NamedTuple):
    """Pairs whose docstrings are asked, and pairs whose functions are searched."""

    train: list[Pair]
    val: list[Pair]
    test: list[Pair]
    train_corpus: list[Pair]
    eval_corpus: list[Pair]


class PythonSourceDataModule(RetrievalDataModule):
    """Docstring → function pairs mined from Python source; nothing is imported or run, and nothing downloaded.

    A query is the first sentence of a docstring; its only relevant document is the function, signature and body
    without docstring and decorators. No training pair comes from a module that validation or test uses, and
    none shares its query or its document with one of theirs. A hash of its name decides where a module belongs.

    - By default, training uses distributions that come with this package, validation and test the standard library:
      a quarter of its modules is for validation, the rest for test; all of its functions are searched.
    - With ``roots`` alone, for example your own code base, 80 % of the modules are for training, 10 % for validation
      and 10 % for test; the functions of all of them are searched in every split.
    - With ``roots`` and ``test_roots``, each does its part as in the default.

    Args:
        roots: What to train on: each is ``stdlib``, the name of an installed distribution, a folder, or a requirements
            file (``.txt``), which stands for all distributions in it that are installed.
        test_roots: What to validate and test on, in the same form.
        max_train_documents: Use at most this many of the training functions, drawn by their ids; a larger number only
            adds to a smaller one. All by default.
        max_document_characters: Cut functions off after this many characters.
        cache_dir: Folder that keeps what was mined; an empty string keeps nothing.
        thoughts: What the model learns to think for a training query; by default the most informative terms of the
            function that the query lacks. ``ColumnThoughts`` teaches the words of the function's name.
        **kwargs: What ``RetrievalDataModule`` takes.

    Raises:
        ConfigError: Where a number is out of range.
    """

    def __init__(
        self,
        roots: list[str] | None = None,
        test_roots: list[str] | None = None,
        max_train_documents: int | None = None,
        max_document_characters: int = 2000,
        cache_dir: str = "~/.cache/srch3",
        thoughts: ThoughtSource | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(thoughts=thoughts or KeywordThoughts(), **kwargs)
        _check_positive("max_train_documents", max_train_documents)
        _check_positive("max_document_characters", max_document_characters)
        self.separate = roots is None or test_roots is not None
        self.roots = [str(PACKAGES)] if roots is None else roots
        default = ["stdlib"] if self.separate else self.roots
        self.test_roots = default if test_roots is None else test_roots
        self.max_train_documents = max_train_documents
        self.max_document_characters = max_document_characters
        self.cache_dir = cache_dir

    def prepare_data(self) -> None:
        """Mines, so that in a run of several processes one does it for all."""
        self._mine(self.roots, "roots")
        if self.separate:
            self._mine(self.test_roots, "test_roots")

    def pairs(self, split: Split) -> list[Pair]:
        """The pairs whose docstrings a split asks for; ``predict`` is the same as ``test``."""
        return {"train": self._parts.train, "val": self._parts.val}.get(split, self._parts.test)

    def load(self, split: Split) -> list[Query]:
        """One query per pair, with its function's id, and the words of the function's name as its thought."""
        pairs = self.pairs(split)
        if not pairs:
            raise DataError(
                f"data.init_args.roots: expected functions with docstrings in modules of every split; {split} has none;"
                " mine more modules, or give data.init_args.test_roots"
            )
        return [Query(pair.id, pair.query, {pair.id: 1}, thought=_name(pair)) for pair in pairs]

    def load_corpus(self, split: Split) -> Corpus:
        """The functions that a split searches."""
        return self._train_corpus if split == "train" else self._eval_corpus

    @cached_property
    def _train_corpus(self) -> Corpus:
        parts = self._parts
        return self._eval_corpus if parts.train_corpus is parts.eval_corpus else _corpus(parts.train_corpus)

    @cached_property
    def _eval_corpus(self) -> Corpus:
        return _corpus(self._parts.eval_corpus)

    @cached_property
    def _parts(self) -> _Parts:
        mined = self._mine(self.roots, "roots")
        if self.separate:
            held = self._mine(self.test_roots, "test_roots")
            val, test = _divide(held, 0.25, 1.0)
            chosen = self._limited(_without(mined, held))
            return _Parts(chosen, val, test, chosen, held)
        train, val, test = _divide(mined, 0.8, 0.9, 1.0)
        chosen = self._limited(train)
        return _Parts(chosen, val, test, mined if self.max_train_documents is None else chosen, mined)

    def _limited(self, pairs: list[Pair]) -> list[Pair]:
        if self.max_train_documents is None:
            return pairs
        ranked = sorted(pairs, key=lambda pair: (stable_share(pair.id, "documents"), pair.id))
        return sorted(ranked[: self.max_train_documents])

    def _mine(self, roots: Sequence[str], name: str) -> list[Pair]:
        pairs = mine(roots, self.cache_dir or None, f"data.init_args.{name}").pairs
        return [pair._replace(document=pair.document[: self.max_document_characters]) for pair in pairs]


def _name(pair: Pair) -> str:
    name = pair.id.rpartition(".")[2].partition("~")[0]
    return " ".join(subwords(name))


def _corpus(pairs: Sequence[Pair]) -> Corpus:
    return Corpus([pair.id for pair in pairs], [pair.document for pair in pairs])


def _divide(pairs: Sequence[Pair], *bounds: float) -> list[list[Pair]]:
    """One list per upper bound, by the hash of the module, so that all pairs of a module go to the same.

    Where there are too few modules for chance to reach a part, it gets the module whose hash is nearest, taken from the
    part that has most.
    """
    shares = {pair.module: stable_share(pair.module, "module") for pair in pairs}
    edges = list(pairwise([0.0, *bounds]))
    modules = [{name for name, share in shares.items() if low <= share < high} for low, high in edges]
    for part, (low, high) in zip(modules, edges, strict=True):
        richest = max(modules, key=len)
        if not part and len(richest) > 1:
            nearest = min(richest, key=lambda name: (abs(shares[name] - (low + high) / 2), name))
            richest.remove(nearest)
            part.add(nearest)
    return [[pair for pair in pairs if pair.module in part] for part in modules]


def _without(pairs: Sequence[Pair], held: Sequence[Pair]) -> list[Pair]:
    """Pairs that share neither module nor query nor document with those held out."""
    modules = {pair.module for pair in held}
    queries = {query_key(pair.query) for pair in held}
    documents = {pair.document for pair in held}
    kept = [
        pair
        for pair in pairs
        if pair.module not in modules and query_key(pair.query) not in queries and pair.document not in documents
    ]
    if len(kept) < len(pairs):
        log.info("train: left out %d functions that validation or test has too", len(pairs) - len(kept))
    return kept


def _check_positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ConfigError(f"data.init_args.{name}: expected at least 1; got {value}")
