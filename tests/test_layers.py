"""Which part of srch3 may import which: only what stands above it in this list, and itself."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "srch3"
LAYERS = (
    {"types", "errors"},
    {"functional"},
    {"backbones", "losses", "indexes", "rewards", "metrics", "data"},
    {"environments", "modules", "inference"},
    {"serving"},
)
WITHOUT_LIGHTNING = {"types", "errors", "functional", "indexes", "rewards", "losses", "inference", "serving"}


def layer(part: str) -> int:
    """Number of the layer; what is in none (the command line) stands on top of all."""
    return next((number for number, parts in enumerate(LAYERS) if part in parts), len(LAYERS))


def imports(source: str) -> set[str]:
    """Dotted names of everything that a module imports, wherever in the module it does so."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def violations(part: str, source: str) -> list[str]:
    """Imports that go against the layers."""
    wrong = []
    for name in imports(source):
        root, inner = [*name.split("."), ""][:2]
        upward = root == "srch3" and inner not in {part, "__version__"} and layer(inner) >= layer(part) < len(LAYERS)
        if upward or root in {"tests", "experiments"} or (root == "lightning" and part in WITHOUT_LIGHTNING):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_layers(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert violations(part, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("part", "statement"),
    [
        ("environments", "from srch3.modules.base import BaseRetrievalModule"),
        ("modules", "import srch3.environments.search"),
        ("losses", "from srch3.data import Corpus"),
        ("functional", "from srch3 import cli"),
        ("data", "def late():\n    from srch3.modules import base"),
        ("indexes", "import lightning as L"),
        ("cli", "from tests import helpers"),
    ],
)
def test_imports_against_the_layers_are_found(part: str, statement: str) -> None:
    assert len(violations(part, statement)) == 1


def test_no_module_is_called_utils() -> None:
    names = {path.stem for path in PACKAGE.rglob("*")}
    assert not names & {"utils", "util", "helpers", "common", "misc"}
