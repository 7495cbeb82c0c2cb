"""Docstrings as the documentation shows them: formulas in MathML, and no roles before the names of classes."""  # noqa: INP001

import re
import textwrap
from typing import Any

import griffe
from latex2mathml.converter import convert

_BLOCK = re.compile(r"^( *)\.\. math:: *(.+(?:\n\1 +\S.*)*)", re.MULTILINE)
_INLINE = re.compile(r":math:`([^`]+)`")
_ROLE = re.compile(r":(?:class|func|meth|mod):(?=`)")


class Formulas(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Griffe calls this for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(text: str) -> str:
    """A docstring in Markdown."""
    text = _BLOCK.sub(lambda found: found[1] + _mathml(textwrap.dedent(found[2]), "block"), text)
    text = _INLINE.sub(lambda found: _mathml(found[1], "inline"), text)
    return _ROLE.sub("", text)


def _mathml(latex: str, display: str) -> str:
    return convert(" ".join(latex.split()), display=display)
