"""The page of `minihmx report` in a real browser: nothing runs but its own script, and that works.

Chromium opens the page from the disk, as a reader does.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import browser, resize
from command_line import in_process
from test_report import poison

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair with a benchmark, as tiny's experiment leaves it, reported on as `page.html`."""
    folder = Path(shutil.copytree(pair, tmp_path_factory.mktemp("page") / "runs"))
    both = [folder / "tiny" / direction / "seed-1" for direction in ("forward", "reverse")]
    adapters = [word for run in ("base", *both) for word in ("--adapter", run)]
    asked = ["--tasks", "are_you_sure", "--limit", 6, "--data", "sample", "--out", folder]
    for words in (["select", *both], ["eval", "tiny", *asked, *adapters]):
        done = in_process(*words)
        assert done.returncode == 0, done.stderr
    done = in_process("report", folder, "--out", folder.parent / "page.html")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(driver: Any, folder: Path) -> Iterator[Any]:
    """The page, freshly opened; afterwards the console has to be empty."""
    resize(driver, 1280)
    driver.get((folder.parent / "page.html").as_uri())
    yield driver
    assert driver.get_log("browser") == []


def shown(page: Any, what: str) -> int:
    """How many elements can be seen, or could be if what folds them were open."""
    script = "return [...document.querySelectorAll(arguments[0])].filter(e => !e.closest('.out'))"
    return len(page.execute_script(script, what))


def choose(page: Any, field: str, value: str) -> None:
    """Put a value into a search or filter field as a person does, and wait for the answer."""
    page.execute_async_script(
        "const [id, value, done] = arguments, field = document.getElementById(id);"
        "field.value = value; field.dispatchEvent(new Event('input', {bubbles: true}));"
        "setTimeout(done, 300)",
        *(field, value),
    )


def press(page: Any, keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(page).send_keys(keys).perform()


def test_filters_leave_what_they_ask_for(page: Any) -> None:
    answers = shown(page, "article.answer")
    choose(page, "side", "reverse")
    assert shown(page, "article.answer.forward") == shown(page, "article.answer.base") == 0
    assert 0 < shown(page, "article.answer.reverse") < answers
    choose(page, "side", "")
    assert shown(page, "article.answer") == answers
    category = page.execute_script("return document.querySelector('.row').dataset.category")
    rows = shown(page, ".row")
    choose(page, "category", category)
    assert 0 < shown(page, f'.row[data-category="{category}"]') == shown(page, ".row") < rows
    choose(page, "category", "are_you_sure")
    assert shown(page, "#items .row") == shown(page, ".row") > 0
    choose(page, "category", "")
    for verdict in ("scored", "up", "down", "low"):
        choose(page, "verdict", verdict)
        found = f'article.answer[data-verdict~="{verdict}"]'
        assert shown(page, f"{found}.found") == shown(page, found) == shown(page, ".found")
        assert shown(page, f".row:not(:has({found}))") == 0
    count = page.execute_script("return document.getElementById('count').textContent")
    assert count == f"{shown(page, '.row')} found in {shown(page, '.card')} cards"


def test_search_finds_words_and_says_when_there_are_none(page: Any) -> None:
    parts = shown(page, ".part")
    words = page.execute_script("return document.querySelector('.said.words').textContent")
    choose(page, "search", words[:30].upper())
    assert 0 < shown(page, ".row") < 30
    choose(page, "search", "no answer holds these words")
    assert shown(page, ".row") == shown(page, ".part") == 0  # what has no answers goes as well
    assert (
        page.execute_script("return document.getElementById('count').textContent")[:7] == "0 found"
    )
    page.execute_script("document.getElementById('clear').click()")
    choose(page, "verdict", "")
    assert shown(page, ".part") == parts and shown(page, ".row") > 30


def test_the_keyboard_reaches_everything(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    press(page, "j")
    focused = "return document.activeElement.closest('.card')"
    first = page.execute_script(focused)
    press(page, Keys.ENTER)
    assert page.execute_script("return arguments[0].open", first)
    press(page, "j")
    assert page.execute_script(focused) != first
    press(page, "k")
    assert page.execute_script(focused) == first
    press(page, "e")
    own = "return [...arguments[0].closest('.part').querySelectorAll('.card')].map(e => e.open)"
    opened = page.execute_script(own, first)
    assert len({*opened}) == 1
    press(page, "e")
    assert page.execute_script(own, first) == [not state for state in opened]
    theme = "return getComputedStyle(document.body).backgroundColor"
    before = page.execute_script(theme)
    press(page, "t")
    assert page.execute_script(theme) != before
    press(page, "?")
    assert page.execute_script("return !document.getElementById('keys').hidden")
    press(page, "/")
    press(page, "tek?")  # letters that are typed are no commands
    assert page.execute_script("return document.getElementById('search').value") == "tek?"
    press(page, Keys.ESCAPE)
    assert page.execute_script("return document.getElementById('search').value") == ""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_it_fits_every_screen_in_both_themes(page: Any, width: int, theme: str) -> None:
    resize(page, width, theme=theme)
    page.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
    too_wide = page.execute_script(
        "return [...document.querySelectorAll('main *')]"
        ".filter(e => !e.closest('.scroll, pre, svg'))"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 99))"
    )
    assert too_wide == []
    contrast = page.execute_script(CONTRAST)
    assert contrast["worst"] >= 4.5, contrast  # WCAG AA for text of this size


CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgb = (...colours) => {
  canvas.clearRect(0, 0, 1, 1);
  for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const light = (c) => c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 :
  ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
let worst = {worst: 99};
for (const e of document.querySelectorAll('p, h1, h2, h4, h5, th, td, mark, span, li, a, code')) {
  if (!e.textContent.trim() || !e.getClientRects().length) continue;
  if (e.closest('svg, [hidden], .skip')) continue;
  const behind = [];
  for (let at = e; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
  const back = light(rgb(...behind)), front = light(rgb(...behind, getComputedStyle(e).color));
  const ratio = (Math.max(back, front) + 0.05) / (Math.min(back, front) + 0.05);
  if (ratio < worst.worst) worst = {worst: ratio, element: e.outerHTML.slice(0, 200)};
}
return worst;
"""


def test_it_is_labelled_for_screen_readers(page: Any) -> None:
    unnamed = page.execute_script(
        "return [...document.querySelectorAll('svg, input, select, #theme, #help, table, .part')]"
        ".filter(e => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') ||"
        " e.closest('[role=region][aria-label]'))).map(e => e.outerHTML.slice(0, 99))"
    )
    assert unnamed == []
    levels = page.execute_script(
        "return [...document.querySelectorAll('h1, h2')].map(e => e.tagName)"
    )
    assert levels[0] == "H1" and levels.count("H1") == 1
    ids = page.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def test_all_of_it_is_printed(page: Any) -> None:
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert (
        page.execute_script("return document.querySelectorAll('details:not([open])').length") == 0
    )


def test_without_script_nothing_is_hidden(driver: Any, folder: Path) -> None:
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        driver.get((folder.parent / "page.html").as_uri())
        shown_filters = driver.find_element("css selector", ".filters").is_displayed()
        card = driver.find_element("css selector", "#sides .card")
        card.find_element("css selector", "summary").click()
        assert card.find_element("css selector", "article.answer").is_displayed()
        assert not shown_filters
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_hostile_texts_do_nothing(driver: Any, folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "runs"))
    texts = poison(own)
    done = in_process("report", own, "--out", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    driver.get((tmp_path / "page.html").as_uri())
    state = driver.execute_script(
        "document.querySelectorAll('details').forEach(e => e.open = true);"
        "return [typeof hacked, document.scripts.length, document.images.length,"
        " document.querySelectorAll('iframe, base, link, object, embed').length,"
        " document.forms.length, document.querySelectorAll('main').length]"
    )
    assert state == ["undefined", 1, 0, 0, 1, 1]
    choose(driver, "search", texts[0])
    assert shown(driver, ".row") > 0
    assert driver.get_log("browser") == []
