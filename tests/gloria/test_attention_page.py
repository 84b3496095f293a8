"""The attention page: whole in itself, escaped, and in a real browser it draws what it should, by pointer and key."""

import base64
import json
import os
import re
import shutil
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from gloria.attention import (
    attention_page,
    content_words,
    regions_view,
    word_attention,
)
from gloria.attention import page as page_module
from gloria.attention.figure import SEE_THROUGH, scale_top
from gloria.attention.localization import in_image
from gloria.attention.page import word_spans
from gloria.cli import app
from gloria.data import read_table, write_phantoms
from gloria.small import small_model

WIDTH, HEIGHT = 300, 200
REPORT = "Small LEFT  effusion,\nno </p><script>window.hacked = 1</script> & \"naïve\" 'end' — e\u0301paisse."
TITLE = "A <b>title</b> & </title><script>window.hacked = 2</script>"


@pytest.fixture(scope="module")
def small():
    return small_model([REPORT.lower()] * 2)


@pytest.fixture(scope="module")
def mask():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[50:150, 200:] = True
    return mask


@pytest.fixture(scope="module")
def synthetic(small, mask):
    """A page of attention that is known, none of it even; its words, maps, and the HTML."""
    model, processor = small
    words, maps = word_attention(model, processor, np.zeros((HEIGHT, WIDTH), np.uint8), REPORT)
    random = np.random.default_rng(0)
    maps = random.gamma(0.3, size=maps.shape).astype(np.float32)
    maps /= maps.sum((1, 2), keepdims=True)
    image = random.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "word_attention", lambda *_: (words, maps))
        return words, maps, attention_page(model, processor, image, REPORT, mask.astype(np.uint8), TITLE)


