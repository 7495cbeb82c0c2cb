"""Classes that a configuration may name: which there are, what they take, and why one cannot be imported."""

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from pydoc import locate


def known_classes(lines: Sequence[str]) -> list[str]:
    """Names of the classes that the innermost expected base has."""
    subtypes = next((line for line in reversed(lines) if "Subtypes: [" in line), "")
    names: list[str] = []
    for path in re.findall(r"<class '([\w.]+)'>", subtypes):
        base = locate(path)
        if isinstance(base, type) and path != "NoneType":
            names += [kind.__name__ for kind in _with_subclasses(base)]
    return names


def _with_subclasses(base: type) -> Iterable[type]:
    """Every class below a base that has been imported."""
    kinds: list[type] = type.__subclasses__(base)
    for kind in kinds:
        yield kind
        yield from _with_subclasses(kind)


def arguments_of(class_path: str) -> list[str]:
    """Names of the arguments of a class, those of its bases included."""
    kind = locate(class_path)
    bases = inspect.getmro(kind) if isinstance(kind, type) else ()
    found = [name for base in bases if "__init__" in vars(base) for name in inspect.signature(base).parameters]
    return [name for name in dict.fromkeys(found) if name not in {"args", "kwargs"}]


def import_problem(class_path: str) -> str:
    """Why a class cannot be imported by its path; nothing for a name without one."""
    module, _, name = class_path.rpartition(".")
    if not module:
        return ""
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            return f"; there is no module {error.name}: is the folder that holds it in PYTHONPATH?"
        return f"; {module} cannot be imported: {error}"
    except Exception as error:  # noqa: BLE001  whatever a module of the user's raises
        return f"; {module} cannot be imported: {type(error).__name__}: {error}"
    close = difflib.get_close_matches(name, vars(found), n=1)
    return f"; {module} has no {name}{f'; did you mean {close[0]}?' if close else ''}"
