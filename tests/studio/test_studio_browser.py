"""The page in a real browser, as a visitor uses it."""

import json
import re
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

import clearclip
from clearclip.scenes import CLASSES, make_scene
from clearclip.studio.scenes import SCENES

pytestmark = pytest.mark.timeout(1200)

PATIENCE = 120_000
"""Milliseconds that one step may take: nothing here asks how fast it is, and a shared machine is slow."""
PICTURE = "() => document.querySelector('#viewer canvas').toDataURL()"
DRAWN = "() => document.querySelector('#viewer [data-ready]')?.dataset.drawn"
STORED = "() => localStorage.getItem('clearclip-studio')"
CONTROLS = {"ColorWell", "application", "button", "checkbox", "combobox", "radio", "slider", "spinbutton", "tab"}
CONTROLS |= {"link", "textbox"}
PASTE = """async ([width, height]) => {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext('2d').fillRect(0, 0, width, height);
  const clipboardData = new DataTransfer();
  const blob = await new Promise((done) => canvas.toBlob(done));
  clipboardData.items.add(new File([blob], 'image.png', { type: 'image/png' }));
  document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true }));
}"""


@contextmanager
def opened(browser, server, **options):
    """A page of a visitor of their own; what it asks of other hosts and its errors are collected."""
    context = browser.new_context(**{"viewport": {"width": 1360, "height": 950}, **options})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.strange, page.errors = [], []
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((server.url, "data:", "blob:")) else page.strange.append(request.url)
        ),
    )
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
    page.goto(server.url)
    page.wait_for_selector("#viewer [data-ready=yes]")
    try:
        yield page
    finally:
        context.close()


@pytest.fixture(scope="module")
def page(browser, server):
    with opened(browser, server) as page:
        yield page


@contextmanager
def repainted(page):
    """What happens inside makes the viewer draw a picture that differs from the one before."""
    before = [page.evaluate(PICTURE), page.evaluate(DRAWN)]
    yield
    page.wait_for_function(f"([picture, drawn]) => ({DRAWN})() !== drawn && ({PICTURE})() !== picture", arg=before)


@contextmanager
def stored(page):
    """What happens inside is kept in the browser."""
    before = page.evaluate(STORED)
    yield
    page.wait_for_function(f"(before) => ({STORED})() !== before", arg=before)


def says(page, text):
    """Wait until the status says something."""
    page.wait_for_function("(text) => document.querySelector('#status').innerText.includes(text)", arg=text)


TABS = {
    "Segment": "#opacity",
    "Compare": "#comparison figure",
    "Heat maps": "#heat figure",
    "Inspect": "#parts figure",
    "What else is here": "#look",
    "Export": "#command .cm-line",
}
"""By name: something that is there once the tab is filled."""


def status(page):
    return page.locator("#status").inner_text()


def legend(page):
    return page.locator("#viewer .cc-legend span").all_inner_texts()


def tab(page, name):
    page.get_by_role("tab", name=name).click()


def choose(page, place, option):
    box = page.locator(f"{place} input").first
    box.click()
    box.fill(option)
    box.press("Enter")


def test_first_load_shows_a_labelled_scene_and_asks_nobody_else(page):
    scene = make_scene(SCENES[0], size=(384, 480))
    present = {CLASSES[index] for index in np.unique(scene.label_map)}
    assert set(legend(page)) <= present
    assert "480×384" in status(page)
    shares = [float(text.split()[0]) for text in page.locator("#viewer .cc-legend b").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=1)
    assert page.strange == []
    assert page.errors == []


def test_every_control_has_a_name_in_the_accessibility_tree(browser, server):
    with opened(browser, server) as page:
        page.get_by_role("button", name="Background and prompts").click()
        chromium = page.context.new_cdp_session(page)
        found, nameless = set(), []
        for name, content in TABS.items():
            tab(page, name)
            page.wait_for_selector(content)
            for node in chromium.send("Accessibility.getFullAXTree")["nodes"]:
                role = node.get("role", {}).get("value")
                if node["ignored"] or role not in CONTROLS:
                    continue
                found.add(role)
                if not node.get("name", {}).get("value", "").strip():
                    described = chromium.send("DOM.describeNode", {"backendNodeId": node["backendDOMNodeId"]})
                    nameless.append((name, role, described["node"]["attributes"]))
        assert nameless == []
        assert found == CONTROLS


