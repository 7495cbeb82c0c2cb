"""What the machine allows: the bare model on full blocks of tokens, without padding, texts, loss or optimizer."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModel

from experiments.benchmarks.sft.settings import Setup

WIDTH = 128
BLOCKS = 32


def floor(setup: Setup) -> dict[str, float]:
    """Seconds per token, of a forward pass alone and together with its backward pass.

    Args:
        setup: Names the model.
    """
    model = AutoModel.from_pretrained(Path(setup.folder) / "model")
    model.train()
    generator = torch.Generator().manual_seed(setup.seed)
    ids = torch.randint(0, setup.vocab_size // 2, (BLOCKS, min(WIDTH, setup.max_document_tokens)), generator=generator)

    def forward() -> None:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)

    def both() -> None:
        model(input_ids=ids, use_cache=False).last_hidden_state[:, -1].sum().backward()

    repeats = 3 if setup.small else 40
    return {
        "forward": _median_seconds(forward, repeats) / ids.numel(),
        "forward_and_backward": _median_seconds(both, repeats) / ids.numel(),
    }


def _median_seconds(work: Callable[[], None], repeats: int) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
