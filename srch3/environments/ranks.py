"""The processes of a run, and how they share the work of encoding documents."""

import heapq
from collections.abc import Callable, Sequence
from itertools import chain

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor

from srch3.functional.distributed import gather_rows


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def several() -> bool:
    """Whether there is more than one."""
    return world() > 1


def exchange(rows: Shaped[Tensor, "local *rest"]) -> Shaped[Tensor, "all *rest"]:
    """The rows of every process in the order of the ranks, on the device that they communicate through."""
    if not several():
        return rows
    gpu = "nccl" in str(dist.get_backend())
    return gather_rows(rows.to(torch.device("cuda", torch.cuda.current_device()) if gpu else "cpu"))


def from_first(tensor: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """What the first process has, in every process: for what must be the same although rounding may differ."""
    if not several():
        return tensor
    given = [tensor]
    dist.broadcast_object_list(given)
    return given[0]


def encode_sharded(
    texts: Sequence[str], encode: Callable[[Sequence[str]], Float[Tensor, "some dim"]]
) -> Float[Tensor, "docs dim"]:
    """Encodes documents, each in one of the processes; all of them get all embeddings.

    Shares are of similar length in characters, and the same whenever the texts are. Every process calls ``encode``
    once, if need be for a text that another one has too, since some strategies compute together.

    Args:
        texts: The same in every process.
        encode: Gives the embeddings of some texts.

    Returns:
        In the order of ``texts``, on the device of what ``encode`` gave.
    """
    if not several() or not texts:
        return encode(texts)
    lengths = [len(text) for text in texts]
    shares = balanced(lengths, dist.get_world_size())
    mine = shares[dist.get_rank()]
    vectors = encode([texts[number] for number in mine or [lengths.index(min(lengths))]])
    with torch.inference_mode(False), torch.no_grad():
        gathered = exchange(vectors[: len(mine)].detach())
        whole = torch.empty_like(gathered)
        whole[torch.tensor(list(chain.from_iterable(shares)), device=whole.device)] = gathered
    return whole.to(vectors.device)


def balanced(lengths: Sequence[int], shares: int) -> list[list[int]]:
    """Deals numbers out so that their lengths sum to much the same: the longest first, each to whom has least.

    Args:
        lengths: Of what is dealt out.
        shares: How many there are to be.

    Returns:
        The positions in ``lengths`` that each share has, ascending.
    """
    dealt: list[list[int]] = [[] for _ in range(shares)]
    loads = [(0, share) for share in range(shares)]
    for number in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        load, share = loads[0]
        dealt[share].append(number)
        heapq.heapreplace(loads, (load + lengths[number] + 1, share))
    return [sorted(share) for share in dealt]
