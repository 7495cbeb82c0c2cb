"""The page in headless Chromium, as somebody uses it."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from srch3.serving.app import application
from srch3.serving.asking import Limits
from tests.serving.fakes import FakeFound, FakeHit, FakeSearcher, found_for, serving

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the page is tested with playwright (pip install -e '.[dev]')"
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
EVIL = "<img src=x onerror=\"document.title='evil'\"><script>document.title='evil'</script>"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed"),
    pytest.mark.xdist_group("chromium"),
]


class Ranked(FakeSearcher):
    """Thinking turns the hits around, and finds one more in place of another."""

    def answer(self, query: str, k: int, mode: str) -> FakeFound:
        if query == "nothing":
            return FakeFound("", 1, [])
        if query == "evil":
            return FakeFound(EVIL, 3, [FakeHit(EVIL, 0.5, EVIL)])
        names = ["a", "b", "c", "d"] if mode == "direct" else ["c", "a", "new", "d"]
        text = "\n".join(f"line {number} of a Parsed date" for number in range(20))
        found = found_for(query, 4, mode)
        return found._replace(hits=[FakeHit(name, 0.9, text) for name in names[:k]])

    def stream(self, query: str, k: int, mode: str) -> Iterator[tuple[str, Any]]:
        for part in super().stream(query, k, mode):
            yield ("found", self.answer(query, k, mode)) if part[0] == "found" else part


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as starter:
        browser = starter.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def searcher() -> Ranked:
    return Ranked()


@pytest.fixture(scope="module")
def address(searcher: Ranked) -> Iterator[str]:
    with serving(application(searcher, limits=Limits(max_query_chars=60, max_k=7))) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    page = context.new_page()
    page.set_default_timeout(20_000)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(address)
    yield page
    context.close()
    assert [text for text in complaints if "status of 4" not in text] == []


def search(page: Any, query: str, way: str = "both") -> None:
    page.locator("#about", has_text="documents").wait_for()
    page.get_by_label("side by side" if way == "both" else way, exact=True).check()
    page.get_by_label("Query", exact=True).fill(query)
    page.keyboard.press("Enter")


def finished(page: Any) -> None:
    page.get_by_role("button", name="Search").wait_for()


def test_a_query_is_searched_both_ways_side_by_side(page: Any) -> None:
    assert page.evaluate("document.activeElement.id") == "query"
    search(page, "parsed DATE")
    finished(page)
    assert page.locator("h2").all_inner_texts() == ["Thinking", "Direct"]
    assert page.locator("[data-mode=thinking] li .id").all_inner_texts() == ["c", "a", "new", "d"]
    assert page.locator("[data-mode=direct] li .id").all_inner_texts() == ["a", "b", "c", "d"]
    assert page.locator("[data-mode=thinking] .change").all_inner_texts() == ["▲ 2", "▼ 1", "new", ""]
    assert page.locator("[data-mode=thinking] .thought").inner_text() == "about parsed DATE"
    assert page.locator("[data-mode=direct] .thought").is_hidden()
    assert page.get_by_role("status").inner_text() == "3 of 4 hits are the same with and without a thought."
    assert set(page.locator("mark").all_inner_texts()) == {"Parsed", "date"}
    boxes = [page.locator(f"[data-mode={mode}]").bounding_box() for mode in ("thinking", "direct")]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert page.locator("#about").inner_text() == "searches 1,234 documents"


def test_the_thought_is_shown_while_it_is_written_and_can_be_stopped(page: Any, searcher: Ranked) -> None:
    searcher.closed.clear()
    search(page, "endless", "thinking")
    page.locator(".thought.writing", has_text="about endless..").wait_for()
    assert page.locator(".figures").inner_text() == "thinking …"
    page.get_by_role("button", name="Stop").click()
    finished(page)
    assert page.get_by_role("alert").inner_text() == "stopped"
    assert page.locator(".thought").inner_text().startswith("about endless")
    search(page, "a", "direct")
    page.locator("[data-mode=direct] li").first.wait_for()
    assert "endless" in searcher.closed


def test_enter_asks_anew_and_escape_stops(page: Any) -> None:
    search(page, "endless", "thinking")
    page.locator(".thought.writing").wait_for()
    page.get_by_label("Query", exact=True).fill("other")
    page.keyboard.press("Enter")
    page.locator(".thought:not(.writing)", has_text="about other").wait_for()
    search(page, "endless", "thinking")
    page.locator(".thought.writing").wait_for()
    page.keyboard.press("Escape")
    finished(page)
    assert page.get_by_role("alert").inner_text() == "stopped"


def test_what_was_found_is_never_taken_for_markup(page: Any) -> None:
    search(page, "evil", "thinking")
    finished(page)
    assert page.locator("li .text").inner_text() == EVIL
    assert page.locator("li .id").inner_text() == EVIL
    assert page.locator(".thought").inner_text() == EVIL
    assert page.locator("img").count() == 0
    assert page.title() == "srch3"


def test_long_documents_open_with_the_keyboard(page: Any) -> None:
    search(page, "a", "direct")
    finished(page)
    item = page.locator("li").first
    before = item.bounding_box()["height"]
    item.get_by_role("button", name="Show all").focus()
    page.keyboard.press("Enter")
    assert item.get_by_role("button", name="Show less").get_attribute("aria-expanded") == "true"
    assert item.bounding_box()["height"] > 2 * before


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("defect", "the search failed (ZeroDivisionError); the server's log says why"),
        ("refused", "mode: expected another"),
    ],
)
def test_what_went_wrong_is_shown(page: Any, query: str, message: str) -> None:
    search(page, query, "direct")
    finished(page)
    assert page.get_by_role("alert").inner_text() == message


def test_what_the_server_refuses_is_shown(page: Any) -> None:
    page.evaluate("document.getElementById('query').maxLength = 1000")
    search(page, "x" * 61, "direct")
    finished(page)
    assert page.get_by_role("alert").inner_text() == "query: expected at most 60 characters; got 61; shorten it"


def test_nothing_found_is_said(page: Any) -> None:
    search(page, "nothing")
    finished(page)
    assert page.get_by_role("status").inner_text() == "Nothing was found."


def test_a_search_has_an_address(page: Any, address: str) -> None:
    page.get_by_label("hits").fill("2")
    search(page, "a & b", "thinking")
    finished(page)
    assert page.url == f"{address}?q=a+%26+b&way=thinking&k=2"
    page.reload()
    page.locator("[data-mode=thinking] li").nth(1).wait_for()
    assert page.get_by_label("Query", exact=True).input_value() == "a & b"
    assert page.locator("[data-mode=thinking] li").count() == 2


def test_the_limits_of_the_server_are_those_of_the_page(page: Any) -> None:
    page.locator("#about", has_text="searches").wait_for()
    assert page.get_by_label("hits").get_attribute("max") == "7"
    assert page.get_by_label("hits").input_value() == "7"
    assert page.get_by_label("Query", exact=True).get_attribute("maxlength") == "60"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_one_below_the_other_in_its_colours(browser: Any, address: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 700}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{address}?q=evil")
    page.locator("[data-mode=direct] li").wait_for()
    finished(page)
    boxes = [page.locator(f"[data-mode={mode}]").bounding_box() for mode in ("thinking", "direct")]
    assert boxes[1]["y"] > boxes[0]["y"] + boxes[0]["height"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) == (scheme == "dark")
    context.close()


def test_a_server_that_is_gone_is_said(browser: Any) -> None:
    page = browser.new_page()
    with serving(application(FakeSearcher())) as port:
        page.goto(f"http://127.0.0.1:{port}/")
        page.locator("#about", has_text="searches").wait_for()
    search(page, "a", "direct")
    finished(page)
    assert page.get_by_role("alert").inner_text() == "the server cannot be reached; is it still running?"
    page.close()
