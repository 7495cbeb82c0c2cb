"""Columns of text in an Arrow file, memory-mapped: as many as the disk holds, none of them a Python object."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import index
from pathlib import Path
from types import TracebackType
from typing import overload

import pyarrow as pa

_ROWS = 1 << 16
_CHARACTERS = 1 << 24


class Column(Sequence[str]):
    """One column of a file that :class:`ColumnWriter` wrote; an entry becomes a string when it is asked for.

    Pickles as the path, so that another process maps the same file.

    Args:
        path: The file.
        name: The column.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._place = path, name
        with pa.memory_map(str(path)) as source:
            self._chunks = pa.ipc.open_file(source).read_all()[name].chunks
        self._ends = list(accumulate(len(chunk) for chunk in self._chunks))

    def __reduce__(self) -> tuple[type["Column"], tuple[Path, str]]:
        return Column, self._place

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[row] for row in range(*place.indices(len(self)))]
        row = index(place)
        row += len(self) if row < 0 else 0
        if not 0 <= row < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        number = bisect_right(self._ends, row)
        return _decoded(self._chunks[number][row - self._ends[number]].as_py())

    def __iter__(self) -> Iterator[str]:
        for chunk in self._chunks:
            yield from map(_decoded, chunk.to_pylist())


class ColumnWriter:
    """Writes rows of texts to an Arrow file, a chunk at a time.

    Texts are kept as bytes, so that whatever JSON can hold (lone surrogates, too) comes back as it was.

    Args:
        path: The file.
        names: Of the columns.
    """

    def __init__(self, path: Path, *names: str) -> None:
        self._schema = pa.schema([(name, pa.binary()) for name in names])
        self._file = path.open("wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)
        self._pending: list[tuple[str, ...]] = []
        self._characters = 0

    def append(self, *texts: str) -> None:
        """Adds a row: one text per column."""
        self._pending.append(texts)
        self._characters += sum(map(len, texts))
        if len(self._pending) == _ROWS or self._characters >= _CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            columns = zip(*self._pending, strict=True)
            arrays = [pa.array(map(_encoded, column), pa.binary(), size=len(self._pending)) for column in columns]
            self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._pending, self._characters = [], 0

    def __enter__(self) -> "ColumnWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if error is None:
                self._flush()
                self._writer.close()


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _decoded(text: bytes) -> str:
    return text.decode(errors="surrogatepass")