def test_new_words_change_the_picture_and_run_no_encoder(page):
    name = page.locator("#labels .cc-name").first
    with repainted(page):
        name.fill("mountain")
    assert "mountain" in legend(page)
    assert "no encoder ran" in status(page)
    with repainted(page):
        page.locator("#labels .cc-synonyms").first.fill("air, sky")


def test_rows_of_labels_by_keyboard(page):
    count = page.locator("#labels li").count()
    page.locator("#labels .cc-name").last.focus()
    page.keyboard.press("Enter")
    page.keyboard.type("lighthouse")
    page.wait_for_selector("#viewer .cc-legend span:text-is('lighthouse')")
    assert page.locator("#labels li").count() == count + 1
    page.locator("#labels .cc-name").last.fill("")
    page.keyboard.press("Backspace")
    page.wait_for_selector("#viewer .cc-legend span:text-is('lighthouse')", state="detached")
    assert page.locator("#labels li").count() == count


def test_a_colour_of_ones_own(page):
    with repainted(page):
        page.locator("#labels .cc-color").first.fill("#ff0000")
    assert "no encoder ran" in status(page)
    assert "rgb(255, 0, 0)" in page.locator("#viewer .cc-legend button", has_text="mountain").first.inner_html()


def test_opacity_needs_no_server(page):
    drawn = page.evaluate(DRAWN)
    page.locator("#opacity input[type=number]").fill("0.9")
    page.wait_for_function("() => getComputedStyle(document.querySelector('#viewer canvas')).opacity === '0.9'")
    assert page.evaluate(DRAWN) == drawn


def test_threshold_makes_a_background(page):
    page.get_by_role("button", name="Background and prompts").click()
    with repainted(page):
        page.locator("#threshold input[type=number]").fill("0.7")
        page.keyboard.press("Enter")
    assert "background" in legend(page)
    assert "no encoder ran" in status(page)


def test_another_method(page):
    with repainted(page):
        choose(page, "#method", "sclip")
    assert "sclip" in status(page)
    assert "no encoder ran" in status(page)
    choose(page, "#residual", "keep without")
    page.wait_for_selector("#beta input[type=number]")
    says(page, "beta:30")
    choose(page, "#residual", "as the method")
    choose(page, "#method", "clearclip")
    page.wait_for_function("() => /clearclip ·/.test(document.querySelector('#status').innerText)")


def test_a_pixel_by_mouse_and_by_keyboard(page):
    page.locator("#viewer .cc-stage").click(position={"x": 300, "y": 40})
    page.wait_for_selector("#ranking li")
    heading = page.locator("#ranking h4").inner_text()
    percents = [float(text.rstrip("%")) for text in page.locator("#ranking b").all_inner_texts()]
    assert percents == sorted(percents, reverse=True)
    page.locator("#viewer .cc-stage").focus()
    for _ in range(5):
        page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_function("(before) => document.querySelector('#ranking h4').innerText !== before", arg=heading)


def test_compare(page):
    tab(page, "Compare")
    page.wait_for_function("() => document.querySelectorAll('#comparison figure').length === 6")
    titles = page.locator("#comparison figcaption b").all_inner_texts()
    assert titles == ["the image", "vanilla", "maskclip", "sclip", "gem", "clearclip"]
    pictures = page.evaluate("() => [...document.querySelectorAll('#comparison img')].map((one) => one.src)")
    assert len(set(pictures)) == 6


def test_heat_maps(page):
    tab(page, "Heat maps")
    count = page.locator("#labels li").count()
    page.wait_for_function("(count) => document.querySelectorAll('#heat figure').length === count", arg=count)


