"""Where Python source comes from: the standard library, installed distributions, folders, requirements files."""

import hashlib
import importlib.metadata
import os
import platform
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from srch3.errors import DataError

TEST_FOLDERS = frozenset({"test", "tests", "testing", "_testing"})
VENDORED_FOLDERS = frozenset(
    {"_vendor", "_vendored", "vendor", "vendored", "third_party", "extern", "externals", "_bundled"}
    | {"site-packages", "dist-packages", "node_modules", "__pycache__"}
)
_TEST_MODULE = re.compile(r"^(tests?|test_.*|.*_tests?|conftest)$")
_GENERATED_MODULE = re.compile(r".*_pb2(_grpc)?$")
_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*(?:[=<>!~;@]|$)")


class SourceFile(NamedTuple):
    """A Python file.

    Attributes:
        path: Where it lies on this machine.
        module: Its dotted name, the same on every machine.
    """

    path: str
    module: str


class Root(Protocol):
    """A place that holds Python files."""

    @property
    def key(self) -> str:
        """Changes whenever the files do."""

    def files(self) -> Iterator[SourceFile]:
        """All Python files, tests and vendored ones included, in no particular order."""


class StandardLibrary:
    """The standard library of the running Python."""

    @property
    def key(self) -> str:
        """Version of Python."""
        return f"stdlib {platform.python_implementation()} {platform.python_version()}"

    def files(self) -> Iterator[SourceFile]:
        """All modules, without ``site-packages``."""
        folder = Path(sysconfig.get_path("stdlib"))
        return _walk(folder, folder)


class InstalledDistribution:
    """What pip installed under a name.

    Args:
        distribution: Its metadata.
    """

    def __init__(self, distribution: importlib.metadata.Distribution) -> None:
        self._distribution = distribution

    @property
    def key(self) -> str:
        """Name and version."""
        return f"{normalised(self._distribution.metadata['Name'])} {self._distribution.version}"

    def files(self) -> Iterator[SourceFile]:
        """The modules listed in its record; none for an editable installation."""
        for path in self._distribution.files or ():
            if path.suffix == ".py" and ".." not in path.parts:
                yield SourceFile(str(self._distribution.locate_file(path)), _module(path))


class SourceFolder:
    """A folder of Python files, or one package.

    Args:
        path: The folder. Where it is a package itself, module names start with that of the package.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()

    @property
    def key(self) -> str:
        """Names, sizes and times of change of all files."""
        digest = hashlib.sha256(str(self._path).encode())
        for file in sorted(self.files()):
            status = Path(file.path).stat()
            digest.update(f"{file.path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
        return f"folder {digest.hexdigest()}"

    def files(self) -> Iterator[SourceFile]:
        """All modules, without hidden folders and virtual environments."""
        above = self._path
        while (above / "__init__.py").is_file():
            above = above.parent
        return _walk(self._path, above)


def resolve(roots: Sequence[str], argument: str) -> list[Root]:
    """Finds what roots stand for.

    Args:
        roots: Each is ``stdlib``, the name of an installed distribution, a folder, or a requirements or constraints
            file (``.txt``), which stands for every distribution in it that is installed. Where a name fits both a
            distribution and a folder, it is the distribution; write ``./name`` for the folder.
        argument: The setting that gave them, as it stands in YAML.

    Raises:
        DataError: Where there is no root, or one of them stands for nothing.
    """
    if not roots:
        raise DataError(f"{argument}: expected at least one root; got an empty list; leave it out for the default")
    found: dict[str, Root] = {}
    for name in roots:
        for root in _resolve_one(name, argument):
            found.setdefault(root.key, root)
    return list(found.values())


def _resolve_one(name: str, argument: str) -> list[Root]:
    path = Path(name).expanduser()
    if name == "stdlib":
        return [StandardLibrary()]
    if path.suffix == ".txt":
        return _pinned(path, argument)
    if "/" not in name and os.sep not in name and (distribution := _installed(name)) is not None:
        return [InstalledDistribution(distribution)]
    if name and path.is_dir():
        return [SourceFolder(path)]
    raise DataError(
        f"{argument}: expected `stdlib`, an installed distribution, a folder or a requirements file (.txt); got"
        f" {name!r}, which is none of them; check the spelling, or install it with pip"
    )


def _pinned(path: Path, argument: str) -> list[Root]:
    if not path.is_file():
        raise DataError(f"{argument}: expected a requirements file; got {str(path)!r}, which does not exist")
    lines = (line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
    names = sorted({normalised(match[1]) for line in lines if (match := _REQUIREMENT.match(line))})
    roots: list[Root] = [InstalledDistribution(found) for name in names if (found := _installed(name)) is not None]
    if not roots:
        raise DataError(
            f"{argument}: expected a requirements file that names installed distributions; got {str(path)!r}, which"
            f" names {len(names)}, none of them installed"
        )
    return roots


def _installed(name: str) -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None


def normalised(name: str) -> str:
    """Name of a distribution in lower case, with one hyphen for each run of hyphens, underscores and dots."""
    return re.sub(r"[-_.]+", "-", name).lower()


def left_out(module: str) -> str:
    """The reason for which a module is not mined by its name; empty where there is none.

    Args:
        module: Dotted name.
    """
    *folders, name = module.split(".")
    if not TEST_FOLDERS.isdisjoint(folders) or _TEST_MODULE.match(name):
        return "test"
    if not VENDORED_FOLDERS.isdisjoint(folders):
        return "vendored"
    return "generated" if _GENERATED_MODULE.match(name) else ""


def _walk(folder: Path, base: Path) -> Iterator[SourceFile]:
    """Python files below a folder, with module names that start below another folder above it."""
    for place, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if name not in VENDORED_FOLDERS and name[0] != "." and not Path(place, name, "pyvenv.cfg").is_file()
        ]
        for name in names:
            if name.endswith(".py"):
                path = Path(place, name)
                yield SourceFile(str(path), _module(PurePosixPath(path.relative_to(base).as_posix())))


def _module(path: PurePosixPath) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
