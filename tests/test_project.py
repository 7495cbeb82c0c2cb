"""What the project promises about itself: small files, true documents, pinned dependencies, tests that can fail."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import srch3
from tests.rewards.outcomes import outcome

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "srch3").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
MAX_FILE_LINES = 320
MAX_FUNCTION_LINES = 55

Function = ast.FunctionDef | ast.AsyncFunctionDef


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> Iterator[Function]:
    yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def function_lines(function: Function) -> int:
    """Lines from ``def`` to the end, without the docstring."""
    first = function.body[0]
    docstring = ast.get_docstring(function, clean=False) is not None
    end = function.end_lineno or function.lineno
    return end - function.lineno + 1 - ((first.end_lineno or 0) - first.lineno + 1 if docstring else 0)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    sizes = {function.name: function_lines(function) for function in functions(ast.parse(text))}
    assert {name: size for name, size in sizes.items() if size > MAX_FUNCTION_LINES} == {}


def called_name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def asserts(function: Function, helpers: set[str]) -> bool:
    """Whether a function asserts by itself, or through a function that does."""
    calls = {called_name(node) for node in ast.walk(function) if isinstance(node, ast.Call)}
    named = any(name.startswith("assert_") for name in calls) or calls & ({"raises", "warns"} | helpers)
    return bool(named) or any(isinstance(node, ast.Assert) for node in ast.walk(function))


def unable_to_fail(source: str) -> list[str]:
    found = list(functions(ast.parse(source)))
    helpers = {function.name for function in found if asserts(function, set())}
    return [function.name for function in found if function.name.startswith("test_") and not asserts(function, helpers)]


@pytest.mark.parametrize("path", TESTS, ids=relative)
def test_every_test_can_fail(path: Path) -> None:
    assert unable_to_fail(path.read_text(encoding="utf-8")) == []


def test_a_test_without_assertion_is_found() -> None:
    source = "def check():\n    assert True\ndef test_a():\n    check()\ndef test_b():\n    print(1)\n"
    assert unable_to_fail(source) == ["test_b"]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_documents_name_existing_make_targets(document: str) -> None:
    text = read(document)
    named = set(re.findall(r"(?:^|`|&& |\$ )make ([a-z-]+)", text, re.MULTILINE))
    assert named
    assert named <= make_targets()


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_documents_link_to_existing_files(document: str) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", read(document))
    missing = [link for link in links if "://" not in link and not (ROOT / link.strip()).exists()]
    assert missing == []


def test_readme_starts_with_the_two_commands() -> None:
    first_screen = "\n".join(read("README.md").splitlines()[:40])
    assert "make quickstart" in first_screen
    assert "make test" in first_screen


def pins() -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in read("srch3/constraints.txt").splitlines())
    pinned = [Requirement(line) for line in lines if line]
    return {canonicalize_name(requirement.name): requirement for requirement in pinned}


def declared() -> list[Requirement]:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(line) for line in [*project["dependencies"], *(line for extra in extras for line in extra)]]


@pytest.mark.parametrize("requirement", declared(), ids=lambda requirement: requirement.name)
def test_constraints_pin_every_dependency(requirement: Requirement) -> None:
    pin = pins()[canonicalize_name(requirement.name)]
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    assert requirement.specifier.contains(specifier.version)


def test_documents_agree_on_version_and_licence() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert re.search(r"^## \[([0-9.]+)\]", read("CHANGELOG.md"), re.MULTILINE)[1] == srch3.__version__
    assert f"\nversion: {srch3.__version__}\n" in read("CITATION.cff")
    assert f"\nlicense: {project['license']}\n" in read("CITATION.cff")
    assert "Apache License\n                           Version 2.0" in read("LICENSE")


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import srch3, sys; sys.exit(bool({'torch', 'lightning', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_reward_in_contributing_works() -> None:
    (source,) = re.findall(r"```python\n(.*?)```", read("CONTRIBUTING.md"), re.DOTALL)
    names: dict[str, type] = {}
    exec(source, names)  # the example is our own text
    grades = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    found = outcome(torch.tensor([[0.9, 0.8]] * 3), grades, emitted=[True, True, False])
    assert names["FoundFirst"]()(found).tolist() == [1.0, 0.0, 0.0]
