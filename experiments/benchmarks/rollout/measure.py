"""Timing of both sides in turns, and of what ours does when."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from experiments.benchmarks.rollout import sides
from experiments.benchmarks.rollout.settings import Model, Settings, Shape
from experiments.benchmarks.rollout.task import Lengths, make_embedder, make_prompts
from srch3.backbones import ReasoningEmbedder, decoding, generation, sampling, shared_prompts

STAGES = ("reading the prompts", "attention", "the other layers", "output matrix", "choosing tokens", "leaving")


class Bench(NamedTuple):
    """A model that is measured.

    Attributes:
        embedder: The model.
        lengths: Ends its completions.
        peak: Bytes per second that its device can read and write; 0 on a CPU.
    """

    embedder: ReasoningEmbedder
    lengths: Lengths
    peak: float


def measure(settings: Settings, model: Model, note: Callable[[str], None]) -> list[dict[str, Any]]:
    """The figures of all shapes.

    Args:
        settings: Of the run.
        model: Which of its models.
        note: Is told what is about to happen.
    """
    longest = max(shape.longest for shape in settings.shapes)
    embedder = make_embedder(model, longest, settings.seed, settings.device)
    bench = Bench(embedder, Lengths(embedder), _peak(settings.device))
    figures = []
    for shape in settings.shapes:
        note(f"{model.name}: {shape.name}")
        prompts = make_prompts(model, shape, settings.seed)
        figures.append(_shape(bench, shape, prompts, settings.rounds))
    return figures


def _shape(bench: Bench, shape: Shape, prompts: Int64[Tensor, "prompts tokens"], rounds: int) -> dict[str, Any]:
    embedder = bench.embedder
    noted: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in ("ours", "theirs")}
    bare, shares, same = [], [], True
    rows = shape.prompts * shape.samples
    ids = torch.ones(max(rows, shape.prompts), shape.prompt_tokens, dtype=torch.int64, device=embedder.device)
    for number in range(rounds + 1):
        turn = [("ours", sides.ours), ("theirs", sides.theirs)]
        wrote = {}
        for name, side in turn if number % 2 else turn[::-1]:
            bench.lengths.begin(shape)
            cpu = time.process_time()
            with sides.passes(embedder) as schedule:
                seconds, wrote[name] = _clocked(lambda: side(embedder, prompts, shape, number), embedder.device)  # noqa: B023
            if name == "ours":
                mine = schedule
            if number:  # the first turn is a warm-up
                noted[name]["seconds"].append(seconds)
                noted[name]["cpu_seconds"].append(time.process_time() - cpu)
                noted[name]["tokens"].append(wrote[name].useful)
                noted[name]["computed"].append(sum(width * height for width, height in schedule))
        same = same and (not shape.greedy or wrote["ours"] == wrote["theirs"])
        if number:
            bare.append(_clocked(lambda: sides.bare(embedder, mine, ids), embedder.device)[0])  # noqa: B023
            if bench.peak:
                shares.append(bytes_read(embedder, mine) / noted["ours"]["seconds"][-1] / bench.peak)
    figures = {"shape": shape._asdict(), **{name: dict(found) for name, found in noted.items()}, "bare_seconds": bare}
    figures |= {"stages": stages(bench, shape, prompts)}
    return figures | ({"same_tokens": same} if shape.greedy else {}) | ({"bandwidth": shares} if shares else {})


def stages(bench: Bench, shape: Shape, prompts: Int64[Tensor, "prompts tokens"]) -> dict[str, float]:
    """Seconds that ours spends on each of `STAGES`, and on the rest, in a run of its own."""
    spent: dict[str, float] = defaultdict(float)
    device = bench.embedder.device
    bench.lengths.begin(shape)
    with _watched(bench.embedder, spent):
        seconds, _ = _clocked(lambda: sides.ours(bench.embedder, prompts, shape, 1), device)
    spent["the other layers"] -= spent["attention"]
    return {stage: spent[stage] for stage in STAGES} | {"rest": seconds - sum(spent.values())}


@contextmanager
def _watched(embedder: ReasoningEmbedder, spent: dict[str, float]) -> Iterator[None]:
    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            seconds, result = _clocked(lambda: function(*args, **kwargs), embedder.device)
            spent[stage] += seconds
            return result

        return run

    plain, shared = decoding.PlainDecoder, decoding.SharedDecoder
    own = embedder.causal_lm.config._attn_implementation  # noqa: SLF001
    attention = {name: timed("attention", ALL_ATTENTION_FUNCTIONS[name]) for name in (own, shared_prompts.NAME)}
    start = timed("reading the prompts", decoding.start)

    def read(*args: Any) -> Any:
        before = spent["attention"]
        decoder = start(*args)
        spent["attention"] = before  # what attention takes there belongs to reading the prompts
        return decoder

    with (
        mock.patch.object(generation, "start", read),
        mock.patch.object(generation, "choose", timed("choosing tokens", sampling.choose)),
        mock.patch.object(embedder, "logits", timed("output matrix", embedder.logits)),
        mock.patch.object(plain, "feed", timed("the other layers", plain.feed)),
        mock.patch.object(shared, "feed", timed("the other layers", shared.feed)),
        mock.patch.object(plain, "keep", timed("leaving", plain.keep)),
        mock.patch.object(shared, "keep", timed("leaving", shared.keep)),
        mock.patch.dict(ALL_ATTENTION_FUNCTIONS._global_mapping, attention),  # noqa: SLF001
    ):
        yield


def _clocked(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    _wait(device)
    began = time.perf_counter()
    result = work()
    _wait(device)
    return time.perf_counter() - began, result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bytes_read(embedder: ReasoningEmbedder, schedule: list[tuple[int, int]]) -> float:
    """What the passes that write tokens must read: all weights, and keys and values of what was read before.

    Args:
        embedder: The model.
        schedule: Rows and columns of each pass; the first ones read the prompts, which are stored once.
    """
    model: Any = embedder.causal_lm
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    width = 2 * model.config.num_hidden_layers * model.config.hidden_size * embedder.causal_lm.dtype.itemsize
    written = [rows for rows, columns in schedule if columns == 1]
    prompts = sum(rows * columns for rows, columns in schedule if columns > 1)
    cached = sum(prompts + step * rows for step, rows in enumerate(written, 1))
    return float(len(written) * weights + cached * width)


def _peak(device: str) -> float:
    """Bytes per second of a copy within the device, counting what is read and what is written; 0 on a CPU."""
    if not device.startswith("cuda"):
        return 0.0
    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = min(_clocked(lambda: target.copy_(source), source.device)[0] for _ in range(10))
    return 2 * source.numel() / seconds