def test_inspect(page):
    tab(page, "Inspect")
    page.wait_for_function("() => document.querySelectorAll('#parts figure').length === 4")
    assert page.locator("#parts figcaption b").all_inner_texts()[1:] == ["X_res", "X_attn", "X_sum"]
    before = page.locator("#parts").inner_text()
    page.get_by_role("button", name="Peak channel of X_attn").click()
    page.wait_for_function("(before) => document.querySelector('#parts').innerText !== before", arg=before)
    chosen = page.locator("#channel input[type=number]").input_value()
    caption = page.locator("#parts figcaption", has_text="X_attn").inner_text()
    assert f"channel {chosen}" in caption
    assert f"at {chosen}" in page.locator("#chart figcaption", has_text="X_attn").inner_text()
    page.get_by_label("norm of all channels").check()
    page.wait_for_function("() => document.querySelector('#parts').innerText.includes('L2 norm')")


def test_what_else_is_here(page):
    tab(page, "Segment")
    page.wait_for_selector("#viewer [data-ready=yes]")
    with repainted(page):
        page.locator("#labels .cc-synonyms").first.fill("")  # no label is the sky now
    tab(page, "What else is here")
    page.get_by_role("button", name="What else is here?").click()
    page.wait_for_selector("#found input[type=checkbox]")
    found = [text.split()[0] for text in page.locator("#found label").all_inner_texts()]
    assert "sky" in found
    known = [one.input_value() for one in page.locator("#labels .cc-name").all()]
    fresh = next(word for word in found if word not in known)
    page.locator("#found label", has_text=fresh).first.click()
    page.get_by_role("button", name="Add the chosen ones").click()
    page.wait_for_function("(count) => document.querySelectorAll('#labels li').length > count", arg=len(known))
    assert page.locator("#labels .cc-name").last.input_value() == fresh


def test_export(page, tmp_path):
    tab(page, "Export")
    page.wait_for_function("() => document.querySelector('#command').innerText.includes('clearclip segment')")
    assert "import clearclip" in page.locator("#python").inner_text()
    page.get_by_role("button", name="Make the files").click()
    page.wait_for_function("() => document.querySelectorAll('#made a[download]').length >= 4")
    links = page.evaluate("() => [...document.querySelectorAll('#made a[download]')].map((one) => one.href)")
    kinds = {}
    for link in links:
        name = link.rpartition("/")[2]
        kinds[name.partition(".")[2]] = tmp_path / name
        (tmp_path / name).write_bytes(page.request.get(link).body())
    assert set(kinds) == {"labels.png", "overlay.png", "json", "png"}
    label_map = np.asarray(Image.open(kinds["labels.png"]))
    record = json.loads(kinds["json"].read_text())
    assert label_map.shape == (record["height"], record["width"])
    for entry in record["labels"]:
        assert entry["share"] == pytest.approx((label_map == entry["index"]).mean(), abs=1e-5)


def test_reload_and_example(browser, server, tmp_path):
    with opened(browser, server) as page:
        with stored(page), repainted(page):
            page.locator("#scenes button.thumbnail-item").nth(2).click()
        with stored(page), repainted(page):
            page.locator("#labels .cc-name").first.fill("house")
        shown = legend(page)
        assert "house" in shown
        page.reload()
        page.wait_for_selector("#viewer [data-ready=yes]")
        assert legend(page) == shown
        with page.expect_download() as download:
            page.get_by_role("button", name="Save example").click()
        saved = tmp_path / "example.json"
        download.value.save_as(saved)
    with opened(browser, server) as page:
        assert legend(page) != shown
        with repainted(page):
            page.get_by_test_id("Load example-upload-button").set_input_files(saved)
        assert legend(page) == shown


