"""How to call the command line, and in one line what is wrong with a call or a configuration file."""

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import DefaultHelpFormatter

from srch3.class_paths import arguments_of, import_problem, known_classes
from srch3.errors import ConfigError

SUBCOMMANDS = {
    "fit": "trains a model",
    "validate": "measures a checkpoint on the validation queries",
    "test": "measures a checkpoint on the test queries",
    "predict": "searches with the test queries, and writes what was thought and found",
}
"""What Lightning's Trainer does, each with a line of help."""
COMMANDS = ("think", "mine", "index", "search", "encode", "evaluate", "export", "serve")
"""What stands beside the subcommands, with a parser of its own."""

DESCRIPTION = "Trains language models to reason about a query and then to emit its search embedding."
EPILOG = """\
stages (model):
  CausalLMModule  a small language model from nothing, where none is to be downloaded
  SFTModule       stage 1: learns to write a thought, then the embedding (supervised)
  RLModule        stage 2: is rewarded for what its searches find in the environment (GRPO)

commands beside these subcommands, each with a --help of its own:
  think           writes thoughts for the training queries, with any causal language model as teacher
  mine            finds hard negatives for the training queries, with a checkpoint
  index           encodes a corpus with a trained model, to be searched
  search          answers one query, a file of them, or what is typed, in such an index
  encode          writes the embeddings of queries or documents
  evaluate        measures a model, BM25 and run files on judged queries, with trec_eval's numbers
  export          writes a model folder for transformers, sentence-transformers and mteb
  serve           answers searches in an index over HTTP, with a page to search with

examples:
  python -m srch3 fit --config stage1.yaml --config more.yaml --trainer.max_epochs 2
  python -m srch3 fit --config stage2.yaml --model.init_args.init_from runs/version_0/checkpoints/best.ckpt
  python -m srch3 fit --config stage2.yaml --ckpt_path runs/version_1/checkpoints/last.ckpt    (resumes)
  python -m srch3 test --config runs/version_1/config.yaml --ckpt_path runs/version_1/checkpoints/best.ckpt
  python -m srch3 think --config stage1.yaml --model TEACHER --output thoughts.jsonl
  python -m srch3 mine --config runs/version_0/config.yaml --ckpt_path runs/version_0/checkpoints/best.ckpt --output NEW
  python -m srch3 index --model runs/version_1/checkpoints/best.ckpt --corpus BEIR_FOLDER --output INDEX
  python -m srch3 search --index INDEX --query "what is searched for"
  python -m srch3 fit --config stage1.yaml --print_config
  python -m srch3 fit --model.help SFTModule

Mistakes are reported in one line; SRCH3_DEBUG=1 in the environment shows the traceback behind it.
"""


class UsageError(ConfigError):
    """The command line or a configuration file cannot be understood."""


class HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the examples, and quotes what docstrings mark as code."""

    def format_help(self) -> str:
        """The help as it is shown."""
        return super().format_help().replace("``", "'")


class _Leaf(NamedTuple):
    """The most telling line of a parser's error, and where in the configuration it is.

    Attributes:
        kind: Which of the known complaints it is.
        value: What the complaint names.
        key: Dotted key that it is about, as it stands in YAML.
        class_path: The class whose arguments were being parsed, if any.
        line: Its line in the text.
    """

    kind: str
    value: str
    key: str
    class_path: str
    line: int


_COMPLAINTS = (
    ("option", re.compile(r"Option '([^']+)' is not accepted")),
    ("option", re.compile(r"does not accept option '([^']+)'")),
    ("option", re.compile(r"unrecognized arguments: --(\S+)")),
    ("required", re.compile(r"the following arguments are required: (.+)")),
    ("class", re.compile(r"(?:No module named|has no attribute) '([^']+)'")),
    ("subclass", re.compile(r"Import path does not correspond to a subclass of (\S+)")),
    ("class", re.compile(r"Expected a dot import path string: (\S+)")),
    ("file", re.compile(r"Unexpected import path format: (\S+)")),
    ("file", re.compile(r"File does not exist: '([^']+)'")),
    ("type", re.compile(r"(Expected an? .+)")),
)
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_NAMES_OF_CLASS_KEYS = ("class_path", "init_args")


def explain(error: BaseException, args: Any, keys: Iterable[str], command: str | None = None) -> str:
    """Says in one line what cannot be parsed, what was expected, and what to type.

    Args:
        error: What the parser raised.
        args: The command line that was parsed.
        keys: Every top-level key of the configuration.
        command: Whose command line it is, where that begins without a subcommand.
    """
    text, words = str(error), list(args) if isinstance(args, list | tuple) else []
    special = (command is None and _misplaced_subcommand(text, words)) or _broken_yaml(text, words)
    if special:
        return special
    subcommand = command or next((word for word in words if word in SUBCOMMANDS), "fit")
    leaf = _most_telling(text)
    message = _say(leaf, text, list(keys)) if leaf else " ".join(text.split())[:300]
    return f"{message} (see: python -m srch3 {subcommand} --help)"


def _misplaced_subcommand(text: str, words: Sequence[str]) -> str | None:
    """A command line without a subcommand, with a misspelt one, or with options before it."""
    known = (*SUBCOMMANDS, *COMMANDS)
    choices = ", ".join(known)
    unknown = re.search(r"argument subcommand: invalid choice: '([^']*)'", text)
    if unknown:
        return f"unknown subcommand {unknown[1]}{_nearest(unknown[1], known)}; expected one of {choices}"
    later = next((word for word in words if word in known), None)
    if words and words[0].startswith("-") and later:
        rest = [word for word in words if word != later]
        return f"the subcommand comes first: python -m srch3 {later} {' '.join(rest)}"
    if 'expected "subcommand"' in text or (words and words[0].startswith("-") and not later):
        return f"expected a subcommand, one of {choices}, for example: python -m srch3 fit --config stage1.yaml"
    return None


def _broken_yaml(text: str, words: Sequence[str]) -> str | None:
    """A configuration file that is not YAML, or no mapping of keys to values."""
    if not text.startswith(("Problems parsing config", "Unexpected config", 'Parser key "config"')):
        return None
    for path in _config_files(words):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.MarkedYAMLError as problem:
            mark = problem.problem_mark
            place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
            return f"{place}: not valid YAML: {problem.problem}"
        except yaml.YAMLError:
            return f"{path}: not valid YAML: it is not plain text"
        except (OSError, UnicodeDecodeError) as problem:
            return f"--config: cannot read {path}: {getattr(problem, 'strerror', None) or 'not a text file'}"
        if not isinstance(content, dict):
            return f"{path}: expected keys such as `model:` and `data:`; got {type(content).__name__}"
    return None


def _config_files(words: Sequence[str]) -> list[Path]:
    """The files given by ``-c`` and ``--config``, in order."""
    found = [second for first, second in pairwise(words) if first in {"-c", "--config"}]
    return [Path(word) for word in found + [word.partition("=")[2] for word in words if word.startswith("--config=")]]


def _most_telling(text: str) -> _Leaf | None:
    """Finds the complaint that says most in the nested text of a parser's error."""
    lines = text.splitlines()
    for kind, pattern in _COMPLAINTS:
        for number, line in enumerate(lines):
            found = pattern.search(line)
            if found:
                key, class_path = _place(lines, number)
                return _Leaf(kind, found[1], key, class_path, number)
    return None


def _place(lines: Sequence[str], number: int) -> tuple[str, str]:
    """Key and class that a line is about: its ancestors by indentation."""
    parts: list[str] = []
    class_path, indent = "", _indent(lines[number])
    for line in [lines[number], *reversed(lines[:number])]:
        if _indent(line) >= indent and line is not lines[number]:
            continue
        indent = min(indent, _indent(line)) if line.strip() else indent
        key = re.search(r'Parser key "([^"]+)"', line)
        holder = re.search(r"Problem with given class_path '([^']+)'", line)
        if holder:
            parts.insert(0, "init_args")
            class_path = class_path or holder[1]
        if key:
            parts.insert(0, key[1])
    return ".".join(parts), class_path


def _indent(line: str) -> int:
    """Columns before the text of a line, the dash of a list item included; a blank line counts as deepest."""
    return len(line) - len(line.lstrip(" -")) if line.strip(" -") else 10_000


