"""What the commands share: the command line's parser and messages, and a data module that has what they need."""

from typing import Any, ClassVar

from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from srch3.cli import SearchCLI
from srch3.data import RetrievalDataModule
from srch3.errors import ConfigError


class CommandCLI(SearchCLI):
    """Parses and builds like a Trainer's subcommand; what it then does is a method of the subclass.

    Args:
        args: The words after the command's name.
    """

    description: ClassVar[str]
    """What the command does, in its help."""

    epilog: ClassVar[str]
    """Examples, in its help."""

    def __init__(self, args: ArgsType) -> None:
        super().__init__(args=args, run=False)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Makes the parser, with the command's own texts."""
        own = {"prog": f"python -m srch3 {self.command}", "description": self.description, "epilog": self.epilog}
        return super().init_parser(**(kwargs | own))

    def retrieval_data(self) -> RetrievalDataModule:
        """The data module.

        Raises:
            ConfigError: It has no judged queries.
        """
        if not isinstance(self.datamodule, RetrievalDataModule):
            raise ConfigError(
                f"data: {self.command} expects a data module with judged queries; got "
                f"{type(self.datamodule).__name__}; use one of srch3.data, or derive yours from RetrievalDataModule"
            )
        return self.datamodule
