import ast
import gc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srch3.data.extraction import Pair, compact, extract, first_sentence

MODULE = '''
import os

CONSTANT = 1


@decorated(by="something")
def read_lines(path, encoding="utf-8"):
    """Reads the lines of a file. Empty ones too.

    Args:
        path: Of the file.
    """

    # opened as text
    # --------------
    with open(path, encoding=encoding) as stream:
        return stream.read().splitlines()


class Tree:
    """Not a function, so it is left out."""

    async def walk(
        self,
        depth: int,
    ) -> None:
        r"""Visits every node of the tree, parents first."""
        for child in self.children:
            await child.walk(depth + 1)

    def size(self):
        return 1


if os.name == "posix":
    try:
        def fork_twice(count):
            """Starts two child processes one after the other"""
            def inner():
                """Is part of the outer function and no pair."""
                return os.fork()
            return [inner() for _ in range(count)]
    except OSError:
        pass
'''


def test_pairs_of_a_module_with_methods_conditions_and_decorators() -> None:
    counts: Counter[str] = Counter()
    pairs = extract(MODULE, "some.module", counts)
    assert pairs == [
        Pair(
            "some.module.read_lines",
            "some.module",
            "Reads the lines of a file.",
            'def read_lines(path, encoding="utf-8"):\n'
            "    # opened as text\n"
            "    with open(path, encoding=encoding) as stream:\n"
            "        return stream.read().splitlines()",
        ),
        Pair(
            "some.module.Tree.walk",
            "some.module",
            "Visits every node of the tree, parents first.",
            "async def walk(\n    self,\n    depth: int,\n) -> None:\n"
            "    for child in self.children:\n        await child.walk(depth + 1)",
        ),
        Pair(
            "some.module.fork_twice",
            "some.module",
            "Starts two child processes one after the other",
            "def fork_twice(count):\n    def inner():\n"
            '        """Is part of the outer function and no pair."""\n'
            "        return os.fork()\n    return [inner() for _ in range(count)]",
        ),
    ]
    assert counts == {"functions": 4, "no docstring": 1}


def test_every_document_is_python_that_parses() -> None:
    for pair in extract(MODULE, "module", Counter()):
        assert isinstance(ast.parse(pair.document).body[0], ast.FunctionDef | ast.AsyncFunctionDef)


def test_functions_in_except_else_and_with_are_found() -> None:
    function = (
        'def {name}(a, b):\n        """Adds {name} to the other number."""\n'
        "        total = a + b\n        return total * 1000000\n"
    )
    source = "try:\n    pass\n"
    source += "except OSError:\n    " + function.format(name="first")
    source += "else:\n    " + function.format(name="second")
    source += "with lock:\n    " + function.format(name="third")
    pairs = extract(source, "m", Counter())
    assert [pair.id for pair in pairs] == ["m.first", "m.second", "m.third"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def f(a):\n    b = a + 1\n    return b * 1000000000000000000000000000000000\n", "no docstring"),
        (
            'def f(a):\n    """Too few words."""\n    b = a + 1\n    return b * 10000000000000000000000\n',
            "short docstring",
        ),
        (
            'def f(a):\n    """See the base class for more."""\n    b = a + 1\n    return b * 1000000000\n',
            "short docstring",
        ),
        (
            'def f(a):\n    """Returns the one thing that it was given, unchanged in every way."""\n    return a\n',
            "short body",
        ),
        (
            'def function_of_long_name(argument_of_long_name):\n    """Returns what it was given, unchanged."""\n'
            "    return argument_of_long_name\n",
            "short body",
        ),
        ('def f(a):\n    """Does nothing else than this docstring."""\n', "short body"),
    ],
)
def test_trivial_functions_are_left_out_and_counted(source: str, reason: str) -> None:
    counts: Counter[str] = Counter()
    assert extract(source, "m", counts) == []
    assert counts == {"functions": 1, reason: 1}


def test_one_compound_statement_with_another_inside_is_enough() -> None:
    source = (
        'def drop(mapping, key):\n    """Removes a key where it is there."""\n'
        "    if key in mapping and mapping[key]:\n        del mapping[key]\n"
    )
    assert len(extract(source, "m", Counter())) == 1


