"""``python -m srch3 index``: embeds a corpus once, for searches without end."""

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from srch3.commands.calling import call
from srch3.environments.progress import encoding_bar
from srch3.errors import ConfigError
from srch3.indexes import BaseIndex
from srch3.inference.corpus_index import IndexBuilder, Shard
from srch3.inference.embedder import Embedder
from srch3.inference.precision import Precision

EPILOG = """\
examples:
  python -m srch3 index --model EXPORTED --corpus BEIR_FOLDER --output INDEX
  python -m srch3 index --model runs/version_1/checkpoints/best.ckpt --corpus corpus.jsonl --output INDEX
  python -m srch3 index --model EXPORTED --corpus BEIR_FOLDER --output INDEX --index HnswIndex --index.threads 2

on two GPUs at once, into the same folder; whichever ends last puts the parts together:
  python -m srch3 index … --output INDEX --shard 0 --shards 2 --device cuda:0
  python -m srch3 index … --output INDEX --shard 1 --shards 2 --device cuda:1
"""

_STOPPED = "stopped; the same command goes on from there"


def run(args: Sequence[str]) -> Any:
    """Builds an index.

    Args:
        args: The words after ``index``.
    """
    return call(index, args, EPILOG)


def index(
    model: str,
    corpus: str,
    output: str,
    index: BaseIndex | None = None,
    device: str | None = None,
    precision: Precision = "auto",
    shard: int | None = None,
    shards: int = 1,
) -> None:
    """Embeds the documents of a corpus and writes an index of them, which ``search`` and ``serve`` open.

    Stopped or killed, the same command goes on where it was. Documents and vectors are read from the disk as they are
    needed, so that an index needs hardly any memory when it is opened.

    Args:
        model: A folder that ``export`` wrote, or the checkpoint of a run.
        corpus: ``corpus.jsonl`` with ``_id``, ``title`` and ``text``, or a folder that has it.
        output: The folder to write.
        index: What finds the nearest vectors; ``ExactIndex`` by default, ``HnswIndex`` or ``FaissIndex`` for more than
            a few 100,000 documents. ``--index.dtype float16`` halves the space, ``int8`` quarters it.
        device: Where to compute: ``cpu``, ``cuda``, ``cuda:1``; by default on a GPU, where there is one.
        precision: Of the model; ``auto`` takes bfloat16 where that is known to be faster.
        shard: Which share of the documents to embed, from 0 on, where several processes write the same folder.
        shards: How many such processes there are.
    """
    embedder = Embedder.load(model, device, precision)
    if shard is None and shards != 1:
        raise ConfigError(f"shard: expected which of the {shards} shards to embed, 0 to {shards - 1}; got none")
    own = None if shard is None else Shard(shard, shards)
    builder = IndexBuilder(embedder, model, corpus, output, index, own)
    try:
        builder.begin()
        remaining = builder.remaining()
        with encoding_bar("Embedding documents", remaining) as advance:
            builder.encode(advance)
        done = builder.finish()
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(_STOPPED) from stop
    folder = shlex.quote(str(output))
    if done:
        sys.stdout.write(
            f"{len(builder.corpus)} documents ({remaining} embedded now, in {embedder.precision}) in {output}; search "
            f"them: python -m srch3 search --index {folder}\n"
        )
    else:
        sys.stdout.write(
            f"{remaining} documents embedded in {embedder.precision}; {output} is finished once the other shards are\n"
        )
