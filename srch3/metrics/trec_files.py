"""Runs and judgements as the files that evaluation tools exchange: TREC's, and BEIR's table of judgements."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import numpy as np

from srch3.errors import DataError

Run = dict[str, dict[str, float]]
"""What a system found: query id, document id, score; a higher score is a better rank."""

Qrels = dict[str, dict[str, int]]
"""What is relevant: query id, document id, grade; documents graded above zero are relevant."""

_BLANK = re.compile(r"[ \t]+")


def read_run(path: Path, setting: str = "run") -> Run:
    """Reads a TREC run: ``query-id Q0 document-id rank score tag``, separated by white space.

    The rank, like the second and the last column, is ignored, as by every evaluation tool.

    Args:
        path: The file, in UTF-8.
        setting: What named the file.

    Raises:
        DataError: The file is absent, empty or broken, or a query has a document twice.
    """
    run: Run = {}
    for place, line in _lines(path, setting):
        columns = _BLANK.split(line)
        if len(columns) != 6:
            raise DataError(f"{place}: expected 'query-id Q0 document-id rank score tag'; got {line!r}")
        query, _, document, _, score, _ = columns
        found = run.setdefault(query, {})
        if document in found:
            raise DataError(f"{place}: expected each document once per query; got {document!r} again for {query!r}")
        found[document] = _number(score, place)
    if not run:
        raise DataError(f"{setting}: expected at least one hit in {path}; got none")
    return run


def write_run(path: Path, run: Mapping[str, Mapping[str, float]], tag: str) -> None:
    """Writes a TREC run.

    Equal scores are lowered by the least that makes them fall in single precision, in which evaluation tools sort, so
    that what they rank is the order in which hits are given.

    Args:
        path: The file, which appears once it is complete.
        run: Document ids and scores of each query, best first.
        tag: Name of the system, without white space.

    Raises:
        DataError: An id cannot stand in such a file.
    """
    check_ids(chain([tag], run, *run.values()))
    _write(path, chain.from_iterable(trec_lines(query, found, tag) for query, found in run.items()))


def trec_lines(query: str, found: Mapping[str, float], tag: str) -> Iterator[str]:
    """The lines of one query in a TREC run; nine digits tell any two numbers in single precision apart."""
    scores = falling_scores(found.values())
    for rank, (document, score) in enumerate(zip(found, scores, strict=True), start=1):
        yield f"{query} Q0 {document} {rank} {score:.9g} {tag}\n"


def read_qrels(path: Path, setting: str = "qrels") -> Qrels:
    """Reads judgements, in either of the two usual forms, which are told apart by the first line.

    TREC's has ``query-id 0 document-id grade`` per line, separated by white space. BEIR's has a header line, which is
    skipped whatever it says, and then ``query-id document-id grade``, separated by tabs. Grades of zero and below are
    kept: they make a query a judged one.

    Args:
        path: The file, in UTF-8.
        setting: What named the file.

    Raises:
        DataError: The file is absent, empty or broken, or a document is judged twice, and differently.
    """
    lines = _lines(path, setting)
    place, first = next(lines, ("", ""))
    if first.count("\t") == 2:
        rows = ((place, line, line.split("\t")) for place, line in lines)
    elif len(_BLANK.split(first)) == 4:
        rows = ((place, line, _BLANK.split(line)) for place, line in chain([(place, first)], lines))
    else:
        expected = "'query-id 0 document-id grade', or BEIR's header of three names between tabs"
        raise DataError(f"{place or path}: expected {expected}; got {first!r}")
    qrels = _judgements(rows, 3 if first.count("\t") == 2 else 4)
    if not qrels:
        raise DataError(f"{setting}: expected at least one judgement in {path}; got none")
    return qrels


def write_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Writes judgements in TREC's form: ``query-id 0 document-id grade``.

    Args:
        path: The file, which appears once it is complete.
        qrels: Document ids and grades of each query.

    Raises:
        DataError: An id cannot stand in such a file.
    """
    check_ids(chain(qrels, *qrels.values()))
    _write(path, (f"{query} 0 {name} {grade}\n" for query, judged in qrels.items() for name, grade in judged.items()))


def falling_scores(scores: Iterable[float]) -> list[float]:
    """Scores in single precision that strictly fall, each as near to the given one as that allows.

    Args:
        scores: Scores, best first.
    """
    falling: list[float] = []
    ceiling = np.float32(np.inf)
    for score in scores:
        ceiling = min(np.float32(score), np.nextafter(ceiling, np.float32(-np.inf)))
        falling.append(float(ceiling))
    return falling


def check_ids(ids: Iterable[str], setting: str = "output") -> None:
    """Refuses ids that TREC's files, whose columns are separated by white space, cannot hold.

    Args:
        ids: Of queries and documents.
        setting: What asked for such a file.

    Raises:
        DataError: An id is empty or has white space.
    """
    for name in ids:
        if len(name.split()) != 1 or name != name.strip():
            raise DataError(f"{setting}: expected ids without white space, which a TREC file cannot hold; got {name!r}")


def _judgements(rows: Iterable[tuple[str, str, list[str]]], width: int) -> Qrels:
    qrels: Qrels = {}
    for place, line, columns in rows:
        if len(columns) != width:
            raise DataError(f"{place}: expected {width} columns, as in the first line; got {line!r}")
        query, document, grade = columns[0], columns[-2], _grade(columns[-1], place)
        if qrels.setdefault(query, {}).setdefault(document, grade) != grade:
            raise DataError(f"{place}: expected one grade per document; got another one for {document!r} of {query!r}")
    return qrels


def _lines(path: Path, setting: str) -> Iterator[tuple[str, str]]:
    """The lines that are not blank, each with its place and without white space around it."""
    if not path.is_file():
        raise DataError(f"{setting}: expected a file at {path}; got none; check the path")
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", line.strip(" \t\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{setting}: expected text in UTF-8 at {path}; got {error}") from error


def _number(text: str, place: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if math.isnan(score):
        raise DataError(f"{place}: expected a number as score; got {text!r}")
    return score


def _grade(text: str, place: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{place}: expected an integer grade; got {text!r}") from None


def _write(path: Path, lines: Iterable[str]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(lines)
    partial.replace(path)