def test_a_docstring_that_shares_its_line_with_code() -> None:
    source = (
        '@cached\ndef scale(value, by): "Multiplies it by this."; big = value * by * 1_000; return big + value + by\n'
    )
    (pair,) = extract(source, "m", Counter())
    assert pair.query == "Multiplies it by this."
    assert pair.document == "def scale(value, by):\n    big = value * by * 1000\n    return big + value + by"


def test_only_a_docstring_on_the_line_of_the_signature_leaves_nothing() -> None:
    counts: Counter[str] = Counter()
    source = 'def does_nothing_whatever_it_is_given(argument): "Does nothing at all with its argument."\n'
    assert extract(source, "m", counts) == []
    assert counts["short body"] == 1


def test_line_ends_form_feeds_and_wide_characters_do_not_shift_lines() -> None:
    source = (
        "x = 'ü\x0c€'\r\n\x0c\r\ndef größe(wert):\r\n    '''Misst die Größe eines Wertes — “genau”.'''  # doc\r\n"
        "    maß = len(wert) * '€\x1c'.count('€')\r\n    return maß + 100000000\r\n"
    )
    (pair,) = extract(source, "m", Counter())
    assert pair.query == "Misst die Größe eines Wertes — “genau”."
    lines = pair.document.split("\n")
    assert lines[0] == "def größe(wert):"
    assert lines[-1] == "    return maß + 100000000"


def test_source_that_does_not_parse_raises() -> None:
    with pytest.raises(SyntaxError):
        extract("def f(:\n", "m", Counter())


def test_invalid_escapes_warn_nobody() -> None:
    source = (
        'def f(a):\n    """Splits at the \\d of a line."""\n    b = a.split("\\d")\n    return b, "1000000000000000"\n'
    )
    assert len(extract(source, "m", Counter())) == 1


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_as_before(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        extract(MODULE, "m", Counter())
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Adds two numbers.", "Adds two numbers."),
        ("Adds two\n    numbers, e.g. 3 and\t 4. And more.", "Adds two numbers, e.g. 3 and 4."),
        ("Uses version 2.5 of it. Then stops.", "Uses version 2.5 of it."),
        ("Really? Yes it does!", "Really?"),
        ("No stop at all\n\nNext paragraph.", "No stop at all"),
        ("Returns a :class:`~torch.nn.Module` for :func:`name <a.b.name>`.", "Returns a torch.nn.Module for name."),
        ("Calls ``run`` and `stop`, see `the page <https://x.org>`_.", "Calls run and stop, see the page."),
        ("Loads a [`~models.Bert`] from [the hub](https://hub.org).", "Loads a models.Bert from the hub."),
        (
            "Takes *args, **kwargs and *emphasised words* of **weight**.",
            "Takes *args, **kwargs and emphasised words of weight.",
        ),
        (r"Escapes \*args and \_names.", "Escapes *args and _names."),
        ("Prints the following::\n\n    text", "Prints the following:"),
        ("Sums it up.\n    Args:\n        x: a number", "Sums it up."),
        ("Sums it up\n    :param x: a number", "Sums it up"),
        ("Sums it up\n    >>> sums(1)", "Sums it up"),
        ("add(x, y) -> z\n\n    Adds two numbers.", "Adds two numbers."),
        ("add(x, y)", "add(x, y)"),
        ("Half \ud800 of it.", "Half ? of it."),
        ("Args:\n    x: a number", ""),
        ("Parameters\n    ----------\n    x : int", ""),
        (">>> add(1, 2)\n    3", ""),
        (":param x: a number", ""),
        ("x (int): a number", ""),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_first_sentence(docstring: str, expected: str) -> None:
    assert first_sentence(docstring) == expected


@given(st.text())
def test_first_sentence_is_one_trimmed_line_of_any_text(docstring: str) -> None:
    sentence = first_sentence(docstring)
    assert sentence == " ".join(sentence.split())


def test_compact_code() -> None:
    assert compact("def f():  \n\n    # -----\n    #\n    # why\n    return 1\n") == "def f():\n    # why\n    return 1"