def test_what_cannot_be_used_is_said(browser, server, tmp_path):
    text, large, heavy = tmp_path / "notes.png", tmp_path / "large.png", tmp_path / "heavy.png"
    text.write_text("this is no image")
    Image.new("RGB", (1200, 1000)).save(large)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)).save(heavy)
    assert heavy.stat().st_size > 2_000_000
    with opened(browser, server) as page:
        page.get_by_role("button", name="Remove all").click()
        says(page, "no label yet")
        page.locator("#labels .cc-name").first.fill("sky")
        page.wait_for_selector("#viewer [data-ready=yes]")
        for file, message in ((text, "no image that"), (large, "1,200,000 pixels, more than the limit of 1,000,000")):
            page.locator("#image input[type=file]").first.set_input_files(file)
            says(page, message)
            assert str(tmp_path) not in status(page)
            assert "gradio" not in status(page)
            page.get_by_role("button", name="Remove Image").click()
            says(page, "Choose an image")
        sent = []
        page.on("request", lambda request: sent.append(request.url) if "/upload" in request.url else None)
        page.locator("#image input[type=file]").first.set_input_files(heavy)
        says(page, f"heavy.png has {heavy.stat().st_size:,} bytes, more than the limit of 2,000,000: make it smaller")
        assert sent == []


def test_an_image_is_removed_and_another_one_pasted(browser, server):
    with opened(browser, server) as page:
        page.get_by_role("button", name="Remove Image").click()
        says(page, "Choose an image")
        page.evaluate(PASTE, [60, 40])
        says(page, "60×40")
        page.wait_for_selector("#viewer [data-ready=yes]")
        page.evaluate(PASTE, [80, 50])
        says(page, "80×50")


def test_the_camera(browser, server):
    with opened(browser, server, permissions=["camera"]) as page:
        page.get_by_role("button", name="Remove Image").click()
        says(page, "Choose an image")
        page.get_by_role("button", name="Capture from camera").click()
        page.get_by_role("button", name="Click to Access Webcam").click()
        page.wait_for_function("() => document.querySelector('#image video')?.videoWidth > 0")
        page.get_by_role("button", name="capture photo").click()
        # Chromium's imitation of a camera may give a picture over this server's limit: then its size is said as well.
        page.wait_for_function("() => /(has|·) \\d+×\\d+ /.test(document.querySelector('#status').innerText)")


def test_two_visitors_do_not_meet(browser, server):
    with opened(browser, server) as one, opened(browser, server) as other:
        before = other.evaluate(PICTURE), legend(other)
        with repainted(one):
            one.locator("#labels .cc-name").first.fill("mountain")
        assert (other.evaluate(PICTURE), legend(other)) == before
        with repainted(other):
            other.locator("#labels .cc-name").nth(1).fill("snow")
        assert "mountain" not in legend(other)
        assert "mountain" in legend(one)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(browser, server, scheme):
    with opened(browser, server, viewport={"width": 390, "height": 844}, color_scheme=scheme) as page:
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
        background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        levels = [int(part) for part in re.findall(r"\d+", background)[:3]]
        assert (max(levels) < 60) == (scheme == "dark")


def test_the_page_and_the_library_agree(page):
    tab(page, "Segment")
    page.wait_for_selector("#viewer [data-ready=yes]")
    labels = [
        {
            "name": row.locator(".cc-name").input_value(),
            "synonyms": [word.strip() for word in row.locator(".cc-synonyms").input_value().split(",") if word.strip()],
        }
        for row in page.locator("#labels li").all()
    ]
    segmenter = clearclip.load("tiny", device="cpu")
    scene = make_scene(SCENES[0], size=(384, 480))
    result = segmenter(
        scene.image,
        {label["name"]: label["synonyms"] for label in labels},
        threshold=float(page.locator("#threshold input[type=number]").input_value()),
    )
    shares = np.bincount(result.label_map.ravel(), minlength=len(result.labels)) / result.label_map.size
    percents = [float(text.split()[0]) for text in page.locator("#viewer .cc-legend b").all_inner_texts()]
    shown = dict(zip(legend(page), percents, strict=True))
    assert shown == pytest.approx(dict(zip(result.labels, 100 * shares, strict=True)), abs=0.051)
