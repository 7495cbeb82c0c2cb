"""What the documentation takes from elsewhere in the repository, so that nothing is written twice."""  # noqa: INP001

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
TAKEN = {
    "configurations.md": "configs/README.md",
    "sweeps.md": "experiments/sweeps/README.md",
    "metrics.md": "srch3/metrics/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changes.md": "CHANGELOG.md",
    "measured/quickstart.md": "experiments/quickstart/README.md",
    "measured/stage-1.md": "experiments/stage1/README.md",
    "measured/stage-2.md": "experiments/stage2/README.md",
    "measured/environment.md": "experiments/benchmarks/environment/README.md",
    "measured/indexes.md": "experiments/benchmarks/index/README.md",
    "measured/speed-of-stage-1.md": "experiments/benchmarks/sft/README.md",
    "measured/speed-of-rollouts.md": "experiments/benchmarks/rollout/README.md",
    "measured/speed-of-stage-2.md": "experiments/benchmarks/grpo/README.md",
    "measured/speed-of-encoding.md": "experiments/benchmarks/encode/README.md",
    "measured/serving.md": "experiments/benchmarks/serve/README.md",
    "measured/size-of-data.md": "experiments/benchmarks/data/README.md",
}
"""Pages that live beside the code they speak of."""
REFERENCE = (
    "inference", "serving", "modules", "backbones", "data", "environments", "indexes", "losses", "rewards", "metrics",
    "monitoring", "functional", "types", "errors",
)  # fmt: skip
"""Packages and modules whose docstrings are pages."""
FIRST = ("searcher", "embedder", "app")
"""Modules that a page begins with."""

_FENCED = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")
_TAKEN_SECTION = re.compile(r"^\[(.+)\]\(\.\./(\S+\.md)#\S+\) stands in \2\.$", re.MULTILINE)
_TAKEN_RECIPES = "The files in [configs/recipes](../configs/recipes) name their works in their first lines."
_HEADER = re.compile(r"^# (.+?) \((.+), arXiv ([\d.]+)\)[:,] (.+)$")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that live elsewhere, their images, and the reference."""
    for page, source in TAKEN.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=adapted(text, source, page)))
        for image in images(text):
            path = ROOT / PurePosixPath(source).parent / image
            target = str(PurePosixPath(page).with_suffix("")) + f"-{path.name}"
            files.append(File.generated(config, target, abs_src_path=str(path)))
    for name in REFERENCE:
        files.append(File.generated(config, f"reference/{name}.md", content=reference(name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fills in what a page takes, in place of the lines that lead a reader of the file there."""
    path = page.file.src_uri

    def fill(found: re.Match[str]) -> str:
        heading, source = found.groups()
        return adapted(section(source, heading), source, path)

    return _with_titles(_TAKEN_SECTION.sub(fill, markdown).replace(_TAKEN_RECIPES, recipes()))


def section(source: str, heading: str) -> str:
    """What stands under a heading of a document of the repository, up to the next heading.

    Raises:
        PluginError: There is no such heading.
    """
    text = (ROOT / source).read_text(encoding="utf-8")
    lines: list[str] | None = None
    for part in _FENCED.split(text):
        for line in [part] if part.startswith("```") else part.splitlines():
            found = re.match(r"#+ (.+)", line)
            if found and lines is not None:
                return "\n".join(lines).strip()
            if lines is not None:
                lines.append(line)
            elif found and found[1] == heading:
                lines = []
    if lines is None:
        raise PluginError(f"{source} has no heading {heading!r}, which a page of the documentation takes")
    return "\n".join(lines).strip()


def adapted(text: str, source: str, page: str) -> str:
    """A text of the repository as part of a page.

    Links lead to the page that a document became, or turn into plain words; images lie beside the page.

    Args:
        text: Markdown.
        source: Where it stands in the repository.
        page: Where it goes to in the documentation.
    """
    parts = _FENCED.split(text)
    links = [
        part if part.startswith("```") else _LINK.sub(lambda found: _link(found, source, page), part) for part in parts
    ]
    return "".join(links)


def _with_titles(text: str) -> str:
    """A page whose named blocks of code show their names."""
    return re.sub(r'^```(\w+) ([^\s"]+)$', r'```\1 title="\2"', text, flags=re.MULTILINE)


def _link(found: re.Match[str], source: str, page: str) -> str:
    image, words, target, anchor = found.groups(default="")
    if "://" in target or not target:
        return found[0]
    if image:
        return f"![{words}]({PurePosixPath(page).stem}-{PurePosixPath(target).name})"
    path = os.path.normpath(PurePosixPath(source).parent / target)
    pages = {document: name for name, document in TAKEN.items()} | {"README.md": "index.md"}
    if path in pages:
        return f"[{words}]({os.path.relpath(pages[path], PurePosixPath(page).parent)}{anchor})"
    return words if "`" in words else f"`{path}`" if words == target else f"{words} (`{path}`)"


def images(text: str) -> list[str]:
    """Files of the images that a text shows."""
    return [found[3] for found in _LINK.finditer(text) if found[1] and "://" not in found[3]]


def recipes() -> str:
    """The table of recipes, from the headers and settings of their files."""
    rows = ["| recipe | work | what it does | stage | base model |", "| --- | --- | --- | --- | --- |"]
    for path in [*sorted((ROOT / "configs/recipes").glob("*.yaml")), *sorted((ROOT / "configs/recipes/rl").glob("*"))]:
        text = path.read_text(encoding="utf-8")
        found = _HEADER.match(text.splitlines()[0])
        if not found:
            raise PluginError(
                f"{path}: expected a first line such as `# Work (authors, arXiv 1234.56789): what it does`"
            )
        model = yaml.safe_load(text)["model"]
        stage = {"SFTModule": "1", "RLModule": "2"}[model["class_path"]]
        base = model["init_args"]["backbone"]["init_args"]["model"]
        work = f"{found[1]} ([{found[2]}](https://arxiv.org/abs/{found[3]}))"
        rows.append(f"| `{path.relative_to(ROOT)}` | {work} | {found[4]} | {stage} | {base} |")
    return "\n".join(rows)


def reference(name: str) -> str:
    """A page of the docstrings of a package, or of one module: what ``__all__`` names, or every module's own."""
    folder = ROOT / "srch3" / name
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    lines = [f"# srch3.{name}", "", ast.get_docstring(tree) or "", ""]
    names = list(_exported(tree)) if folder.is_dir() else [""]
    if folder.is_dir() and not names:
        found = sorted(module.stem for module in folder.glob("*.py") if module.stem != "__init__")
        names = sorted(found, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    lines += [f"::: srch3.{name}{'.' * bool(part)}{part}\n" for part in names]
    return "\n".join(lines)


def _exported(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            yield from ast.literal_eval(node.value)
