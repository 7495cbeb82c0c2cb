"""Columns with changes on top of them."""

from collections.abc import Collection, Mapping, Sequence
from typing import overload

from srch3.data.corpus import Corpus, Rows


class Found(Rows):
    """Finds rows in the corpus below, and those that came later."""

    def __init__(self, base: Corpus, later: Mapping[str, int], gone: Collection[int]) -> None:
        self._base, self._later, self._gone = base, later, gone

    def get(self, document_id: str, /) -> int | None:
        """The row of a document, or None."""
        row = self._later.get(document_id)
        if row is None and document_id in self._base:
            row = self._base.row(document_id)
        return None if row in self._gone else row


class Overlay(Sequence[str]):
    """A column with some entries replaced, and others after its end."""

    def __init__(self, base: Sequence[str], added: Sequence[str], changed: Mapping[int, str]) -> None:
        self._base, self._added, self._changed = base, added, changed

    def __len__(self) -> int:
        return len(self._base) + len(self._added)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[row] for row in range(*place.indices(len(self)))]
        row = range(len(self))[place]
        if row in self._changed:
            return self._changed[row]
        return self._base[row] if row < len(self._base) else self._added[row - len(self._base)]
