"""Commands that are plain functions: their signature is the command line, their docstring the help."""

import argparse
import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_origin

from jsonargparse import ArgumentParser

from srch3.usage import HelpFormatter, UsageError, explain


def call(function: Callable[..., Any], words: Sequence[str], epilog: str) -> Any:
    """Calls a function with the arguments of a command line.

    Every argument is an option, ``--output`` and so on, or comes from ``--config`` in YAML. An option that is true or
    false may stand alone, and is then true. A list may do without its brackets: ``--modes thinking,direct``.

    Args:
        function: Has the name of the command, annotations, and a docstring in Google's style.
        words: The command line after the command's name.
        epilog: Examples, for the help.

    Returns:
        Whatever the function does.

    Raises:
        UsageError: The words cannot be parsed.
    """
    name = function.__name__.strip("_")
    parser = ArgumentParser(
        prog=f"python -m srch3 {name}",
        description=_description(function),
        epilog=epilog,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="A YAML file with any of the arguments.")
    parser.add_function_arguments(function, as_positional=False)
    try:
        config = parser.parse_args(_with_values(function, words))
    except argparse.ArgumentError as error:
        keys = [action.dest for action in parser._actions]  # noqa: SLF001
        raise UsageError(explain(error, words, keys, name)) from error
    ready = parser.instantiate(config)
    ready.pop("config", None)
    return function(**ready)


def _description(function: Callable[..., Any]) -> str:
    """What a docstring says before its first section."""
    return (inspect.getdoc(function) or "").partition("\n\nArgs:")[0]


def _with_values(function: Callable[..., Any], words: Sequence[str]) -> list[str]:
    """The words, with ``true`` for each switch that stands alone, and brackets around each list."""
    parameters = inspect.signature(function).parameters.values()
    switches = {f"--{parameter.name}" for parameter in parameters if parameter.annotation in (bool, bool | None)}
    lists = {f"--{parameter.name}" for parameter in parameters if get_origin(parameter.annotation) is Sequence}
    ready = []
    for before, word, after in zip(["", *words], words, [*words[1:], "--"], strict=False):
        option, equals, value = word.partition("=")
        if word in switches and after.startswith("--"):
            ready.append(f"{word}=true")
        elif equals and option in lists:
            ready.append(f"{option}={_bracketed(value)}")
        else:
            ready.append(_bracketed(word) if before in lists and not word.startswith("--") else word)
    return ready


def _bracketed(value: str) -> str:
    return value if value.lstrip().startswith("[") else f"[{value}]"
