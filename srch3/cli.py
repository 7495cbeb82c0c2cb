"""The command line: Lightning's own, with the environment and the checkpoints in config groups of their own."""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from srch3.checkpoint_callbacks import BestCheckpoint, LastCheckpoint
from srch3.checkpoints import AtomicCheckpointIO, check_stage, is_remote
from srch3.environments import BaseEnvironment
from srch3.errors import CheckpointError, ConfigError
from srch3.messages import exit_in_one_line, quieten
from srch3.modules.initialization import check_start
from srch3.optimizer_settings import AskedOptimizerSettings
from srch3.predictions import SearchResultsWriter
from srch3.run_config import SaveRunConfig
from srch3.usage import COMMANDS, DESCRIPTION, EPILOG, SUBCOMMANDS, HelpFormatter, UsageError, explain

_PARTS = ("backbones", "data", "environments", "indexes", "losses", "modules", "monitoring", "rewards")
_TRAINER_DEFAULTS = {
    "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs", "name": ""}},
    "use_distributed_sampler": False,
}
_PARSER = {
    "prog": "python -m srch3",
    "description": DESCRIPTION,
    "epilog": EPILOG,
    "formatter_class": HelpFormatter,
    "allow_abbrev": False,
    "exit_on_error": False,
}


def main(args: ArgsType = None, run: bool = True) -> "SearchCLI":
    """Runs ``python -m srch3``.

    Args:
        args: The command line, or a nested dictionary of settings; by default what the shell was given.
        run: Whether to run the subcommand. Without, there is no subcommand in ``args``, and the trainer, model, data
            and environment are only built.

    Returns:
        The command line, which holds what was built: ``model``, ``datamodule``, ``trainer``, ``config`` (``think``
        builds no model and no trainer).

    Raises:
        SystemExit: With a code other than zero, after one line on stderr, for whatever a user can mend: 2 for what
            cannot be parsed, 130 after Ctrl-C, 1 for the rest. Unforeseen exceptions pass as they are, and with
            ``SRCH3_DEBUG=1`` in the environment all of them do.
    """
    with exit_in_one_line(), quieten():
        for part in _PARTS:
            importlib.import_module(f"srch3.{part}")
        words = sys.argv[1:] if args is None else args
        if run and isinstance(words, list) and words[:1] and words[0] in COMMANDS:
            command: SearchCLI = importlib.import_module(f"srch3.commands.{words[0]}").run(words[1:])
            return command
        return SearchCLI(args=args, run=run)


