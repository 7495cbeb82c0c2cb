import importlib.metadata
import os
from pathlib import Path

import pytest

from srch3.data.roots import left_out, normalised, resolve
from srch3.errors import DataError


def modules(*roots: str) -> set[str]:
    return {file.module for root in resolve(roots, "data.init_args.roots") for file in root.files()}


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_standard_library_without_site_packages() -> None:
    found = modules("stdlib")
    assert {"json", "json.decoder", "os", "xml.etree.ElementTree", "test.support"} <= found
    assert not any("site-packages" in module or module.startswith("pytest") for module in found)


def test_installed_distribution_by_any_spelling_of_its_name() -> None:
    assert {"pytest_cov", "pytest_cov.plugin"} <= modules("pytest-cov")
    assert modules("pytest-cov") == modules("Pytest_Cov")
    (root,) = resolve(["pytest.cov"], "roots")
    assert root.key == f"pytest-cov {importlib.metadata.version('pytest-cov')}"


def test_distribution_files_exist_and_have_stable_names() -> None:
    (root,) = resolve(["pytest-cov"], "roots")
    for file in root.files():
        assert Path(file.path).is_file()
        assert "/" not in file.module


def test_folder_skips_hidden_vendored_and_virtual_environments(tmp_path: Path) -> None:
    for name in ("main.py", "package/__init__.py", "package/inner/part.py", "notes.txt", "tests/test_main.py"):
        write(tmp_path / name)
    for name in (".hidden/a.py", "venv/b.py", "node_modules/c.py", "__pycache__/d.py", "vendor/e.py"):
        write(tmp_path / name)
    write(tmp_path / "venv" / "pyvenv.cfg")
    assert modules(str(tmp_path)) == {"main", "package", "package.inner.part", "tests.test_main"}


def test_folder_inside_a_package_is_named_after_the_package(tmp_path: Path) -> None:
    for name in ("outer/__init__.py", "outer/vendor/__init__.py", "outer/vendor/part.py"):
        write(tmp_path / name)
    assert modules(str(tmp_path / "outer" / "vendor")) == {"outer.vendor", "outer.vendor.part"}


def test_folder_key_follows_every_change(tmp_path: Path) -> None:
    file = write(tmp_path / "a.py", "x = 1")

    def key() -> str:
        (root,) = resolve([str(tmp_path)], "roots")
        return root.key

    keys = [key(), key()]
    write(file, "x = 12")
    keys.append(key())
    os.utime(file, ns=(1, 1))
    keys.append(key())
    write(tmp_path / "b.py")
    keys.append(key())
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_requirements_stand_for_what_is_installed(tmp_path: Path) -> None:
    lines = [
        "# pins",
        "-r other.txt",
        "pytest-cov==1.0  # x",
        "iniconfig[extra] ; python_version > '3'",
        "absent==1",
        "",
    ]
    file = write(tmp_path / "pins.txt", "\n".join(lines))
    assert {root.key.split()[0] for root in resolve([str(file)], "roots")} == {"pytest-cov", "iniconfig"}


def test_the_same_root_twice_counts_once(tmp_path: Path) -> None:
    file = write(tmp_path / "pins.txt", "pytest-cov\n")
    assert len(resolve(["stdlib", "pytest-cov", str(file), "stdlib"], "roots")) == 2


def test_a_distribution_comes_before_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "pytest-cov" / "mine.py")
    monkeypatch.chdir(tmp_path)
    assert "mine" not in modules("pytest-cov")
    assert modules("./pytest-cov") == {"mine"}


@pytest.mark.parametrize(
    ("roots", "message"),
    [
        ([], r"^data\.init_args\.roots: expected at least one root; got an empty list"),
        (["no-such-thing"], r"^data\.init_args\.roots: expected `stdlib`, .*; got 'no-such-thing'"),
        (["./no/such/folder"], r"got '\./no/such/folder', which is none of them"),
        ([""], r"got '', which is none of them"),
        (["absent.txt"], r"expected a requirements file; got 'absent\.txt', which does not exist"),
    ],
)
def test_what_stands_for_nothing_is_refused(roots: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        resolve(roots, "data.init_args.roots")
    assert "\n" not in str(caught.value)


def test_requirements_of_which_nothing_is_installed_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "pins.txt", "absent-thing==1\nother-absent-thing==2\n")
    with pytest.raises(DataError, match="names 2, none of them installed"):
        resolve([str(file)], "roots")


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("package.part", ""),
        ("package.contest", ""),
        ("latest", ""),
        ("package.tests.part", "test"),
        ("package.testing.part", "test"),
        ("package.test_part", "test"),
        ("package.part_test", "test"),
        ("package.tests", "test"),
        ("package.conftest", "test"),
        ("pip._vendor.rich.console", "vendored"),
        ("package.third_party.part", "vendored"),
        ("package.messages_pb2", "generated"),
    ],
)
def test_modules_left_out_by_name(module: str, reason: str) -> None:
    assert left_out(module) == reason


def test_normalised_names() -> None:
    assert normalised("Ruamel.Yaml__clib-X") == "ruamel-yaml-clib-x"
