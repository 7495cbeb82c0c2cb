"""The environment as a callback: it hands itself to the model, and finds the documents in the data module."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import lightning as L
from jaxtyping import Float
from torch import Tensor

from srch3.errors import ConfigError
from srch3.types import CorpusLike, Hits, Observation, Pending, Searcher, Split


class BaseEnvironment(L.Callback, ABC):
    """An environment that a model finds as its attribute ``environment`` from setup to teardown."""

    def __init__(self) -> None:
        self._trainer: L.Trainer | None = None
        self._corpora: dict[Split, CorpusLike] = {}

    @property
    def state_key(self) -> str:
        """Name of the environment's part in a checkpoint, whatever its class is called."""
        return "srch3.environment"

    @property
    def trainer(self) -> L.Trainer:
        """The trainer of the present run.

        Raises:
            RuntimeError: There is no run.
        """
        if self._trainer is None:
            raise RuntimeError(f"{type(self).__name__}: expected to be used within a run of a Trainer; got none")
        return self._trainer

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Attaches itself to the model; documents are looked up afresh in every run."""
        self._trainer = trainer
        self._corpora = {}
        model: Any = pl_module
        model.environment = self

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Detaches itself from the model."""
        self._trainer = None
        model: Any = pl_module
        model.environment = None

    def corpus(self, split: Split) -> CorpusLike:
        """The documents that queries of a split are searched in.

        Raises:
            ConfigError: The data module has none to offer.
        """
        if split not in self._corpora:
            data: Any = getattr(self.trainer, "datamodule", None)
            if not hasattr(data, "corpus"):
                got = type(data).__name__ if data is not None else "no data module"
                raise ConfigError(
                    f"data: {type(self).__name__} expects a data module with corpus(split); got {got}; "
                    "use one of srch3.data, or derive yours from RetrievalDataModule"
                )
            self._corpora[split] = data.corpus(split)
        return self._corpora[split]

    def search(self, queries: Float[Tensor, "queries dim"], k: int, split: Split, width: int | None = None) -> Hits:
        """The best ``k`` documents of each query, by the first ``width`` components; fewer in a smaller corpus."""
        return self.searcher(split).search(queries, k, width)

    def report(self, figures: Mapping[str, float]) -> None:
        """Logs figures of a training step as ``env/…``."""
        self.trainer.lightning_module.log_dict({f"env/{name}": figure for name, figure in figures.items()})

    def report_once(self, figures: Mapping[str, float]) -> None:
        """Logs figures that other steps do not have, which Lightning would repeat until the epoch ends."""
        named = {f"env/{name}": figure for name, figure in figures.items()}
        self.trainer.lightning_module.log_dict(named, logger=False)
        step = self.trainer.fit_loop.epoch_loop._batches_that_stepped  # noqa: SLF001
        for logger in self.trainer.loggers if named else []:
            logger.log_metrics(named, step=step)

    @abstractmethod
    def searcher(self, split: Split) -> Searcher:
        """The index of a split's documents."""

    @abstractmethod
    def prepare(self, pending: Pending) -> None:
        """Brings up to date what matters for searches of a training step; on all processes, once per batch."""

    @abstractmethod
    def observe(self, observation: Observation) -> None:
        """Takes note of what the searches of a training step found."""


class NoEnvironment(BaseEnvironment):
    """For models that never search, such as plain language models."""

    def searcher(self, split: Split) -> Searcher:
        """Refuses.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "environment: expected one to search in; got NoEnvironment; set `environment: SearchEnvironment`"
        )

    def prepare(self, pending: Pending) -> None:
        """Does nothing."""

    def observe(self, observation: Observation) -> None:
        """Ignores it."""


def validates_next(trainer: L.Trainer) -> bool:
    """Whether validation follows the present batch.

    A checkpoint that is saved between the two must already hold what is done in that pause, since a run that resumes
    from it does not validate again.
    """
    loop, fetcher = trainer.fit_loop, trainer.fit_loop._data_fetcher  # noqa: SLF001
    return fetcher is not None and loop.epoch_loop._should_check_val_fx(fetcher)  # noqa: SLF001
