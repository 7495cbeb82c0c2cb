"""The environment as a callback: it hands itself to the model, and finds the documents in the data module."""

from abc import ABC, abstractmethod
from typing import Any

import lightning as L
from jaxtyping import Float
from torch import Tensor

from srch3.errors import ConfigError
from srch3.types import CorpusLike, Hits, Observation, Searcher, Split


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

    @abstractmethod
    def searcher(self, split: Split) -> Searcher:
        """The index of a split's documents."""

    @abstractmethod
    def observe(self, observation: Observation) -> None:
        """Takes note of a training step; acted upon once its optimizer step is done."""


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

    def observe(self, observation: Observation) -> None:
        """Ignores it."""
