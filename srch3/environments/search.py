"""The environment that keeps an index of the documents up with the model that is being trained."""

import copy
import time
from typing import Any

import lightning as L
from jaxtyping import Int64
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from srch3.environments.audit import ARGUMENTS, Auditor
from srch3.environments.base import BaseEnvironment, validates_next
from srch3.environments.budget import BaseBudget, ShareBudget
from srch3.environments.correction import BaseCorrection, RidgeCorrection
from srch3.environments.encoding import encode
from srch3.environments.frame import FramedIndex
from srch3.environments.pairing import find_index, pair_checkpoints, unpair_checkpoints
from srch3.environments.refresh import BaseRefresh, ContestedRefresh, FullRefresh
from srch3.environments.shards import ShardedIndex
from srch3.environments.state import CorpusState, Encode
from srch3.environments.storage import Snapshot, weights_digest
from srch3.environments.upkeep import Upkeep
from srch3.errors import ConfigError
from srch3.indexes.base import BaseIndex
from srch3.indexes.exact import ExactIndex
from srch3.types import Observation, Pending, Split

MOST_SWEEP = 0.5
"""Largest share of a budget for the oldest documents with which a correction was not seen to go astray."""


class SearchEnvironment(BaseEnvironment):
    """Searches the documents as the model of the moment sees them, or nearly so.

    Where the model searches while it trains, its corpus is encoded before the first step. Before the searches of a step
    are rewarded, the refresh policy names documents to encode again with the weights of the moment, as many as the
    budget allows, and the correction moves all others as these have moved. Before validation, test and prediction every
    vector that the present weights did not compute is computed again, so that evaluation is exact. Each document is
    stamped with the optimizer step of its encoding. Beside each checkpoint lies a folder with the training corpus'
    index and stamps, so that a run resumes with the very same index; of several processes with an approximate index,
    all resume with that of the first, and with ``shards`` structures are made anew.

    The model needs ``encode_documents``, as in ``srch3.types.DocumentEncoder``, and, if its training steps search,
    ``searches_while_training = True``; with ``fixed_documents = True`` documents are encoded once, since training does
    not change their embeddings. The metrics that this logs are described in ``srch3/metrics/README.md``.

    Args:
        index: An empty index; each distinct corpus gets a copy. Exact search by default.
        refresh: What to encode again in each step. :class:`ContestedRefresh` by default.
        budget: How much of it. A twentieth of the documents by default.
        correction: How to move what is not encoded again. :class:`RidgeCorrection` by default.
        audit_every_n_steps: Optimizer steps between measurements of the rewards' error, each of which encodes the
            whole training corpus once, without using the result for training; 0 for none.
        drift_every_n_steps: Optimizer steps between measurements of how far documents are from where they are thought
            to be; 0 for none.
        drift_documents: Documents that such a measurement draws and encodes, without using the result for training.
        shards: Whether each of several processes keeps a part of the vectors, and all answer every search together; by
            default each keeps all of them. Documents are encoded together in any case.
        show_progress: Whether encoding passes of more than two seconds show a progress bar.
    """

    def __init__(
        self,
        index: BaseIndex | None = None,
        refresh: BaseRefresh | None = None,
        budget: BaseBudget | None = None,
        correction: BaseCorrection | None = None,
        audit_every_n_steps: int = 0,
        drift_every_n_steps: int = 0,
        drift_documents: int = 256,
        shards: bool = False,
        show_progress: bool = True,
    ) -> None:
        super().__init__()
        self.index = index if index is not None else ExactIndex()
        self.refresh = refresh if refresh is not None else ContestedRefresh()
        self.budget = budget if budget is not None else ShareBudget()
        self.correction = correction if correction is not None else RidgeCorrection()
        if self.budget.needs_audits and not audit_every_n_steps:
            raise ConfigError(
                f"{ARGUMENTS}.audit_every_n_steps: expected at least 1 with {type(self.budget).__name__}, which learns "
                "from audits; got 0; 50, say, encodes the whole corpus every 50 steps"
            )
        if isinstance(self.correction, RidgeCorrection) and not isinstance(self.refresh, FullRefresh):
            _check_sweep(self.refresh)
        self.audit_every_n_steps = audit_every_n_steps
        self.drift_every_n_steps, self.drift_documents = drift_every_n_steps, drift_documents
        self.shards, self.show_progress = shards, show_progress
        self._forget()

    def _forget(self) -> None:
        self._states: list[CorpusState] = []
        self._upkeep: Upkeep | None = None
        self._auditor = Auditor(self.audit_every_n_steps, self.drift_every_n_steps, self.drift_documents)
        self._step = 0
        self._step_began: float | None = None
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
        self._forget()
        if trainer.state.fn == TrainerFn.FITTING and _searches(pl_module):
            pair_checkpoints(trainer.strategy, self.state_key, self._snapshot)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Detaches itself from the model and from its checkpoints."""
        unpair_checkpoints(trainer.strategy)
        super().teardown(trainer, pl_module, stage)

    def state(self, split: Split) -> CorpusState:
        """Vectors and ages of a split's documents; the same object for splits that share a corpus."""
        corpus = self.corpus(split)
        for state in self._states:
            if state.corpus is corpus:
                return state
        index = copy.deepcopy(self.index)
        self._states.append(CorpusState(corpus, ShardedIndex(index) if self.shards else index))
        return self._states[-1]

    @property
    def upkeep(self) -> Upkeep:
        """What keeps the training corpus up."""
        if self._upkeep is None:
            self._upkeep = Upkeep(
                self.state("train"), self.refresh, copy.deepcopy(self.budget), copy.deepcopy(self.correction)
            )
        return self._upkeep

    def searcher(self, split: Split) -> FramedIndex:
        """The index of a split's documents.

        Raises:
            ConfigError: The corpus was not encoded, since the model did not say that it searches.
        """
        return self._encoded(split).searcher

    def prepare(self, pending: Pending) -> None:
        """Encodes again what the policy names, and corrects the rest, unless documents are fixed.

        Raises:
            ConfigError: Documents were not encoded, or measurements are wanted where no document's vector ever ages.
        """
        state, step = self._encoded("train"), self.trainer.global_step
        if self._keeps_fixed():
            state.follow(self._encoder(state, "new documents"), step)
            return
        figures = self.upkeep.advance(pending, self._encoder(state, "refresh"), step)
        drift = self._auditor.drift(state, self._encoder(state, "documents to see how far they moved"), step)
        self.report(figures | state.searcher.health())
        self.report_once(drift)

    def observe(self, observation: Observation) -> None:
        """Audits the rewards of a step when that is due."""
        state = self.state("train")
        state.finish()
        if self._keeps_fixed():
            return
        encoder = self._encoder(state, "the corpus for an audit")
        if figures := self._auditor.rewards(observation, state, encoder, self.trainer.global_step):
            self.report_once(figures)
            self.upkeep.budget.audited(figures)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Encodes the training corpus, unless validation just did or a checkpoint brought it."""
        self._step = trainer.global_step
        if not _searches(pl_module):
            return
        state = self.state("train")
        if self._restored_device is not None:
            state.index.to(pl_module.device if pl_module.device.type == self._restored_device else "cpu")
        self._encode(state, state.missing(), "training corpus")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Starts the clock of the step, of which this may be one batch of several."""
        if self._step_began is None:
            self._step_began, self._auditor.seconds = time.perf_counter(), 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tells the budget what the step took, and prepares for validation before a checkpoint is saved."""
        if not _searches(pl_module) or trainer.global_step == self._step or _fixed(pl_module):
            return
        self._step = trainer.global_step
        assert self._step_began is not None
        took = time.perf_counter() - self._step_began - self._auditor.seconds
        self._step_began = None
        self.upkeep.account(took, pl_module.device)
        if validates_next(trainer):
            state = self.state("train")
            if self.state("val") is state:
                state.follow(self._encoder(state, "new documents"), self._step)
                self._encode(state, state.stale(self._step), "val documents")
            state.index.merge()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Makes validation exact."""
        self._freshen("val")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Makes the test exact."""
        self._freshen("test")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Makes prediction exact."""
        self._freshen("predict")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Helps the other processes with the searches that they have left."""
        self.state("val").finish()

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Helps the other processes with the searches that they have left."""
        self.state("test").finish()

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Helps the other processes with the searches that they have left."""
        self.state("predict").finish()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restores the training corpus' index when training resumes; evaluation encodes everything itself.

        Raises:
            CheckpointError: The saved run trained on another corpus, or with another index, or files are damaged.
        """
        saved = checkpoint.get("callbacks", {}).get(self.state_key)
        if trainer.state.fn != TrainerFn.FITTING or not _searches(pl_module) or saved is None:
            return
        generation = find_index(str(trainer.ckpt_path), saved)
        if generation is None:
            return
        weights = checkpoint.get("state_dict")  # sharded strategies have taken it out
        learned = self.state("train").restore(generation, None if weights is None else weights_digest(weights))
        self.upkeep.correction.load_state_dict(learned)
        self.upkeep.budget.load_state_dict(generation.values["budget"])
        self._restored_device = generation.values["device"]

    def state_dict(self) -> dict[str, Any]:
        """Nothing but that there is an index beside the checkpoint, whose name is added as it is written."""
        if self._snapshot() is None:
            return {"index": False}
        state = self.state("train")
        state.follow(self._encoder(state, "new documents"), self.trainer.global_step)
        state.collect()
        return {"index": True, "changed": state.changed}

    def _snapshot(self) -> Snapshot | None:
        if self._trainer is None or not _searches(self.trainer.lightning_module):
            return None
        upkeep = self.upkeep
        if not upkeep.state.searchable:
            return None
        budget = {"budget": upkeep.budget.state_dict()}
        return upkeep.state.snapshot(self._step, upkeep.correction.state_dict(), budget)

    def _encoded(self, split: Split) -> CorpusState:
        state = self.state(split)
        if not state.searchable:
            raise ConfigError(
                f"environment: expected documents of split {split!r} to be encoded before a search; got none; a model "
                "whose training steps search needs the class attribute `searches_while_training = True`"
            )
        return state

    def _freshen(self, split: Split) -> None:
        state, fixed = self.state(split), _fixed(self.trainer.lightning_module)
        state.follow(self._encoder(state, "new documents"), self.trainer.global_step)
        self._encode(state, state.missing() if fixed else state.stale(self.trainer.global_step), f"{split} documents")

    def _encode(self, state: CorpusState, rows: Int64[Tensor, "some"], what: str) -> None:
        if len(rows):
            state.store(rows, self._encoder(state, what)(rows), self.trainer.global_step)

    def _encoder(self, state: CorpusState, what: str) -> Encode:
        return lambda rows: encode(self.trainer, state, rows, what, self.show_progress)

    def _keeps_fixed(self) -> bool:
        """Whether no document's vector ever ages; refuses audits then."""
        if not _fixed(self.trainer.lightning_module):
            return False
        for name in ("audit_every_n_steps", "drift_every_n_steps"):
            if getattr(self, name):
                raise ConfigError(
                    f"{ARGUMENTS}.{name}: expected 0 where the model keeps documents fixed, got {getattr(self, name)}; "
                    "their vectors never age"
                )
        return True


def _check_sweep(refresh: BaseRefresh) -> None:
    if refresh.sweep > MOST_SWEEP:
        rank_zero_warn(
            f"{ARGUMENTS}.refresh: expected a sweep of at most {MOST_SWEEP} beside RidgeCorrection; got "
            f"{refresh.sweep} of {type(refresh).__name__}; a map that is learned from the oldest documents overshoots, "
            f"and errors grow from round to round: set {ARGUMENTS}.correction to NoCorrection"
        )


def _searches(model: L.LightningModule) -> bool:
    return bool(getattr(model, "searches_while_training", False))


def _fixed(model: L.LightningModule) -> bool:
    return bool(getattr(model, "fixed_documents", False))
