"""The page in a real browser, from a file, without a network: what it shows, its filters, and that text stays text.

Needs Debian's ``chromium-headless-shell`` or another Chromium; skipped where there is none.
"""

from __future__ import annotations

import re
import shutil

import pytest
from fake_sweep import cell, declare, measured, training, written

from pcr_run.report import build

playwright = pytest.importorskip("playwright.sync_api")
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for found in map(shutil.which, NAMES) if found), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium-headless-shell")

NASTY = [
    "</script><script>window.hacked = 1</script>",
    '<img src="https://example.invalid/x.png" onerror="window.hacked = 2">',
    "one\u2028two\u2029three <!-- <script>",
    "x" * 200_000,
    "\\frac{1}{2} $x^2$ \\boxed{7}",
    '"><svg onload="window.hacked = 3">',
    "javascript:window.hacked = 4 {{ 7 * 7 }} ${7 * 7}",
    "\u202eright to left \u0000 nul",
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    sweep = tmp_path_factory.mktemp("sweep")
    names = []
    for rule in ("none", "pcr"):
        rollouts = [
            written(step, f"{rule} answer {step}", reward=step / 10, verdict="correct" if step % 2 else "wrong")
            for step in range(1, 61)
        ]
        rollouts += [written(99, text, verdict="unparsed", item=text[:50], detail=text[:50]) for text in NASTY]
        names.append(cell(sweep, rule, 0, [0.1], [0.4], metrics=training(), layers=measured(), rollouts=rollouts))
    names.append(cell(sweep, NASTY[1].replace("/", "_"), 0, [0.1], [0.4], task="code", rollouts=[written(1)]))
    title = NASTY[0] + NASTY[1]
    table = {"rows": ["task.name", "resolver.name"], "against": {"resolver.name": "none"}}
    figures = [{"kind": "curves", "title": title}, {"kind": "heatmap"}]
    declare(sweep, "e", names, title=title, tables=[table], figures=figures)
    return build.write([sweep])


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        started = p.chromium.launch(executable_path=CHROMIUM)
        yield started
        started.close()


class Visit:
    """A page with all that it asked for and complained about."""

    def __init__(self, browser, report, width=1280, height=800):
        self.context = browser.new_context(viewport={"width": width, "height": height})
        self.page = self.context.new_page()
        self.requests, self.errors = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(report.as_uri())

    def rows(self):
        return self.page.locator("#responses tbody tr.row").all_inner_texts()

    def count(self):
        return self.page.locator("#count").inner_text()

    def fill(self, name, value):
        self.page.locator(f"#filters [name={name}]").fill(value)

    def choose(self, name, value):
        self.page.locator(f"#filters [name={name}]").select_option(label=value)


@pytest.fixture
def visit(browser, report):
    """At the end nothing was loaded, nothing complained, and no hostile text has run."""
    made = Visit(browser, report)
    yield made
    assert [url for url in made.requests if not url.startswith("data:")] == [report.as_uri()]
    assert made.errors == []
    assert made.page.evaluate("window.hacked") is None
    made.context.close()


def test_tables_and_figures_are_there(visit):
    page = visit.page
    assert page.locator("h1").inner_text() == page.title() != ""
    assert "before training" in page.locator("table").first.inner_text()
    images = page.locator("figure img")
    assert images.count() == 2
    sizes = images.evaluate_all("found => found.map(image => image.naturalWidth)")
    assert all(size > 300 for size in sizes)


def test_hostile_text_is_shown_as_text(visit):
    page = visit.page
    assert NASTY[0] in page.locator("#section-1 h2").inner_text()
    visit.choose("verdict", "unparsed")
    assert visit.count() == f"{2 * len(NASTY)} of 137 transcripts"
    for row in range(len(NASTY)):
        page.locator("#responses tbody tr.row").nth(row).click()
    shown = page.locator("#responses td.whole pre").evaluate_all("found => found.map(pre => pre.textContent)")
    for text in NASTY:
        assert any(pre == text or (len(text) > 9000 and "characters left out" in pre) for pre in shown)
    assert page.locator("#responses img, #responses svg, #responses script").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_filters_find_what_they_say(visit):
    assert visit.count() == "137 of 137 transcripts, the first 50 shown"
    visit.choose("verdict", "correct")
    visit.fill("first", "11")
    visit.fill("last", "20")
    assert visit.count() == "10 of 137 transcripts"
    visit.choose("run", "math-pcr-0-")
    assert [row.split("\t")[-1] for row in visit.rows()] == [f"pcr answer {step}" for step in (11, 13, 15, 17, 19)]
    visit.fill("low", "1.5")
    visit.fill("high", "1.8")
    assert len(visit.rows()) == 2
    visit.page.locator("#filters button").click()
    visit.page.locator("#count").filter(has_text=re.compile("^137 of")).wait_for()
    visit.fill("text", "ANSWER 60")
    assert visit.count() == "2 of 137 transcripts"
    visit.choose("task", "code")
    assert visit.rows() == []


def test_headings_sort_both_ways_and_more_can_be_shown(visit):
    page = visit.page
    heading = page.get_by_role("button", name="reward")
    heading.click()
    assert page.locator("#responses th[aria-sort=ascending]").inner_text() == "reward"
    visit.choose("verdict", "wrong")
    rewards = [float(row.split("\t")[4]) for row in visit.rows()]
    assert rewards == sorted(rewards)
    heading.click()
    rewards = [float(row.split("\t")[4]) for row in visit.rows()]
    assert rewards == sorted(rewards, reverse=True)
    page.locator("#filters button").click()
    page.locator("#count").filter(has_text=re.compile("^137 of")).wait_for()
    for shown in (50, 100, 137):
        assert len(visit.rows()) == shown
        if shown < 137:
            page.locator("#more").click()
    assert page.locator("#more").is_hidden()


def test_a_row_opens_by_keyboard_and_closes_again(visit):
    row = visit.page.locator("#responses tbody tr.row").first
    row.focus()
    row.press("Enter")
    assert visit.page.locator("#responses td.whole").count() == 1
    row.press("Enter")
    assert visit.page.locator("#responses td.whole").count() == 0


def test_a_phone_needs_no_sideways_scrolling_of_the_page(browser, report):
    made = Visit(browser, report, 390, 844)
    made.page.locator("#responses tbody tr.row").first.click()
    assert made.page.evaluate("document.documentElement.scrollWidth") == 390
    assert made.errors == []
    made.context.close()
