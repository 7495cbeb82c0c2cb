from collections.abc import Sequence
from pathlib import Path

import pytest

from srch3.commands.calling import call
from srch3.usage import UsageError


def gather(names: Sequence[str] = ("a",), other: str = "", switch: bool = False) -> tuple[list[str], str, bool]:
    """Gathers ``names``.

    Args:
        names: Some, such as ``a``.
        other: A text.
        switch: Yes or no.
    """
    return list(names), other, switch


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--names", "b,c@10"], ["b", "c@10"]),
        (["--names=b,c@10"], ["b", "c@10"]),
        (["--names", "b"], ["b"]),
        (["--names", "[b, c]"], ["b", "c"]),
        (["--names=[b]"], ["b"]),
        (["--names="], []),
        ([], ["a"]),
    ],
)
def test_lists_do_without_brackets(words: list[str], expected: list[str]) -> None:
    assert call(gather, words, "") == (expected, "", False)


def test_other_options_are_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text("names: [x, y]\n")
    words = ["--config", str(tmp_path / "some.yaml"), "--other", "b,c", "--switch"]
    assert call(gather, words, "") == (["x", "y"], "b,c", True)
    with pytest.raises(UsageError, match="names"):
        call(gather, ["--names", "--switch"], "")


def test_help_quotes_what_is_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call(gather, ["--help"], "")
    shown = capsys.readouterr().out
    assert "Gathers 'names'." in shown
    assert "such as 'a'" in shown
    assert "`" not in shown
