"""The other side: the same training as a user of sentence-transformers writes it."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from sentence_transformers import (
    DefaultBatchSampler,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.modules import Normalize
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

from experiments.benchmarks.sft.clock import Clock
from experiments.benchmarks.sft.prepare import read_lines
from experiments.benchmarks.sft.settings import Task


class _Watch(TrainerCallback):
    def __init__(self, clock: Clock, model: SentenceTransformer, loss: nn.Module) -> None:
        self.clock = clock
        self.model: Any = model[0]
        self.losses: list[Tensor] = []
        loss.register_forward_hook(lambda module, inputs, output: self.losses.append(output))

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.clock.begin(self.model.model)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.note(self.losses.pop())

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.clock.end()


def train(task: Task) -> tuple[Clock, SentenceTransformer]:
    """Trains with its trainer and its collator, on our pairs in our order."""
    setup, order = task.setup, task.line.order
    transformer = Transformer(str(Path(setup.folder) / "model"))
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
    model = SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")
    loss = _loss(model, task)
    clock = Clock(model.tokenizer.pad_token_id)
    arguments = SentenceTransformerTrainingArguments(
        str(Path(setup.folder) / "trainer"),
        max_steps=order.steps,
        per_device_train_batch_size=order.batch_size,
        batch_sampler=_as_given,
        optim="adamw_torch_fused",
        learning_rate=setup.lr,
        weight_decay=0.0,
        lr_scheduler_type="linear",
        warmup_steps=0,
        max_grad_norm=setup.max_grad_norm,
        seed=setup.seed,
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(read_lines(Path(setup.folder) / f"{order.name}.jsonl")),
        loss=loss,
        callbacks=[_Watch(clock, model, loss)],
    ).train()
    return clock, model


def embed(model: SentenceTransformer, queries: list[str], documents: list[str]) -> tuple[Tensor, Tensor]:
    """Embeddings of the held-out texts."""
    vectors = model.encode([*queries, *documents], convert_to_tensor=True, show_progress_bar=False)
    return vectors[: len(queries)], vectors[len(queries) :]


def _loss(model: SentenceTransformer, task: Task) -> nn.Module:
    scale = 1 / task.setup.temperature
    if task.line.cache is None:
        return MultipleNegativesRankingLoss(model, scale=scale)
    return CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=task.line.cache)


def _as_given(dataset: Dataset, batch_size: int, drop_last: bool, **_: Any) -> DefaultBatchSampler:
    return DefaultBatchSampler(SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last)
