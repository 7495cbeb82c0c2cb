from srch3.inference.streaming import Pieces

STOP = 0


def decode(tokens: list[int]) -> str:
    return bytes(tokens).decode(errors="replace").strip()


def shown(text: str) -> list[str]:
    pieces = Pieces(decode, [STOP])
    return [pieces.add(token) for token in [*text.encode(), STOP]]


def test_each_token_shows_what_it_adds() -> None:
    assert shown("abc") == ["a", "b", "c", ""]


def test_half_a_character_waits_for_its_other_half() -> None:
    assert shown("aü→b") == ["a", "", "ü", "", "", "→", "b", ""]


def test_space_waits_for_what_follows_it() -> None:
    assert shown(" a b ") == ["", "a", "", " b", "", ""]


def test_the_rest_is_what_was_not_shown() -> None:
    pieces = Pieces(decode, [STOP])
    pieces.add(ord("a"))
    assert pieces.rest("abc") == "bc"
    assert pieces.rest("abc") == ""
    assert pieces.rest("other") == ""
    assert pieces.text == "abc"
