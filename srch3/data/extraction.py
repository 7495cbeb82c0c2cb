"""From Python source text to docstring → function pairs, with ``ast`` alone: nothing is imported or run."""

import ast
import gc
import inspect
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

Function = ast.FunctionDef | ast.AsyncFunctionDef

MIN_WORDS = 4
MIN_STATEMENTS = 2
MIN_DOCUMENT_CHARACTERS = 60

_SIGNATURE = re.compile(r"^[\w.]+\(.*\)(\s*->.*)?$", re.DOTALL)
_HEADING = re.compile(
    r"^(>>>|:\w+[^:]*:|\.\. |@\w+|\w+ \([^)]*\)\s*:"
    r"|(args|arguments|parameters|params|returns?|raises|yields?|examples?|notes?|usage|inputs?)\s*(:|\n\s*-{3,}|$))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)(?<!\bcf)[.!?](?=\s+[^a-z\s])")
_MARKUP = (
    (re.compile(r"(?::[\w:+-]+:)?`([^`<]+?)\s*<[^`>]*>`_{0,2}"), r"\1"),  # a role or link that has a title
    (re.compile(r":[\w:+-]+:`[~!]?\.?([^`]+)`"), r"\1"),
    (re.compile(r"\[([^\]]+)\]\([^)]*\)"), r"\1"),  # a Markdown link
    (re.compile(r"\[`+~?([^`\]]+)`+\]"), r"\1"),
    (re.compile(r"`+([^`]+)`+_{0,2}"), r"\1"),
    (re.compile(r"(?<![\w*])(\*{1,2})(\w(?:[^*]*\w)?)\1(?![\w*])"), r"\2"),
    (re.compile(r"\\(?=[*_`|])"), ""),
    (re.compile(r"::$"), ":"),
    (re.compile(r"\s+"), " "),
)
_RULER = re.compile(r"\s*#[\W_]*$")
_BOILERPLATE = re.compile(
    r"^(see |return repr\(self\)|return self|initiali[sz]e self|overrid|same as |alias |deprecated)", re.I
)


class Pair(NamedTuple):
    """A function and what its docstring says it does.

    Attributes:
        id: Module and qualified name.
        module: Dotted name of the module.
        query: First sentence of the docstring.
        document: Signature and body, without decorators, docstring and indentation.
    """

    id: str
    module: str
    query: str
    document: str


def extract(source: str, module: str, counts: Counter[str]) -> list[Pair]:
    """The pairs of a module, in the order in which its functions stand there.

    Functions at the top level, methods, and either inside conditions are taken; functions inside functions are part of
    the document of the outer one.

    Args:
        source: Text of the module.
        module: Its dotted name.
        counts: Counts what was seen, and for each reason what was left out; added to.

    Raises:
        SyntaxError: Where this version of Python cannot parse the source.
        ValueError: Where the source holds a null byte.
        RecursionError: Where the source is nested too deeply.
    """
    with warnings.catch_warnings(), _garbage_left():
        warnings.simplefilter("ignore")
        return _extract(source.replace("\r\n", "\n").replace("\r", "\n"), module, counts)


def _extract(source: str, module: str, counts: Counter[str]) -> list[Pair]:
    lines = source.split("\n")
    pairs = []
    for qualified_name, function in _functions(ast.parse(source).body, ""):
        counts["functions"] += 1
        query, reason = _query(function)
        document = "" if reason else _document(function, lines)
        reason = reason or ("short body" if _is_trivial(function, document) else "")
        if reason:
            counts[reason] += 1
        else:
            pairs.append(Pair(f"{module}.{qualified_name}", module, query, document))
    return pairs


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Looks for no garbage meanwhile: there is none in a growing syntax tree, and looking doubles the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring on one line, with reST, Sphinx and Markdown markup taken off.

    Empty where the docstring starts with a list of parameters, an example or another heading. A leading line that
    repeats the signature is skipped.

    Args:
        docstring: As it stands in the source, with its indentation.
    """
    text = inspect.cleandoc(docstring.encode(errors="replace").decode())  # an escape may stand for half a character
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    if len(paragraphs) > 1 and _SIGNATURE.match(paragraphs[0]):
        del paragraphs[0]
    if not paragraphs or _HEADING.match(paragraphs[0]):
        return ""
    text = _before_heading(paragraphs[0])
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    text = text.strip()
    end = _SENTENCE_END.search(text)
    return text[: end.end()] if end else text


def _before_heading(paragraph: str) -> str:
    lines = paragraph.split("\n")
    count = next((number for number, line in enumerate(lines) if number and _HEADING.match(line.strip())), len(lines))
    return " ".join(line.strip() for line in lines[:count])


def _functions(body: Sequence[ast.stmt], prefix: str) -> Iterator[tuple[str, Function]]:
    for node in body:
        if isinstance(node, Function):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from _functions(_inner_statements(node), prefix)


def _inner_statements(node: ast.If | ast.Try | ast.With) -> list[ast.stmt]:
    statements = list(node.body)
    if isinstance(node, ast.Try):
        statements += [statement for handler in node.handlers for statement in handler.body]
    if not isinstance(node, ast.With):
        statements += node.orelse
    return statements


def _query(function: Function) -> tuple[str, str]:
    """The query, and the reason for which there is none."""
    docstring = ast.get_docstring(function, clean=False)
    if docstring is None:
        return "", "no docstring"
    query = first_sentence(docstring)
    if len(re.findall(r"\w+", query)) < MIN_WORDS or _BOILERPLATE.match(query):
        return "", "short docstring"
    return query, ""


def _is_trivial(function: Function, document: str) -> bool:
    body = function.body[1:]
    if len(document) < MIN_DOCUMENT_CHARACTERS or len(body) >= MIN_STATEMENTS:
        return len(document) < MIN_DOCUMENT_CHARACTERS
    statements = (isinstance(node, ast.stmt) for statement in body for node in ast.walk(statement))
    return sum(statements) < MIN_STATEMENTS


def _document(function: Function, lines: Sequence[str]) -> str:
    docstring = function.body[0]
    assert docstring.end_lineno is not None
    assert docstring.end_col_offset is not None
    assert function.end_lineno is not None
    before = lines[docstring.lineno - 1].encode()[: docstring.col_offset].strip()
    after = lines[docstring.end_lineno - 1].encode()[docstring.end_col_offset :].strip()
    if before or after.strip(b";"):
        return _unparsed(function)
    kept = [*lines[function.lineno - 1 : docstring.lineno - 1], *lines[docstring.end_lineno : function.end_lineno]]
    return compact(textwrap.dedent("\n".join(kept)))


def _unparsed(function: Function) -> str:
    """For a docstring that shares its line with code."""
    copy = ast.parse(ast.unparse(function)).body[0]
    assert isinstance(copy, Function)
    copy.body, copy.decorator_list = copy.body[1:] or [ast.Pass()], []
    return compact(ast.unparse(copy))


def compact(code: str) -> str:
    """Code without empty lines, trailing blanks, and comments that hold no word."""
    lines = (line.rstrip() for line in code.split("\n"))
    return "\n".join(line for line in lines if line and not _RULER.match(line))
