import lightning as L
import pytest
import torch

from srch3.environments import NoEnvironment, SearchEnvironment
from srch3.errors import ConfigError
from tests.environments.toy import ToyData, ToyModule, toy_corpus, trainer

pytestmark = pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")


class Attachment(L.Callback):
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seen = pl_module.environment
        self.splits = [pl_module.environment.corpus(split) for split in ("train", "val", "train")]


class Silent(ToyModule):
    searches_while_training = False

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.words.square().sum()


def test_the_model_has_its_environment_from_setup_to_teardown() -> None:
    environment, attachment, model = NoEnvironment(), Attachment(), Silent()
    data = ToyData(toy_corpus(5), toy_corpus(6))
    trainer(environment, attachment, limit_val_batches=0).fit(model, datamodule=data)
    assert attachment.seen is environment
    assert attachment.splits == [data.corpora["train"], data.other, data.corpora["train"]]
    assert model.environment is None


def test_outside_a_run_there_is_no_trainer() -> None:
    with pytest.raises(RuntimeError, match="NoEnvironment: expected to be used within a run of a Trainer"):
        NoEnvironment().corpus("train")


def test_no_environment_refuses_to_be_searched() -> None:
    with pytest.raises(ConfigError, match="environment: expected one to search in; got NoEnvironment"):
        trainer(NoEnvironment()).fit(ToyModule(), datamodule=ToyData(toy_corpus(5)))
    environment = NoEnvironment()
    assert environment.observe(None) is None  # type: ignore[arg-type, func-returns-value]
    assert environment.state_dict() == {}


class Bare(L.LightningDataModule):
    def train_dataloader(self) -> list[int]:
        return [0]


@pytest.mark.parametrize(("data", "got"), [(Bare(), "Bare"), (None, "no data module")])
def test_a_data_module_without_documents_is_refused(data: Bare | None, got: str) -> None:
    run = trainer(SearchEnvironment(), limit_val_batches=0)
    loaders = {"datamodule": data} if data else {"train_dataloaders": [0]}
    with pytest.raises(ConfigError, match=f"expects a data module with corpus\\(split\\); got {got}; use one of"):
        run.fit(ToyModule(), **loaders)
