"""``python -m srch3 encode``: embeddings of texts as an array in a file."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save_file

from srch3.commands.calling import call
from srch3.commands.search import chosen_mode
from srch3.environments.progress import encoding_bar
from srch3.errors import ConfigError, DataError
from srch3.inference.embedder import Embedder
from srch3.inference.precision import Precision
from srch3.inference.texts_file import read_document_file, read_query_file
from srch3.types import Mode

EPILOG = """\
examples:
  python -m srch3 encode --model EXPORTED --input BEIR_FOLDER --role document --output documents.npy
  python -m srch3 encode --model EXPORTED --input questions.txt --role query --direct --output queries.safetensors
"""

_KINDS = (".npy", ".safetensors")


def run(args: Sequence[str]) -> Any:
    """Encodes.

    Args:
        args: The words after ``encode``.
    """
    return call(encode, args, EPILOG)


def encode(
    model: str,
    input: str,  # noqa: A002 (it is the name of the option)
    output: str,
    role: Literal["document", "query"],
    think: bool | None = None,
    direct: bool = False,
    thoughts: int | None = None,
    mode: Mode | None = None,
    device: str | None = None,
    precision: Precision = "auto",
) -> None:
    """Writes the embeddings of texts, in their order: float32, unit length.

    ``*.npy`` has the array alone, and the ids stand beside it in a file of one per line, ``*.ids.txt``; so it is with
    ``*.safetensors``, whose array is called ``embeddings``.

    Args:
        model: A folder that ``export`` wrote, or the checkpoint of a run.
        input: A file of texts: JSON lines with ``_id``, ``text`` and for documents ``title``, a folder in BEIR's
            layout, or plain lines.
        output: The file to write, ``*.npy`` or ``*.safetensors``.
        role: What the texts are.
        think: Whether a thought is written about a query first, as by default; ``false`` is ``direct``.
        direct: Whether queries are embedded at once, without a thought.
        thoughts: How many thoughts to write for a query, whose embeddings are averaged.
        mode: Any of ``thinking``, ``direct``, ``mean-N``, ``budget-N``, ``empty``, ``copied``, in place of the three
            options above.
        device: Where to compute; by default on a GPU, where there is one.
        precision: Of the model; ``auto`` takes bfloat16 where that is known to be faster.
    """
    path = Path(output)
    if path.suffix not in _KINDS:
        raise ConfigError(f"output: expected a file called *.npy or *.safetensors; got {output!r}")
    asked = chosen_mode(think, direct, thoughts, mode)
    if role == "document" and (think, direct, thoughts, mode) != (None, False, None, None):
        raise ConfigError("role: expected query beside think, direct, thoughts and mode; got document; leave them out")
    texts = (read_query_file if role == "query" else read_document_file)(input, "input")
    embedder = Embedder.load(model, device, precision)
    with encoding_bar(f"Embedding {'queries' if role == 'query' else 'documents'}", len(texts.ids)) as advance:
        if role == "query":
            vectors = embedder.encode_queries(texts.texts, asked, advance)
        else:
            vectors = embedder.encode_documents(texts.texts, advance)
    _write(path, vectors, texts.ids)
    sys.stdout.write(
        f"{len(vectors)} embeddings of width {vectors.shape[1]}, computed in {embedder.precision}, in {output}\n"
    )


def _write(path: Path, vectors: np.ndarray[Any, Any], ids: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if broken := next((name for name in ids if len(name.splitlines()) != 1), None):
        raise DataError(f"input: expected ids without line breaks, one per line of *.ids.txt; got {broken!r}")
    path.with_suffix(".ids.txt").write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    if path.suffix == ".npy":
        np.save(partial, vectors)
    else:
        save_file({"embeddings": vectors}, partial)
    partial.replace(path)
