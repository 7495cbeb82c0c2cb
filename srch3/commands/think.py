"""``python -m srch3 think``: thoughts for training queries, written beforehand by any language model."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
import yaml
from lightning.pytorch.cli import ArgsType, LightningArgumentParser
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from srch3.commands.base import CommandCLI
from srch3.commands.teacher import Asked, Teacher
from srch3.commands.thoughts_file import ThoughtsFile
from srch3.data import RetrievalDataModule
from srch3.environments.progress import encoding_bar
from srch3.errors import DataError, ModelError
from srch3.types import Query, Split

_CHUNK = 1024
"""Queries whose prompts are held in memory, and sorted by length, at a time."""

_SECTIONS = ("data", "teacher", "seed_everything")


def run(args: ArgsType) -> "ThinkCLI":
    """Writes thoughts.

    Args:
        args: The words after ``think``.
    """
    cli = ThinkCLI(args)
    cli.think()
    return cli


class RunConfigParser(LightningArgumentParser):
    """Takes from a configuration file what thinking needs, so that it may be that of a run."""

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Any:
        """Parses a configuration file, sections of other commands left out."""
        return super().parse_string(_only_sections(content), *args, **kwargs)


class ThinkCLI(CommandCLI):
    """Builds the data module and the teacher alone."""

    command: ClassVar[str] = "think"
    description: ClassVar[str] = (
        "Writes a thought for each training query with any causal language model of Hugging Face as teacher,\n"
        "for stage 1 to learn. Started again, it goes on where it was stopped."
    )
    epilog: ClassVar[str] = (
        "Of --config, only data, teacher and seed_everything are read, so that it may be the config.yaml of a run.\n\n"
        "example:\n"
        "  python -m srch3 think --config runs/version_0/config.yaml --model TEACHER --output thoughts.jsonl"
    )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Makes the parser, which reads the configuration of a run."""
        self.parser_class = RunConfigParser
        return super().init_parser(**kwargs)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the data alone."""
        parser.add_lightning_class_args(self._datamodule_class, "data", subclass_mode=True)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the teacher, and what is written where."""
        parser.add_argument(
            "--model", type=str, required=True, help="The teacher: a folder of save_pretrained, or a name on the hub."
        )
        parser.add_argument("--output", type=str, required=True, help="JSON lines, for FileThoughts to read.")
        parser.add_argument("--split", type=Split, default="train", help="Whose queries get thoughts.")
        parser.add_class_arguments(Teacher, "teacher")

    def instantiate_classes(self) -> None:
        """Builds the data module and the teacher."""
        self.config_init = self.parser.instantiate_classes(self.config)
        self.datamodule = self.config_init["data"]

    def think(self) -> None:
        """Writes what is missing in the output, and says how to train with it.

        Raises:
            KeyboardInterrupt: After Ctrl-C, with what to type.
            ModelError: Memory is too small.
        """
        data, config = self.retrieval_data(), self.config_init
        data.prepare_data()
        queries = data.queries(config["split"])
        file = ThoughtsFile(Path(config["output"]))
        done = file.begin({"model": config["model"], **config["teacher"].settings})
        if changed := [query.id for query in queries if done.get(query.id, query.text) != query.text]:
            raise DataError(
                f"output: {file.path} has a thought for query {changed[0]!r} with another text ({len(changed)} such in "
                "all), so it belongs to other data; give another name"
            )
        missing = [query for query in queries if query.id not in done]
        if len(missing) < len(queries):
            rank_zero_info(f"think: {len(queries) - len(missing)} of {len(queries)} queries have a thought already")
        try:
            self._write(missing, data, file)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt("stopped; the same command goes on from there") from stop
        except torch.OutOfMemoryError as error:
            raise ModelError(
                "out of memory: lower teacher.tokens_per_batch or set teacher.dtype to bfloat16"
            ) from error
        sys.stdout.write(
            f"{len(queries)} thoughts; train with them: --data.init_args.thoughts FileThoughts "
            f"--data.init_args.thoughts.init_args.path {shlex.quote(str(file.path))}\n"
        )

    def _write(self, queries: Sequence[Query], data: RetrievalDataModule, file: ThoughtsFile) -> None:
        if not queries:
            return
        teacher: Teacher = self.config_init["teacher"]
        teacher.load(self.config_init["model"])
        with encoding_bar("Writing thoughts", len(queries)) as advance:
            for some in _chunks(queries):
                for places, thoughts in teacher.write(self._asked(some, data, teacher.wants_positive)):
                    file.append([some[place] for place in places], thoughts)
                    advance(len(places))

    def _asked(self, queries: Sequence[Query], data: RetrievalDataModule, wants_positive: bool) -> list[Asked]:
        if not wants_positive:
            return [Asked(query.text, "") for query in queries]
        corpus = data.corpus(cast(Split, self.config_init["split"]))
        asked = []
        for query in queries:
            if not query.relevant:
                raise DataError(
                    f"teacher.prompt: {{positive}} expects queries with a relevant document; got {query.id!r} without; "
                    "leave {positive} out, or choose another split"
                )
            best = max(query.relevant, key=query.relevant.__getitem__)
            asked.append(Asked(query.text, corpus.texts[corpus.row(best)]))
        return asked


def _chunks(queries: Sequence[Query]) -> Iterator[Sequence[Query]]:
    for first in range(0, len(queries), _CHUNK):
        yield queries[first : first + _CHUNK]


def _only_sections(content: str) -> str:
    """A configuration without the sections of other commands; values keep the form in which they were written."""
    try:
        root = yaml.compose(content, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return content
    if not isinstance(root, yaml.MappingNode):
        return content
    kept = [(key, value) for key, value in root.value if key.value in _SECTIONS]
    if len(kept) < len(root.value):
        others = [key.value for key, value in root.value if key.value not in _SECTIONS]
        rank_zero_info(f"think: of the configuration, {', '.join(others)} are not needed and left out")
    root.value = kept
    return str(yaml.serialize(root, Dumper=yaml.SafeDumper)) if kept else "{}"