class SearchCLI(LightningCLI):
    """LightningCLI on abstract classes, with an environment.

    What differs from LightningCLI: the ``environment``, ``best_checkpoint`` and ``last_checkpoint`` are config groups
    of their own, so that no list of callbacks can displace them; ``--ckpt_path`` restores the state of a run and never
    overrides what was asked; checkpoints are written atomically; the configuration lies in the run's own folder.

    Args:
        args: As in ``main``.
        run: As in ``main``.
    """

    command: ClassVar[str] = "fit"
    """Whose help to point to, where the command line has no subcommand."""

    def __init__(self, args: ArgsType = None, run: bool = True) -> None:
        self._runs = run
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveRunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults=dict(_TRAINER_DEFAULTS),
            seed_everything_default=0,
            parser_kwargs=dict(_PARSER),
            auto_configure_optimizers=False,
            args=args,
            run=run,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The subcommands, each with the arguments of the Trainer's method that are not offered."""
        return {name: skipped | {"weights_only"} for name, skipped in LightningCLI.subcommands().items()}

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Adds the subcommands, in our words: the first line of the Trainer's docstrings ends in mid-sentence."""
        described = {name: {"description": text, **kwargs.get(name, {})} for name, text in SUBCOMMANDS.items()}
        super()._add_subcommands(parser, **described)
        action = parser._subcommands_action  # noqa: SLF001
        assert action is not None
        for shown in action._choices_actions:  # noqa: SLF001
            shown.help = SUBCOMMANDS[shown.dest]

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the config groups beside trainer, model and data."""
        parser.add_lightning_class_args(BaseEnvironment, "environment", subclass_mode=True)
        parser.set_defaults({"environment": {"class_path": "srch3.environments.SearchEnvironment"}})
        parser.add_lightning_class_args(BestCheckpoint, "best_checkpoint")
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.add_lightning_class_args(SearchResultsWriter, "search_results")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses; what cannot be parsed is explained in one line."""
        try:
            super().parse_arguments(parser, args)
        except argparse.ArgumentError as error:
            raise UsageError(
                explain(error, args, self._top_level_keys(), None if self._runs else self.command)
            ) from error

    def _parse_ckpt_path(self) -> None:
        """Leaves the configuration alone: a checkpoint's hyper-parameters never override what was asked."""

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Builds the trainer with our callbacks and checkpoint files."""
        asked = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        groups = [self._get(self.config_init, key) for key in self._parser(self.subcommand).callback_keys]
        asked["plugins"] = _with_atomic_files(asked.get("plugins"), asked.get("strategy"))
        callbacks = [*_displace(groups, asked), AskedOptimizerSettings()]
        try:
            return self._instantiate_trainer(asked, callbacks)
        except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
            raise ConfigError(f"trainer: {error}") from error

    def after_instantiate_classes(self) -> None:
        """Refuses a checkpoint that cannot be used, before any work is done."""
        if self.subcommand and (start := getattr(self.model, "init_from", None)):
            check_start(start)
        asked = self._get(self.config, "ckpt_path") if self.subcommand else None
        if asked == "last":
            asked = self._find_last()
        if asked and asked not in {"best", "hpc"} and not is_remote(asked):
            check_stage(Path(asked), type(self.model))

    def _find_last(self) -> str | None:
        """The file that ``--ckpt_path last`` stands for; says so where there is none."""
        keepers = [callback for callback in self.trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
        found = {path for keeper in keepers for path in keeper._find_last_checkpoints(self.trainer)}  # noqa: SLF001
        if found:
            return max(found, key=lambda path: Path(path).stat().st_mtime)
        remedy = "set last_checkpoint.dirpath to the folder of the run to resume, or give the file itself"
        message = f"ckpt_path: last: no last.ckpt in this run's own folder of checkpoints; {remedy}"
        if self.subcommand != "fit":
            raise CheckpointError(message)
        rank_zero_warn(f"{message}; starting from the beginning")
        self.config_init[self.subcommand]["ckpt_path"] = None
        return None

    def _top_level_keys(self) -> list[str]:
        """Every key that a configuration may have at the top, with the trainer's and the checkpoints' own."""
        parsers = getattr(self, "_subcommand_parsers", {}).values() or [self.parser]
        return list(dict.fromkeys(action.dest for parser in parsers for action in parser._actions))  # noqa: SLF001

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs; after Ctrl-C, says how to resume."""
        try:
            super()._run_subcommand(subcommand)
        except SystemExit as stop:
            if not self.trainer.interrupted:
                raise
            raise KeyboardInterrupt(self._how_to_resume()) from stop

    def _how_to_resume(self) -> str:
        """What to type after Ctrl-C."""
        keepers = [keeper for keeper in self.trainer.checkpoint_callbacks if isinstance(keeper, LastCheckpoint)]
        saved = next((keeper.last_model_path for keeper in keepers), "")
        if not saved:
            return "stopped; nothing had been saved yet"
        return f"stopped; the same command with --ckpt_path {saved} resumes it"


def _with_atomic_files(plugins: Any, strategy: Any) -> list[Any]:
    """Adds our checkpoint files to the plugins, unless the user brings other ones."""
    asked = plugins if isinstance(plugins, list) else [] if plugins is None else [plugins]
    brought = isinstance(strategy, Strategy) and strategy._checkpoint_io is not None  # noqa: SLF001
    if brought or any(isinstance(plugin, CheckpointIO) for plugin in asked):
        return asked
    return [*asked, AtomicCheckpointIO()]


def _displace(groups: list[Callback], trainer: dict[str, Any]) -> list[Callback]:
    """Leaves out the checkpoints that the user's own trainer settings replace or forbid."""
    asked = trainer.get("callbacks") or []
    asked = asked if isinstance(asked, list) else [asked]
    if trainer.get("enable_checkpointing") is False or trainer.get("fast_dev_run"):
        return [group for group in groups if not isinstance(group, ModelCheckpoint)]
    if any(isinstance(callback, ModelCheckpoint) for callback in asked):
        return [group for group in groups if not isinstance(group, BestCheckpoint)]
    return groups
