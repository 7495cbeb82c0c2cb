"""The environment that keeps an index of the documents up with the model that is being trained."""

import copy
import time
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, Int64
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from srch3.environments.audit import ann_recall, reward_error
from srch3.environments.base import BaseEnvironment
from srch3.environments.progress import PATIENCE, encoding_bar
from srch3.environments.refresh import BaseRefresh, NeighbourhoodRefresh
from srch3.environments.state import CorpusState
from srch3.environments.touched import Touched, gather, touched, union
from srch3.errors import ConfigError
from srch3.indexes.base import BaseIndex
from srch3.indexes.exact import ExactIndex
from srch3.types import Observation, Split

TEXTS_AT_ONCE = 8192
"""Documents that are read and tokenised together when a corpus is encoded."""


class SearchEnvironment(BaseEnvironment):
    """Searches the documents as the model of the moment sees them, or nearly so.

    Where the model searches while it trains, its corpus is encoded before the first step. After each optimizer step the
    refresh policy names the documents to encode again. Before validation, test and prediction every vector that the
    present weights did not compute is computed again, so that evaluation is exact. Each document is stamped with the
    optimizer step of its encoding. Checkpoints hold the training corpus' index and stamps as they were after the
    refresh, so that a run resumes with the very same index.

    The model needs ``encode_documents``, as in ``srch3.types.DocumentEncoder``, and, if its training steps search,
    ``searches_while_training = True``; with ``fixed_documents = True`` documents are encoded once, since training does
    not change their embeddings. The metrics that this logs are described in ``srch3/metrics/README.md``.

    Args:
        index: An empty index; each distinct corpus gets a copy. Exact search by default.
        refresh: What to encode again after an optimizer step. :class:`NeighbourhoodRefresh` by default.
        audit_every_n_steps: Optimizer steps between measurements of the rewards' error, each of which encodes the
            whole training corpus once, without using the result for training; 0 for none.
        show_progress: Whether encoding passes of more than two seconds show a progress bar.
    """

    def __init__(
        self,
        index: BaseIndex | None = None,
        refresh: BaseRefresh | None = None,
        audit_every_n_steps: int = 0,
        show_progress: bool = True,
    ) -> None:
        super().__init__()
        if audit_every_n_steps < 0:
            raise ConfigError(
                f"environment.init_args.audit_every_n_steps: expected 0 or more; got {audit_every_n_steps}"
            )
        self.index = index if index is not None else ExactIndex()
        self.refresh = refresh if refresh is not None else NeighbourhoodRefresh()
        self.audit_every_n_steps = audit_every_n_steps
        self.show_progress = show_progress
        self._states: list[CorpusState] = []
        self._seen: list[Touched] = []
        self._audit: dict[str, float] = {}
        self._audited_step = 0
        self._step = 0
        self._restored_device: str | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Attaches itself, and forgets every vector: the weights may be others than in the run before.

        Raises:
            ConfigError: The model cannot encode documents.
        """
        super().setup(trainer, pl_module, stage)
        if not hasattr(pl_module, "encode_documents"):
            raise ConfigError(
                "environment: SearchEnvironment expects a model with encode_documents; got "
                f"{type(pl_module).__name__}; use NoEnvironment with models that do not search"
            )
        self._states, self._seen, self._audit = [], [], {}
        self._audited_step, self._restored_device = 0, None

    def state(self, split: Split) -> CorpusState:
        """Vectors and ages of a split's documents; the same object for splits that share a corpus."""
        corpus = self.corpus(split)
        for state in self._states:
            if state.corpus is corpus:
                return state
        self._states.append(CorpusState(corpus, copy.deepcopy(self.index)))
        return self._states[-1]

    def searcher(self, split: Split) -> BaseIndex:
        """The index of a split's documents.

        Raises:
            ConfigError: The corpus was not encoded, since the model did not say that it searches.
        """
        state = self.state(split)
        if not state.searchable:
            raise ConfigError(
                f"environment: expected documents of split {split!r} to be encoded before a search; got none; a model "
                "whose training steps search needs the class attribute `searches_while_training = True`"
            )
        return state.index

    def observe(self, observation: Observation) -> None:
        """Notes what a training step touched, and audits its rewards when that is due.

        Raises:
            ConfigError: Audits are wanted, and no document's vector ever ages.
        """
        if _fixed(self.trainer.lightning_module):
            if self.audit_every_n_steps:
                raise ConfigError(
                    "environment.init_args.audit_every_n_steps: expected 0 where the model keeps documents fixed, got "
                    f"{self.audit_every_n_steps}; their vectors never age"
                )
            return
        self._seen.append(touched(observation))
        step = self.trainer.global_step
        due = self.audit_every_n_steps and step > 0 and step % self.audit_every_n_steps == 0
        if due and step != self._audited_step:
            self._audited_step = step
            self._audit = self._measure(observation)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Encodes the training corpus, unless validation just did or a checkpoint brought it."""
        self._step = trainer.global_step
        if not _searches(pl_module):
            return
        state = self.state("train")
        if self._restored_device is not None:
            state.index.to(pl_module.device if pl_module.device.type == self._restored_device else "cpu")
        self._encode(state, state.missing(), "training corpus")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an optimizer step, encodes again what the policy names; Lightning saves checkpoints after this."""
        if not _searches(pl_module) or trainer.global_step == self._step or _fixed(pl_module):
            return
        self._step = trainer.global_step
        state = self.state("train")
        began = time.perf_counter()
        rows = self.refresh.select(gather(union(self._seen)), state.index, state.stamps)
        self._seen = []
        self._encode(state, rows, "refresh")
        figures = {
            "size": float(len(state)),
            "age_mean": float((self._step - state.stamps).double().mean()),
            "age_max": float((self._step - state.stamps).max()),
            "refreshed_share": len(rows) / len(state),
            "refresh_seconds": time.perf_counter() - began,
        }
        pl_module.log_dict({f"env/{name}": figure for name, figure in (figures | self._audit).items()})
        self._audit = {}
        if _validates_next(trainer) and self.state("val") is state:
            self._encode(state, state.stale(self._step), "val documents")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Makes validation exact."""
        self._freshen("val")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Makes the test exact."""
        self._freshen("test")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Makes prediction exact."""
        self._freshen("predict")

    def state_dict(self) -> dict[str, Any]:
        """The training corpus' index and stamps; nothing where training does not search."""
        if self._trainer is None or not _searches(self.trainer.lightning_module):
            return {}
        state = self.state("train")
        return state.state_dict() if state.searchable else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the training corpus' index when training resumes; evaluation encodes everything itself.

        Raises:
            CheckpointError: The saved run trained on another corpus, or with another index.
        """
        if self.trainer.state.fn == TrainerFn.FITTING and _searches(self.trainer.lightning_module):
            self.state("train").load_state_dict(state_dict)
            self._restored_device = state_dict["device"]

    def _freshen(self, split: Split) -> None:
        state = self.state(split)
        fixed = _fixed(self.trainer.lightning_module)
        self._encode(state, state.missing() if fixed else state.stale(self.trainer.global_step), f"{split} documents")

    def _encode(self, state: CorpusState, rows: Int64[Tensor, "some"], what: str) -> None:
        if len(rows):
            state.store(rows, self._vectors(state, rows, what), self.trainer.global_step)

    def _vectors(self, state: CorpusState, rows: Int64[Tensor, "some"], what: str) -> Float[Tensor, "some dim"]:
        began = time.perf_counter()
        model: Any = self.trainer.lightning_module
        visible = self.show_progress and self.trainer.is_global_zero
        bar = encoding_bar(f"Encoding {what}", len(rows), visible)
        with torch.no_grad(), bar as advance:
            parts = [model.encode_documents(state.texts(some), advance) for some in rows.split(TEXTS_AT_ONCE)]
            vectors = torch.cat(parts)
        seconds = time.perf_counter() - began
        if seconds >= PATIENCE:
            rank_zero_info(f"environment: encoded {len(rows)} documents in {seconds:.1f} s ({what})")
        return vectors

    def _measure(self, observation: Observation) -> dict[str, float]:
        began = time.perf_counter()
        state = self.state("train")
        fresh = self._vectors(state, torch.arange(len(state)), "the corpus for an audit")
        figures = reward_error(observation, state.index, fresh)
        if not isinstance(state.index, ExactIndex):
            figures["ann_recall"] = ann_recall(observation, state.index)
        return figures | {"audit_documents": float(len(state)), "audit_seconds": time.perf_counter() - began}


def _searches(model: L.LightningModule) -> bool:
    return bool(getattr(model, "searches_while_training", False))


def _fixed(model: L.LightningModule) -> bool:
    return bool(getattr(model, "fixed_documents", False))


def _validates_next(trainer: L.Trainer) -> bool:
    """Whether validation follows the present batch.

    A checkpoint that is saved between the two must already hold what validation is about to encode, since a run that
    resumes from it does not validate again.
    """
    loop, fetcher = trainer.fit_loop, trainer.fit_loop._data_fetcher  # noqa: SLF001
    return fetcher is not None and loop.epoch_loop._should_check_val_fx(fetcher)  # noqa: SLF001
