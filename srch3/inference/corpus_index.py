"""Building an index of a corpus, part by part, so that a build which was stopped goes on where it was."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock

from srch3.data.corpus import Corpus
from srch3.data.documents_file import read_documents
from srch3.data.stored import CorpusWriter, open_corpus
from srch3.errors import CheckpointError, ConfigError, DataError
from srch3.indexes import BaseIndex, ExactIndex
from srch3.inference import index_folder
from srch3.inference.embedder import Embedder
from srch3.inference.index_folder import DOCUMENTS, INDEX, MANIFEST, PARTS, PLAN
from srch3.inference.index_parts import Parts

DOCUMENTS_PER_PART = 1024
"""What a kill can cost at most."""

_LOCK = ".lock"


class Shard(NamedTuple):
    """Which share of the parts a process encodes.

    Attributes:
        number: From 0 on.
        total: Of all processes.
    """

    number: int
    total: int


class IndexBuilder:
    """Writes the folder of an index, alone or beside other processes that write the same one.

    :meth:`begin` copies the documents, :meth:`encode` writes embeddings in parts, and :meth:`finish` puts them together
    once none is missing. Each can be stopped at any time, by a kill too; what was done is found again.

    Args:
        embedder: The model.
        model: What it was loaded from, to be written into the manifest.
        corpus: ``corpus.jsonl`` in BEIR's layout, or a folder that has it.
        output: The folder; new, empty, or begun with the same model, corpus and precision.
        index: An empty index to build; exact search by default. Until it is built, another one can be asked for.
        shard: Which share of the parts to encode; all by default.
        documents_per_part: How many documents are encoded before they are saved; a build that was begun keeps its own.

    Raises:
        ConfigError: An argument is out of range.
        DataError: There is no such corpus.
    """

    def __init__(
        self,
        embedder: Embedder,
        model: str | Path,
        corpus: str | Path,
        output: str | Path,
        index: BaseIndex | None = None,
        shard: Shard | None = None,
        documents_per_part: int = DOCUMENTS_PER_PART,
    ) -> None:
        shard = shard or Shard(0, 1)
        if not 0 <= shard.number < shard.total:
            raise ConfigError(f"shard: expected 0 to {shard.total - 1} of {shard.total} shards; got {shard.number}")
        if documents_per_part < 1:
            raise ConfigError(f"documents_per_part: expected at least 1; got {documents_per_part}")
        self.embedder, self.shard = embedder, shard
        self.index = ExactIndex() if index is None else index
        self.source, self.output = corpus_file(corpus), Path(output).expanduser()
        self._plan: dict[str, Any] = {
            "format": index_folder.FORMAT,
            "model": {
                "path": str(Path(model).expanduser().absolute()),
                "given": str(model),
                "revision": embedder.revision,
                "dim": embedder.dim,
                "precision": embedder.precision,
            },
            "corpus": {"path": str(self.source.absolute()), "digest": _digest(self.source)},
            "index": index_folder.describe_index(self.index),
            "documents_per_part": documents_per_part,
        }
        self._corpus: Corpus | None = None

    def finished(self) -> bool:
        """Whether the index can be searched."""
        return (self.output / MANIFEST).is_file()

    @property
    def corpus(self) -> Corpus:
        """The documents, after :meth:`begin`."""
        if self._corpus is None:
            self._corpus = open_corpus(self.output / DOCUMENTS)
        return self._corpus

    def begin(self) -> None:
        """Makes the folder and copies the documents into it, or checks what was begun.

        Where that fails, the folder is as before; beside other processes the lock stays.

        Raises:
            ConfigError: The folder holds something else.
            CheckpointError: It was begun with another model, corpus or setting.
            DataError: The corpus cannot be read.
        """
        is_new, is_unlocked = not self.output.exists(), not (self.output / _LOCK).exists()
        self.output.mkdir(parents=True, exist_ok=True)
        try:
            with self._lock():
                self._begin()
        except BaseException:
            if is_unlocked and self.shard.total == 1:
                (self.output / _LOCK).unlink(missing_ok=True)
                if is_new:
                    with suppress(OSError):
                        self.output.rmdir()
            raise

    def _begin(self) -> None:
        if self.finished():
            self._check(index_folder.read_manifest(self.output), "built")
            self._tidy()
            return
        self._begin_plan()
        if not (self.output / DOCUMENTS).is_dir():
            self._copy_documents()

    def _begin_plan(self) -> None:
        plan = self.output / PLAN
        if plan.is_file():
            begun = index_folder.read_json(plan)
            if (self.output / DOCUMENTS).is_dir():
                self._check(begun | {"index": self._plan["index"]}, "begun")
                self._plan["documents_per_part"] = begun["documents_per_part"]
        elif others := [path.name for path in self.output.iterdir() if path.name not in {_LOCK, f".{PLAN}.partial"}]:
            raise ConfigError(
                f"output: expected a new or empty folder, or an index that was begun there; got {str(self.output)!r}, "
                f"which holds {others[0]!r}"
            )
        index_folder.write_json(plan, self._plan)

    def _copy_documents(self) -> None:
        partial = self.output / f"{DOCUMENTS}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            with CorpusWriter(partial) as documents:
                for document_id, text in read_documents(self.source, "corpus"):
                    documents.add(document_id, text)
            if _digest(self.source) != self._plan["corpus"]["digest"]:
                raise DataError(f"corpus: expected {self.source} to stay as it is while it is read; it was changed")
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            (self.output / PLAN).unlink(missing_ok=True)
            raise
        partial.rename(self.output / DOCUMENTS)

    def _check(self, begun: dict[str, Any], verb: str) -> None:
        """Refuses to go on with anything else than what was begun."""
        for name, saved, wanted in _differences(begun, self._plan):
            raise CheckpointError(
                f"{name}: {str(self.output)!r} was {verb} {saved}; got {wanted}; give another output, or remove "
                "that folder to begin anew"
            )

    def remaining(self) -> int:
        """Documents of this shard that are not encoded yet."""
        return 0 if self.finished() else sum(len(self._parts.rows(number)) for number in self._missing())

    def encode(self, on_progress: Callable[[int], None] | None = None) -> None:
        """Encodes what is missing of this shard.

        Args:
            on_progress: Called with the number of documents after each pass.
        """
        if self.finished():
            return
        parts = self._parts
        parts.folder.mkdir(exist_ok=True)
        for number in self._missing():
            rows = parts.rows(number)
            vectors = self.embedder.encode_documents(self.corpus.texts[rows.start : rows.stop], on_progress)
            with self._lock():
                if self.finished():
                    return
                parts.write(number, vectors)

    def finish(self) -> bool:
        """Puts the parts together, if all are there.

        Returns:
            Whether the index can be searched; otherwise other shards are still to be encoded.

        Raises:
            CheckpointError: A part is damaged; it is removed, so that it will be encoded again.
        """
        with self._lock():
            if self.finished():
                return True
            if next(self._parts.missing(), None) is not None:
                return False
            self.index.build(torch.from_numpy(self._parts.together()))
            partial = self.output / f"{INDEX}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(self.output / INDEX, ignore_errors=True)
            partial.mkdir()
            self.index.write(partial)
            partial.rename(self.output / INDEX)
            files = index_folder.files_of(self.output, DOCUMENTS, INDEX)
            manifest = {**self._plan, "documents": len(self.corpus), "files": files}
            index_folder.write_json(self.output / MANIFEST, manifest)
            self._tidy()
            return True

    def _tidy(self) -> None:
        """Removes what only an unfinished index needs."""
        shutil.rmtree(self.output / PARTS, ignore_errors=True)
        (self.output / PLAN).unlink(missing_ok=True)

    def _lock(self) -> FileLock:
        return FileLock(self.output / _LOCK)

    @property
    def _parts(self) -> Parts:
        return Parts(self.output / PARTS, len(self.corpus), self._plan["documents_per_part"], self.embedder.dim)

    def _missing(self) -> Iterator[int]:
        return self._parts.missing(self.shard.number, self.shard.total)


def build_index(
    embedder: Embedder,
    model: str | Path,
    corpus: str | Path,
    output: str | Path,
    index: BaseIndex | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Builds an index, or goes on with one that was begun; see :class:`IndexBuilder`.

    Args:
        embedder: The model.
        model: What it was loaded from, to be written into the manifest.
        corpus: ``corpus.jsonl`` in BEIR's layout, or a folder that has it.
        output: The folder; new, empty, or begun with the same model, corpus and settings.
        index: An empty index to build; exact search by default.
        on_progress: Called with the number of documents after each pass.
    """
    builder = IndexBuilder(embedder, model, corpus, output, index)
    builder.begin()
    builder.encode(on_progress)
    builder.finish()


