import socket
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
from torch.multiprocessing.spawn import spawn
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from srch3.backbones import LoRA, ReasoningEmbedder
from srch3.backbones.sharding import whole_weights
from srch3.errors import ConfigError
from tests.models import make_model_folder

PROCESSES = 2
TEXTS = ["fox", "a lazy dog"]


class Step(nn.Module):
    """A training step that also looks at the reference, and takes one pass more in the first process."""

    def __init__(self, folder: str, lora: LoRA | None) -> None:
        super().__init__()
        self.backbone = ReasoningEmbedder(folder, lora=lora, gradient_checkpointing=True)
        self.backbone.build()
        self.backbone.remember()
        self.trained: list[nn.Module] = []

    def forward(self, rank: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), self.backbone.as_remembered(), whole_weights(self.trained[0]):
            reference = self.backbone.embed(self.backbone.tokenize(TEXTS, "document"))
        for _ in range(2 - rank):
            embeddings = self.backbone.embed(self.backbone.tokenize(TEXTS, "document"))
        return embeddings[0] @ embeddings[1], reference


def losses(model: nn.Module, rank: int) -> tuple[list[float], list[Tensor]]:
    """Of three steps; and the references seen in them."""
    next(module for module in model.modules() if isinstance(module, Step)).trained.append(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    found, references = [], []
    for _ in range(3):
        loss, reference = model(rank)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
        references.append(reference)
    return found, references


def encoded(step: Step, rank: int) -> Tensor:
    """One document in the first process and two in the second, each in a pass of its own."""
    step.backbone.eval()
    with torch.no_grad():
        sequences = step.backbone.tokenize(TEXTS[: rank + 1], "document")
        return torch.cat([step.backbone.embed([sequence]) for sequence in sequences])


def process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"tcp://localhost:{port}", world_size=PROCESSES, rank=rank)
    for lora in (None, LoRA(r=4)):
        compare(rank, folder, lora)
    distributed.destroy_process_group()


def compare(rank: int, folder: str, lora: LoRA | None) -> None:
    step, alone = Step(folder, lora), Step(folder, lora)
    expected, references = losses(alone, rank)
    sharded = FullyShardedDataParallel(
        step,
        sharding_strategy=ShardingStrategy.SHARD_GRAD_OP,
        use_orig_params=True,
        device_id=torch.device("cpu"),
    )
    found, seen = losses(sharded, rank)
    assert expected[2] < expected[0] - 0.01
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    for reference in (*seen, *references[1:]):
        torch.testing.assert_close(reference, references[0], atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match="keeps whole weights"):
        step.backbone.as_remembered().__enter__()
    with whole_weights(sharded):
        torch.testing.assert_close(encoded(step, rank), encoded(alone, rank), atol=1e-5, rtol=0)
    layered = FullyShardedDataParallel(
        Step(folder, lora),
        auto_wrap_policy=lambda module, recurse, nonwrapped_numel: recurse or isinstance(module, Qwen2DecoderLayer),
        use_orig_params=True,
        device_id=torch.device("cpu"),
    )
    with pytest.raises(ConfigError, match="keeps whole weights"):
        layered(rank)


@pytest.mark.slow
def test_sharded_training_equals_that_of_one_process(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "m")
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    assert spawn(process, (port, folder), nprocs=PROCESSES) is None


def test_a_model_that_is_not_sharded_is_left_alone() -> None:
    model = nn.Linear(1, 1)
    with whole_weights(model), whole_weights(None):
        assert model.weight.shape == (1, 1)
