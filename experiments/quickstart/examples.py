"""A few searches to look at: what was asked, what the model thought, what it found."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

SHOWN = 3


def read_examples(path: Path, relevant: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """Reads what ``predict`` wrote, and marks what is right.

    Args:
        path: A file ``searches.jsonl``.
        relevant: Of each query, document id to grade.

    Returns:
        Of each query its id, text, thought, the first hits, and ``place``: that of the first right one among all hits,
        from 1, or null where there is none.
    """
    examples = []
    for line in path.read_text(encoding="utf-8").splitlines():
        search = json.loads(line)
        right = [hit["id"] in relevant[search["id"]] for hit in search["hits"]]
        hits = [{**hit, "right": good} for hit, good in zip(search["hits"], right, strict=True)]
        place = right.index(True) + 1 if True in right else None
        known = {key: search[key] for key in ("id", "text", "thought")}
        examples.append({**known, "hits": hits[:SHOWN], "place": place, "searched": len(hits)})
    return examples


def show_examples(examples: Sequence[Mapping[str, Any]]) -> Text:
    """The searches as text for a console."""
    text = Text()
    for example in examples:
        text.append("\nquery    ", "dim").append(example["text"] + "\n", "bold")
        text.append("thought  ", "dim").append((example["thought"] or "(none)") + "\n", "italic")
        for number, hit in enumerate(example["hits"], start=1):
            mark, style = ("✓", "green") if hit["right"] else (" ", "")
            text.append(f"     {mark} {number}. {hit['id']}  ({hit['score']:.2f})\n", style)
        text.append(f"         {_where(example)}\n" if (example["place"] or SHOWN + 1) > SHOWN else "", "dim")
    return text


def _where(example: Mapping[str, Any]) -> str:
    """Where the right document is, if it is not among those shown."""
    if example["place"] is None:
        return f"the right one is not among the first {example['searched']}"
    return f"the right one is in place {example['place']}"