def corpus_file(corpus: str | Path) -> Path:
    """The file of a corpus that is named by itself or by its folder.

    Raises:
        DataError: There is none.
    """
    path = Path(corpus).expanduser()
    found = path / "corpus.jsonl" if path.is_dir() else path
    if not found.is_file():
        raise DataError(f"corpus: expected corpus.jsonl, or a folder that has one; got {str(corpus)!r}; check the path")
    return found


def _differences(begun: dict[str, Any], wanted: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Names of what was begun otherwise: with what, and what is wanted instead."""
    ours, theirs = wanted["model"], begun["model"]
    if theirs["revision"] != ours["revision"]:
        saved = f"with the weights {theirs['revision'][:12]} ({theirs['given']})"
        yield "model", saved, f"{ours['revision'][:12]} ({ours['given']})"
    if theirs["precision"] != ours["precision"]:
        yield "precision", f"with {theirs['precision']}", ours["precision"]
    if begun["corpus"]["digest"] != wanted["corpus"]["digest"]:
        yield "corpus", f"from {_content(begun['corpus'])}", f"{_content(wanted['corpus'])}, whose content differs"
    for name in ("class_path", "dtype"):
        if begun["index"][name] != wanted["index"][name]:
            yield f"index.{name}", f"with {begun['index'][name]}", str(wanted["index"][name])
    for name, value in wanted["index"]["settings"].items():
        if begun["index"]["settings"].get(name) != value:
            yield f"index.init_args.{name}", f"with {begun['index']['settings'].get(name)}", str(value)


def _content(corpus: dict[str, str]) -> str:
    return f"{corpus['path']} (digest {corpus['digest'][:12]})"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=20)).hexdigest()
