"""``python -m srch3 mine``: hard negatives for training queries, found by a checkpoint."""

import sys
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.cli import ArgsType, LightningArgumentParser
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from srch3.checkpoints import check_stage, is_remote
from srch3.commands.base import CommandCLI
from srch3.commands.negatives import Miner, Mining, summary
from srch3.data import Corpus, RetrievalDataModule
from srch3.data.loaders import BatchLoader, build_query_batch
from srch3.environments import SearchEnvironment
from srch3.errors import ConfigError
from srch3.modules.base import BaseRetrievalModule
from srch3.types import Query, QueryBatch, Split


def run(args: ArgsType) -> "MineCLI":
    """Mines.

    Args:
        args: The words after ``mine``.
    """
    cli = MineCLI(args)
    cli.mine()
    return cli


class TrainingQueries(L.LightningDataModule):
    """The training queries and their documents, where a Trainer looks for those to predict for.

    Args:
        data: Holds them.
    """

    def __init__(self, data: RetrievalDataModule) -> None:
        super().__init__()
        self.data = data

    def prepare_data(self) -> None:
        """Does whatever the data module has to."""
        self.data.prepare_data()

    def corpus(self, split: Split) -> Corpus:
        """The training documents, for every split."""
        return self.data.corpus("train")

    def predict_dataloader(self) -> BatchLoader[Query, QueryBatch]:
        """The training queries in their given order."""
        queries, size = self.data.queries("train"), self.data.eval_batch_size
        batches = [queries[first : first + size] for first in range(0, len(queries), size)]
        return BatchLoader(batches, build_query_batch, self.data.num_workers)


class MineCLI(CommandCLI):
    """Builds model, data and environment as ``fit`` does, for one process."""

    command: ClassVar[str] = "mine"
    description: ClassVar[str] = (
        "Finds hard negatives for the training queries with a checkpoint, through the encoder and the index of\n"
        "evaluation, and writes the training data with them, in the format it came from, to a new folder."
    )
    epilog: ClassVar[str] = (
        "example:\n"
        "  python -m srch3 mine --config runs/version_0/config.yaml --ckpt_path runs/version_0/checkpoints/best.ckpt "
        "\\\n    --output FOLDER --mining.relative 0.95"
    )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what is mined, with what, and where it goes."""
        super().add_arguments_to_parser(parser)
        parser.callback_keys.remove("search_results")
        parser.add_argument("--ckpt_path", type=str, required=True, help="The checkpoint to mine with.")
        parser.add_argument("--output", type=str, required=True, help="A new folder, for the training data.")
        parser.add_class_arguments(Mining, "mining")

    def before_instantiate_classes(self) -> None:
        """Refuses to write where something is, before any work is done."""
        self.save_config_callback = None
        folder = Path(self.config["output"])
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise ConfigError(f"output: expected a new or empty folder; got {folder}, which has content; give another")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Builds the trainer for one process, without a run's folder."""
        devices = self.config_init["trainer"]["devices"]
        first = devices[:1] if isinstance(devices, list) else 1
        return super().instantiate_trainer(devices=first, num_nodes=1, strategy="auto", logger=False, **kwargs)

    def after_instantiate_classes(self) -> None:
        """Refuses what cannot be mined with, before any work is done."""
        data = self.retrieval_data()
        if type(data).write_negatives is RetrievalDataModule.write_negatives:
            data.write_negatives(Path(self.config["output"]), {})  # says why it cannot
        environment, model = self.config_init["environment"], self.model
        if not isinstance(environment, SearchEnvironment):
            raise ConfigError(f"environment: mine expects SearchEnvironment; got {type(environment).__name__}")
        if not isinstance(model, BaseRetrievalModule):
            raise ConfigError(
                f"model: mine expects one that embeds queries, such as SFTModule; got {type(model).__name__}"
            )
        if not is_remote(self.config["ckpt_path"]):
            check_stage(Path(self.config["ckpt_path"]), type(model))

    def mine(self) -> None:
        """Mines, writes, and says how to train with what was written.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
        """
        data, mining = self.retrieval_data(), self.config_init["mining"]
        miner = Miner(self.model, self.config_init["environment"], mining)
        self.model.predict_step = miner.predict_step
        try:
            batches: Any = self.trainer.predict(
                self.model, datamodule=TrainingQueries(data), ckpt_path=self.config["ckpt_path"]
            )
        except SystemExit as stop:
            if not self.trainer.interrupted:
                raise
            raise KeyboardInterrupt("stopped; nothing was written") from stop
        negatives: dict[str, list[str]] = {name: found for batch in batches for name, found in batch.items()}
        rank_zero_info(f"mine: {summary(negatives, mining.negatives)}")
        folder = Path(self.config["output"])
        options = data.write_negatives(folder, negatives)
        self.parser.save(self.config, str(folder / "mine.yaml"), skip_none=False, overwrite=True, multifile=False)
        sys.stdout.write(f"{folder}: train with {options}\n")