class Reader(HTMLParser):
    """Collects the tags and the text inside #report."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.inside = [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside |= tag == "p" and dict(attributes).get("id") == "report"

    def handle_endtag(self, tag):
        self.inside &= tag != "p"

    def handle_data(self, data):
        self.text += data if self.inside else ""


def test_the_report_stands_there_as_it_was_written(synthetic):
    words, _, page = synthetic
    reader = Reader(page)
    assert reader.text == REPORT
    told = [attributes for tag, attributes in reader.tags if attributes.get("class") == "word"]
    assert len(told) == len(content_words(words))
    assert len([tag for tag, _ in reader.tags if tag == "script"]) == 3  # the page's own


def test_nothing_is_asked_of_anyone(synthetic):
    _, _, page = synthetic
    assert "default-src 'none'" in page
    sources = [
        value
        for _, attributes in Reader(page).tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action")
    ]
    assert len(sources) == 1
    assert sources[0].startswith("data:image/jpeg;base64,")
    assert not re.findall(r"https?:|url\(|@import|fetch\(|XMLHttpRequest", page)


def test_spans_cover_the_words_in_the_order_of_the_attention(small):
    model, processor = small
    words, _ = word_attention(model, processor, np.zeros((9, 9), np.uint8), REPORT)
    spans = word_spans(processor, REPORT)
    assert len(spans) == len(words)
    for word, (start, stop) in zip(words, spans, strict=True):
        if REPORT[start:stop].isascii():
            assert REPORT[start:stop].lower() == word


def test_what_the_model_does_not_read_is_shown_as_such(small):
    model, processor = small
    report = "left " * 120
    page = attention_page(model, processor, np.zeros((9, 9), np.uint8), report)
    reader = Reader(page)
    assert reader.text == report
    assert page.count('class="word"') == processor.max_length - 2
    unread = re.search(r'class="unread"[^>]*>([^<]*)<', page)[1]
    assert unread.split() == ["left"] * (120 - processor.max_length + 2)


@pytest.mark.parametrize("report", ["", "...", "  \n"])
def test_reports_without_words_have_a_page(small, report):
    model, processor = small
    page = attention_page(model, processor, np.zeros((9, 9), np.uint8), report)
    assert Reader(page).text == report


def test_the_outline_runs_along_the_mask(synthetic):
    path = re.search(r'class="finding" d="([^"]+)"', synthetic[2])[1]
    points = np.array(re.findall(r"([-\d.]+) ([-\d.]+)", path), float)
    assert np.abs(points.min(0) - [200, 50]).max() < 1
    assert np.abs(points.max(0) - [WIDTH, 150]).max() < 1
    on_edge = np.abs(points - [200, 0])[:, 0] < 1
    on_edge |= (np.abs(points[:, 1, None] - [50, 150]) < 1).any(1) | (np.abs(points[:, 0] - WIDTH) < 1)
    assert on_edge.all()


def test_a_mask_of_another_size_is_refused(small):
    model, processor = small
    with pytest.raises(ValueError, match="mask has 9 x 8 pixels and image 9 x 9; expected equal sizes"):
        attention_page(model, processor, np.zeros((9, 9), np.uint8), "left", np.ones((8, 9), bool))


# In a browser.


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright (pip install playwright)")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on the path (on Debian: apt-get install chromium)")
    # The sandbox of a browser refuses to run as root.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=path, args=flags)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser, synthetic, tmp_path):
    """The page in a browser without a network; it must have asked for nothing but itself and reported no error."""
    (tmp_path / "attention.html").write_text(synthetic[2], encoding="utf-8")
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 700})
    page = context.new_page()
    requested, faults = [], []
    page.on("request", lambda request: requested.append(request.url))
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    url = (tmp_path / "attention.html").as_uri()
    page.goto(url)
    yield page
    assert [each for each in requested if not each.startswith("data:")] == [url]
    assert not faults
    context.close()


def overlay(page):
    """What is drawn over the image, (height, width, 4) in [0, 1]."""
    url = page.evaluate("document.getElementById('overlay').toDataURL('image/png')")
    return np.asarray(Image.open(BytesIO(base64.b64decode(url.split(",")[1]))), float) / 255


def expected_overlay(model, processor, maps, told, which):
    """The same by the mapping of the localization figures and the colors of the grid; -1 is the mean."""
    relative = maps * maps[0].size
    top = scale_top(relative[told])
    drawn = relative[told].mean(0) if which < 0 else relative[told[which]]
    level = np.clip((drawn - 1) / (top - 1), 0, 1)
    framing = processor.image_processor
    view = regions_view(model.config, framing, WIDTH, HEIGHT, level.shape)
    level, seen = in_image(level, view, (HEIGHT, WIDTH), framing.field_of_view(WIDTH, HEIGHT))
    return SEE_THROUGH(level) * seen[..., None]


def assert_drawn(page, small, synthetic, which):
    words, maps, _ = synthetic
    got, want = overlay(page), expected_overlay(*small, maps, content_words(words), which)
    assert got.shape == want.shape
    # Opacity to two steps of 256 levels (each at most 0.025 where it rises fastest); colors only where there is one.
    assert np.abs(got[..., 3] - want[..., 3]).max() < 0.05
    strong = want[..., 3] > 0.2
    assert strong.any()
    assert np.abs(got[strong][:, :3] - want[strong][:, :3]).max() < 0.03


def test_pointing_at_a_word_draws_its_attention(opened, small, synthetic):
    """Where the figures of localization put it, pixel by pixel; and the screen changes."""
    assert_drawn(opened, small, synthetic, -1)
    words = opened.locator(".word")
    before, place = opened.locator("figure").screenshot(), words.nth(2).bounding_box()
    words.nth(2).hover()
    assert_drawn(opened, small, synthetic, 2)
    assert opened.locator("figure").screenshot() != before
    assert words.nth(2).bounding_box() == place  # or it would run from the pointer
    assert opened.locator("#told b").text_content() == "effusion"
    opened.mouse.move(1, 1)
    assert_drawn(opened, small, synthetic, -1)
    assert opened.locator("figure").screenshot() == before


def test_a_click_keeps_a_word(opened, small, synthetic):
    words = opened.locator(".word")
    words.nth(1).click()
    assert words.nth(1).get_attribute("aria-pressed") == "true"
    words.nth(3).hover()
    assert_drawn(opened, small, synthetic, 3)
    opened.mouse.move(1, 1)
    opened.evaluate("document.activeElement.blur()")
    assert_drawn(opened, small, synthetic, 1)
    opened.locator("#whole").click()
    opened.mouse.move(1, 1)
    assert_drawn(opened, small, synthetic, -1)
    assert words.nth(1).get_attribute("aria-pressed") == "false"


def test_keys_do_what_the_pointer_does(opened, small, synthetic):
    opened.keyboard.press("Tab")
    focused = "document.activeElement.textContent"
    assert opened.evaluate(focused) == "Small"
    assert_drawn(opened, small, synthetic, 0)
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("ArrowRight")
    assert opened.evaluate(focused) == "effusion"
    opened.keyboard.press("Enter")
    opened.keyboard.press("ArrowLeft")
    assert_drawn(opened, small, synthetic, 1)
    opened.keyboard.press("Tab")  # one stop for all words; the kept one shows when the focus leaves
    assert opened.evaluate("document.activeElement.id") == "whole"
    assert_drawn(opened, small, synthetic, 2)
    opened.keyboard.press("Escape")
    assert_drawn(opened, small, synthetic, -1)


def test_opacity_and_outline(opened):
    figure = opened.locator("figure")
    full = figure.screenshot()
    opened.locator("#opacity").fill("0")
    bare = figure.screenshot()
    assert bare != full
    opened.locator(".word").nth(1).hover()
    assert figure.screenshot() == bare
    opened.locator("#outlined").uncheck()
    assert figure.screenshot() != bare
    opened.locator("#outlined").check()
    opened.locator("#opacity").fill("100")
    opened.mouse.move(1, 1)
    opened.evaluate("document.activeElement.blur()")
    assert figure.screenshot() == full


def test_text_is_text(opened):
    assert opened.evaluate("window.hacked") is None
    assert opened.title() == TITLE
    assert opened.locator("h1").text_content() == TITLE
    assert opened.locator("#report").text_content() == REPORT


def test_the_policy_stops_a_page_that_was_tampered_with(browser, synthetic, tmp_path):
    """The promise is the browser's to keep, not only the template's."""
    tampered = synthetic[2].replace('"use strict";', '"use strict"; fetch("https://example.org/").catch(() => 0);')
    (tmp_path / "attention.html").write_text(tampered, encoding="utf-8")
    page = browser.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto((tmp_path / "attention.html").as_uri())
    assert any("Content Security Policy" in line for line in said)
    page.close()


# The command.


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    for part in small:
        part.save_pretrained(folder)
    return folder


def attend(run, *arguments):
    return CliRunner().invoke(app, ["attend", str(run), "--cpu", *map(str, arguments)])


def test_a_row_of_a_table_with_its_outline(run, tmp_path):
    table = write_phantoms(tmp_path, 3, size=64)
    result = attend(run, "--table", table, "--line", 3, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"wrote attention.png and attention.html to {tmp_path / 'out'}" in result.output
    page = (tmp_path / "out" / "attention.html").read_text(encoding="utf-8")
    assert Reader(page).text == read_table(table)[1].report
    assert 'class="finding"' in page
    assert np.asarray(Image.open(tmp_path / "out" / "attention.png")).std() > 0


def test_an_image_and_a_text(run, tmp_path):
    Image.new("L", (50, 40)).save(tmp_path / "image.png")
    given = ["--image", tmp_path / "image.png", "--report", "No effusion.", "--out", tmp_path / "out"]
    assert attend(run, *given).exit_code == 0
    page = (tmp_path / "out" / "attention.html").read_text(encoding="utf-8")
    assert 'class="finding"' not in page
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page)[1])
    assert data["grid"] == [10, 10]
    assert len(data["peaks"]) == 3  # the mean, and two words
    Image.new("L", (50, 40), 255).save(tmp_path / "mask.png")
    assert attend(run, *given, "--mask", tmp_path / "mask.png").exit_code == 0
    assert 'class="finding"' in (tmp_path / "out" / "attention.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected either --image and --report (and --mask, if there is one), or --table and --line"),
        (["--image", "a.png"], "expected either --image and --report"),
        (["--image", "a.png", "--report", "a", "--table", "b.csv", "--line", "2"], "expected either --image and"),
        (["--table", "TABLE"], "expected either --image and --report"),
        (["--table", "TABLE", "--line", "9"], "starts on line 9; the first does on 2, the last on 5"),
        (["--table", "TABLE", "--line", "4"], "line 4: 1 fields where the header has 2"),
        (["--table", "TABLE", "--line", "3"], "line 3: the image is not named"),
        (["--image", "none.png", "--report", " "], "--report is empty; expected some words"),
        (["--table", "TABLE", "--line", "5"], "line 5: the report is empty; expected some words"),
        (["--image", "none.png", "--report", "a"], "none.png cannot be read as an image"),
    ],
)
def test_mistakes_end_in_a_line(run, tmp_path, arguments, message):
    (tmp_path / "table.csv").write_text("image,report\na.png,Words.\n,Words.\nb.png\nc.png,\n")
    given = [str(tmp_path / "table.csv") if argument == "TABLE" else argument for argument in arguments]
    result = attend(run, "--out", tmp_path / "out", *given)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()
