import socket
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from srch3.functional.contrastive import Targets, info_nce
from srch3.functional.distributed import gather_rows, mean_over_ranks
from srch3.functional.similarity import normalise

SHARES = [(0, 5), (5, 5), (5, 9)]
"""Rows of each process: five, none, four."""


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(9, 4, generator=generator), torch.randn(4, 4, generator=generator).requires_grad_()


def loss_of(queries: Tensor, documents: Tensor, first: int) -> Tensor:
    rows = torch.arange(len(queries))
    known = torch.zeros(len(queries), len(documents), dtype=torch.bool)
    known[rows, rows + first] = True
    total = info_nce(queries, documents, Targets(rows, rows + first, torch.ones(len(queries)), known), 0.1)
    return total.value / mean_over_ranks(total.weight)


def encoded(texts: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return normalise(texts @ weight), normalise(texts @ weight.T)


def run(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=len(SHARES), rank=rank)
    texts, weight = inputs()
    first, last = SHARES[rank]
    queries, documents = encoded(texts[first:last], weight)
    keys = gather_rows(torch.arange(first, last))
    loss = loss_of(queries, gather_rows(documents), first)
    loss.backward()
    torch.save({"loss": loss.detach(), "gradient": weight.grad, "keys": keys}, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def test_processes_with_uneven_shares_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(run, (port, str(tmp_path)), nprocs=len(SHARES))
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(len(SHARES))]
    texts, weight = inputs()
    loss = loss_of(*encoded(texts, weight), 0)
    loss.backward()
    assert all(part["keys"].tolist() == list(range(9)) for part in found)
    torch.testing.assert_close(sum(part["loss"] for part in found) / 3, loss.detach(), rtol=1e-6, atol=0)
    mean = torch.stack([part["gradient"] for part in found]).mean(0)
    torch.testing.assert_close(mean, weight.grad, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(found[0]["gradient"], found[2]["gradient"])


def test_one_process_keeps_its_rows() -> None:
    rows = torch.ones(2, 3, requires_grad=True)
    assert gather_rows(rows) is rows
    assert not mean_over_ranks(rows).requires_grad
