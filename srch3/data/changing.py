"""Documents that are added, replaced and removed while a model trains on them or serves them."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from srch3.data.corpus import Corpus, twice
from srch3.data.overlay import Found, Overlay
from srch3.errors import CheckpointError, DataError
from srch3.types import CorpusLike


class Changes(NamedTuple):
    """What happened to a corpus between two versions of it; rows ascending.

    Attributes:
        version: The later one.
        texts: Rows whose text is new: documents that were added or replaced.
        removed: Rows that hold no document any more.
    """

    version: int
    texts: list[int]
    removed: list[int]


class ChangingCorpus(Corpus):
    """A corpus with changes on top of it; the corpus itself, memory-mapped perhaps, stays as it is.

    Rows keep their documents for good. What is added comes at the end; a removed document leaves its row behind, with
    an empty text, and gets it back if its id is added again. ``len()`` counts rows, ``live`` documents.

    Documents that queries are judged against, or learn from as negatives, can be replaced but not removed, once
    :meth:`protect` was told about them: a query without its positives has nothing to be rewarded for, and a metric that
    had counted them would change without the model doing so.

    In a run of several processes each must make the same changes between the same two steps. Worker processes of a data
    loader see them from the next epoch on.

    Args:
        base: The documents to start with.

    Attributes:
        base: The same.
    """

    def __init__(self, base: Corpus) -> None:
        self.base = base
        self._added: list[str] = []
        self._texts_of: dict[int, str] = {}
        self._gone: set[int] = set()
        self._protected: set[str] = set()
        self._versions: dict[int, int] = {}
        self._version = 0
        self._numbers: dict[str, int] = {}
        ids = Overlay(base.ids, self._added, {})
        texts = Overlay(base.texts, self._added, self._texts_of)
        super().__init__(ids, texts, Found(base, self._numbers, self._gone))

    @property
    def version(self) -> int:
        """How many changes were made."""
        return self._version

    @property
    def live(self) -> int:
        """Number of documents."""
        return len(self) - len(self._gone)

    @property
    def removed(self) -> frozenset[int]:
        """Rows that hold no document."""
        return frozenset(self._gone)

    @property
    def alive(self) -> Bool[np.ndarray, "docs"]:
        """Which rows hold a document."""
        alive = np.ones(len(self), dtype=bool)
        alive[sorted(self._gone)] = False
        return alive

    @property
    def fingerprint(self) -> str:
        """A hash of all documents and their rows; without changes, that of the corpus below."""
        if not self._versions:
            return self._below
        digest = hashlib.sha256(self._below.encode())
        for line in self._lines():
            digest.update(line.encode())
        return digest.hexdigest()

    def row(self, document_id: str) -> int:
        """Position of a document.

        Raises:
            DataError: Where no document has this id, or it was removed.
        """
        row = self._row(document_id)
        if row in self._gone:
            raise DataError(f"corpus: expected the id of a document that is still there; {document_id!r} was removed")
        return super().row(document_id) if row is None else row

    def protect(self, document_ids: Iterable[str]) -> None:
        """Refuses to remove these documents from now on, in addition to earlier ones.

        Args:
            document_ids: Those that queries are judged against.
        """
        self._protected.update(document_ids)

    def add(self, document_ids: Sequence[str], texts: Sequence[str]) -> list[int]:
        """Adds documents; all of them, or none if one is refused.

        Returns:
            Their rows.

        Raises:
            DataError: An id is there already or comes twice, or an id or text is not a string.
        """
        _check_new(document_ids, texts)
        for document_id in document_ids:
            if document_id in self:
                raise DataError(f"corpus: expected ids of new documents; got {document_id!r} again; replace it instead")
        rows = []
        for document_id in document_ids:
            row = self._row(document_id)
            if row is None:
                row = self._numbers[document_id] = len(self)
                self._added.append(document_id)
            rows.append(row)
        self._gone.difference_update(rows)
        return self._write(rows, texts)

    def replace(self, document_ids: Sequence[str], texts: Sequence[str]) -> list[int]:
        """Gives documents another text; all of them, or none if one is refused.

        Returns:
            Their rows.

        Raises:
            DataError: There is no such document, an id comes twice, or a text is not a string.
        """
        _check_new(document_ids, texts)
        return self._write([self.row(document_id) for document_id in document_ids], texts)

    def remove(self, document_ids: Sequence[str]) -> list[int]:
        """Removes documents; all of them, or none if one is refused.

        Returns:
            Their rows.

        Raises:
            DataError: There is no such document, an id comes twice, a query is judged against it, or none would be
                left.
        """
        _check_new(document_ids, [""] * len(document_ids))
        rows = [self.row(document_id) for document_id in document_ids]
        for document_id in document_ids:
            if document_id in self._protected:
                raise DataError(
                    f"corpus: expected documents that no query is judged against; got {document_id!r}; replace it, or "
                    "leave its queries out and start again"
                )
        if len(rows) == self.live:
            raise DataError(f"corpus: expected at least one document to stay; got all {self.live} to remove")
        self._write(rows, [""] * len(rows))
        self._gone.update(rows)
        return rows

    def changes_since(self, version: int) -> Changes:
        """What has to be encoded, and what to be taken out, to get from an earlier version to the present one.

        Args:
            version: An earlier value of :attr:`version`; 0 is the corpus below.
        """
        rows = sorted(row for row, changed in self._versions.items() if changed > version)
        kept, removed = [row for row in rows if row not in self._gone], [row for row in rows if row in self._gone]
        return Changes(self._version, kept, removed)

    def write(self, path: Path) -> None:
        """Saves the changes, as JSON lines.

        Args:
            path: The file.
        """
        below = {"base": self._below, "documents": len(self.base)}
        with path.open("w", encoding="utf-8") as file:
            file.write(json.dumps(below) + "\n")
            file.writelines(self._lines())

    def read(self, path: Path) -> None:
        """Makes the changes that :meth:`write` saved, unless the very same were made already.

        Raises:
            CheckpointError: They were made to another corpus, this one was changed otherwise, or the file is damaged.
        """
        try:
            below, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            saved, size = below["base"], below["documents"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"ckpt_path: expected {path} to hold the changes of a corpus; it is damaged, resume from another "
                "checkpoint"
            ) from error
        if saved != self._below:
            raise CheckpointError(
                f"ckpt_path: expected the corpus whose changes were saved ({size} documents, fingerprint "
                f"{saved[:12]}); got {len(self.base)} documents, fingerprint {self._below[:12]}; resume with the same "
                "data settings"
            )
        if self._versions and [json.loads(line) for line in self._lines()] != lines:
            raise CheckpointError(
                f"ckpt_path: expected the corpus as it was loaded, or with the changes of {path}; got other changes; "
                "make them after the run has resumed"
            )
        for line in [] if self._versions else lines:
            self._repeat(line)

    @cached_property
    def _below(self) -> str:
        return fingerprint_of(self.base)

    def _repeat(self, line: Mapping[str, Any]) -> None:
        row = int(line["row"])
        if row >= len(self.base):
            self._numbers[line["id"]] = row
            self._added.append(line["id"])
        self._write([row], [line["text"] or ""])
        if line["text"] is None:
            self._gone.add(row)

    def _lines(self) -> Iterator[str]:
        for row in sorted(self._versions):
            text = None if row in self._gone else self._texts_of[row]
            yield json.dumps({"row": row, "id": self.ids[row], "text": text}) + "\n"

    def _row(self, document_id: str) -> int | None:
        row = self._numbers.get(document_id)
        return row if row is not None or document_id not in self.base else self.base.row(document_id)

    def _write(self, rows: list[int], texts: Sequence[str]) -> list[int]:
        self._version += bool(rows)
        self._texts_of.update(zip(rows, texts, strict=True))
        self._versions.update(dict.fromkeys(rows, self._version))
        return rows


def fingerprint_of(corpus: CorpusLike) -> str:
    """A hash of all ids and texts in their order."""
    if isinstance(corpus, ChangingCorpus):
        return corpus.fingerprint
    digest = hashlib.sha256()
    for number, text in enumerate(corpus.texts):
        for part in (corpus.ids[number].encode(errors="surrogatepass"), text.encode(errors="surrogatepass")):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()


def _check_new(document_ids: Sequence[object], texts: Sequence[object]) -> None:
    if len(document_ids) != len(texts):
        raise DataError(f"corpus: expected as many texts as ids; got {len(texts)} texts for {len(document_ids)} ids")
    seen: set[str] = set()
    for document_id, text in zip(document_ids, texts, strict=True):
        if not isinstance(document_id, str) or not isinstance(text, str):
            raise DataError(f"corpus: expected strings as id and text; got {document_id!r} and {text!r}")
        if document_id in seen:
            raise twice(document_id)
        seen.add(document_id)
