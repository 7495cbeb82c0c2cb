"""A retrieval task small enough to check by hand: bags of words, a linear encoder, and a reward by rank."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from srch3.environments import SearchEnvironment
from srch3.types import Environment, Hits, Observation, Pending, Searcher, Split

WORDS = 40
BATCH = 4
ROLLOUTS = 3


class ToyCorpus:
    def __init__(self, texts: Sequence[str], prefix: str = "d") -> None:
        self.texts = list(texts)
        self.ids = [f"{prefix}{number}" for number in range(len(texts))]

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, document_id: str) -> int:
        return self.ids.index(document_id)


def toy_corpus(count: int, seed: int = 0) -> ToyCorpus:
    draws = torch.randint(WORDS, (count, 6), generator=torch.Generator().manual_seed(seed))
    return ToyCorpus([" ".join(map(str, row)) for row in draws.tolist()])


class ToyData(L.LightningDataModule):
    def __init__(self, train: ToyCorpus, other: ToyCorpus | None = None, steps: int = 6) -> None:
        super().__init__()
        self.corpora = {"train": train}
        self.other = other or train
        self.steps = steps

    def corpus(self, split: Split) -> ToyCorpus:
        return self.corpora.get(split, self.other)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(list(range(self.steps)), batch_size=1)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader([0], batch_size=1)

    test_dataloader = predict_dataloader = val_dataloader


def reward(positives: Tensor, queries: Tensor, k: int, index: Searcher) -> Tensor:
    hits = index.search(queries, k)
    discounts = 1 / torch.log2(torch.arange(hits.rows.shape[1]) + 2.0)
    return ((hits.rows == positives[:, None]) * hits.scores * discounts).sum(dim=1)


class ToyModule(L.LightningModule):
    searches_while_training = True
    environment: Environment | None = None

    def __init__(self, lr: float = 0.05, k: int = 8, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.words = nn.Parameter(torch.randn(WORDS, 8, generator=generator))
        self.lr, self.k = lr, k
        self.encoded: list[int] = []
        self.pending: dict[int, Pending] = {}
        self.observations: dict[int, Observation] = {}
        self.evaluations: list[Hits] = []

    def embed(self, texts: Sequence[str]) -> Tensor:
        bags = torch.zeros(len(texts), WORDS)
        for number, text in enumerate(texts):
            for word in text.split():
                bags[number, int(word)] += 1
        return nn.functional.normalize(bags @ self.words, dim=1)

    def encode_documents(self, texts: Sequence[str], on_progress: Callable[[int], None] | None = None) -> Tensor:
        assert not torch.is_grad_enabled()
        self.encoded.append(len(texts))
        parts = []
        for start in range(0, len(texts), 7):
            parts.append(self.embed(texts[start : start + 7]))
            if on_progress:
                on_progress(len(parts[-1]))
        return torch.cat(parts)

    def queries(self, split: Split) -> Tensor:
        assert self.environment is not None
        texts = [text.rsplit(" ", 2)[0] for text in self.environment.corpus(split).texts[:BATCH]]
        return self.embed(texts)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        environment = self.environment
        assert environment is not None
        number = 100 * self.current_epoch + batch_idx
        corpus = environment.corpus("train")
        generator = torch.Generator().manual_seed(number)
        positives = torch.randperm(len(corpus), generator=generator)[:BATCH]
        texts = [corpus.texts[row] for row in positives.tolist()]
        queries = self.embed([text.rsplit(" ", 2)[0] for text in texts])
        rollouts = queries.repeat_interleave(ROLLOUTS, dim=0)
        noise = 0.5 * torch.randn(rollouts.shape, generator=generator)
        rollouts = nn.functional.normalize(rollouts + noise, dim=1)
        groups = torch.arange(BATCH).repeat_interleave(ROLLOUTS)
        self.pending[number] = Pending(rollouts.detach(), groups, [{row: 1} for row in positives.tolist()], self.k)
        environment.prepare(self.pending[number])
        hits = environment.search(rollouts, self.k, "train")
        score = partial(reward, positives.repeat_interleave(ROLLOUTS), rollouts.detach(), self.k)
        self.observations[number] = Observation(rollouts.detach(), hits, groups, score)
        environment.observe(self.observations[number])
        logits = queries @ self.embed(texts).T / 0.1
        return nn.functional.cross_entropy(logits, torch.arange(BATCH))

    def evaluate(self, split: Split) -> None:
        assert self.environment is not None
        self.evaluations.append(self.environment.search(self.queries(split), self.k, split))

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.evaluate("val")

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.evaluate("test")

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.evaluate("predict")
        return self.evaluations[-1].rows

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def trainer(environment: Callback, *callbacks: Callback, **settings: Any) -> L.Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "max_epochs": 1,
        "log_every_n_steps": 1,
    }
    return L.Trainer(callbacks=[environment, *callbacks], **(quiet | settings))


class Recorder(Callback):
    """Copies vectors, ages and metrics after every optimizer step."""

    def __init__(self, environment: SearchEnvironment) -> None:
        self.environment = environment
        self.vectors: dict[int, Tensor] = {}
        self.stamps: dict[int, Tensor] = {}
        self.metrics: dict[int, dict[str, float]] = {}

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        state = self.environment.state("train")
        self.vectors[trainer.global_step] = state.index.vectors.clone()
        self.stamps[trainer.global_step] = state.stamps.clone()
        found = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("env/")}
        self.metrics[trainer.global_step] = found