def _say(leaf: _Leaf, text: str, keys: list[str]) -> str:
    """Puts a complaint into words."""
    if leaf.kind == "option":
        return _say_option(leaf, keys)
    if leaf.kind == "required":
        names = [_join(leaf.key, name.strip().rpartition(" ")[2]) for name in leaf.value.split(",")]
        names = [name.partition(".")[2] if name.split(".")[0] in SUBCOMMANDS else name for name in names]
        hint = "; write `environment: NoEnvironment` for none" if names == ["environment"] else ""
        return f"missing required {'key' if len(names) == 1 else 'keys'} {', '.join(sorted(names, reverse=True))}{hint}"
    if leaf.kind == "subclass":
        given = re.search(r"Given value: (\S+)", text)
        return f"{leaf.key}: expected a subclass of {leaf.value}; got {given[1] if given else 'another class'}"
    if leaf.kind == "file" or leaf.value.endswith((".yaml", ".yml", ".json")):
        return f"{leaf.key or '--config'}: file {leaf.value} does not exist"
    if leaf.kind == "class" and not _is_type(text.splitlines()[leaf.line - 1]):
        key, name = leaf.key.removesuffix(".init_args"), leaf.class_path if "given class_path" in text else ""
        name = leaf.value if leaf.value.count(".") or "dot import path" in text.splitlines()[leaf.line] else name
        hint = import_problem(name) or _nearest(name, known_classes(text.splitlines()[: leaf.line]))
        return f"{key}: unknown class {name}{hint}"
    return _say_type(leaf, text.splitlines())


def _say_option(leaf: _Leaf, keys: list[str]) -> str:
    """An argument that does not exist."""
    name = leaf.value.partition("=")[0]
    if not leaf.class_path:
        return f"unknown key {name}{_nearest_key(name, keys)}"
    short = leaf.class_path.rpartition(".")[2]
    holder = leaf.key.removesuffix(".init_args")
    if "." not in name and difflib.get_close_matches(name, _NAMES_OF_CLASS_KEYS, cutoff=0.8):
        return f"unknown key {holder}.{name}{_nearest(name, _NAMES_OF_CLASS_KEYS)}"
    known = arguments_of(leaf.class_path)
    hint = _nearest(name.split(".")[0], known) or f"; it takes {', '.join(known) or 'none'}"
    return f"unknown key {leaf.key}.{name}: {short} has no such argument{hint}"


def _say_type(leaf: _Leaf, lines: Sequence[str]) -> str:
    """A value of the wrong type."""
    indent = _indent(lines[leaf.line])
    tail = lines[leaf.line - _is_type(lines[leaf.line - 1]) :]
    expected = [re.sub(r"\. Got value.*", "", line.strip(" -")) for line in tail if _indent(line) == indent]
    names = [_type_name(line) for line in expected if re.match("Expected an? (?!dot import path)", line)]
    given = re.search(r"(?:Got|Given) value: (.+?)(?:\. Got value: .*)?$", "\n".join(tail), re.MULTILINE)
    problem = import_problem(given[1]) if given and _DOTTED.fullmatch(given[1]) else ""
    if given and "cannot be imported" in problem:
        return f"{leaf.key}: unknown class {given[1]}{problem}"
    return f"{leaf.key}: expected {' or '.join(dict.fromkeys(names))}; got {given[1] if given else 'something else'}"


def _is_type(line: str) -> bool:
    """Whether a line says that a number would have done as well as the class that the next one complains about."""
    return re.fullmatch(r"[ -]*Expected an? <class '(int|float)'>", line) is not None


def _type_name(complaint: str) -> str:
    """A type as a reader of YAML would call it."""
    name = re.sub(r"^Expected an? ", "", complaint)
    name = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", name).replace("NoneType", "null")
    choices = re.match(r"typing\.Literal\[(.+)\]$", name)
    return f"one of {choices[1]}" if choices else name


def _nearest(name: str, known: Iterable[str]) -> str:
    """A suggestion for a misspelt name."""
    by_lower = {candidate.rpartition(".")[2].lower(): candidate for candidate in known}
    match = difflib.get_close_matches(name.rpartition(".")[2].lower(), by_lower, n=1)
    return f"; did you mean {by_lower[match[0]]}?" if match else ""


def _nearest_key(name: str, keys: Iterable[str]) -> str:
    """A suggestion for a misspelt key at the top of the configuration, or in one of its groups."""
    groups = {key.partition(".")[0] for key in keys}
    group = name.partition(".")[0]
    known = {key for key in keys if key.startswith(f"{group}.")} if group in groups and "." in name else groups
    match = difflib.get_close_matches(name if group in groups else group, sorted(known), n=1)
    return f"; did you mean {match[0]}?" if match else ""


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
