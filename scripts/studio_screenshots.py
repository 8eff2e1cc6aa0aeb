"""Take the studio's pictures of the documentation anew: `python scripts/studio_screenshots.py [NAME …]`.

Needs the extras `app` and `dev`, and a Chromium on the path. The pictures go to `docs/images/studio-*.png`, with at
most 256 colours each, so that they stay small. Run it again after the page or the embedded model has changed.

Belongs here: what is done on the page before each picture. Does not: the page, the documentation's other pictures.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from playwright.sync_api import sync_playwright

from clearclip.service.request import Limits
from clearclip.studio.server import Options, running

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
DESKTOP, PHONE = {"width": 1360, "height": 900}, {"width": 390, "height": 844}
PATIENCE = 120_000
"""Milliseconds for one step; a busy machine is slow."""


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Only these; otherwise all of the documentation.")] = None,
    to: Annotated[Path, typer.Option(help="Folder of the pictures.")] = IMAGES,
) -> None:
    """Start a studio, drive a browser through it, and write the pictures."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium is installed: apt-get install chromium")
    to.mkdir(parents=True, exist_ok=True)
    options = Options(models={"tiny": "tiny"}, browser=False, devices=("cpu",), limits=Limits(pixels=1_000_000))
    with running(options) as (url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (act, look, shown) in PICTURES.items():
            if name not in (names or ()) and (names or not shown):
                continue
            with visit(browser, url, **look) as page:
                act(page)
                page.wait_for_function("() => !document.querySelector('.pending, .generating')")
                page.mouse.move(0, 0)
                save(page.screenshot(animations="disabled", full_page=look.get("full", False)), to / f"{name}.png")
        browser.close()


@contextmanager
def visit(browser: Any, url: str, *, size: dict[str, int] = DESKTOP, dark: bool = False, **_: Any) -> Iterator[Any]:
    """A visitor's first page, with its picture drawn."""
    context = browser.new_context(viewport=size, color_scheme="dark" if dark else "light", reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("#viewer [data-ready=yes]")
    try:
        yield page
    finally:
        context.close()


def segment(page: Any) -> None:
    """The first page, with the labels ranked at one pixel."""
    stage = page.locator("#viewer .cc-stage")
    box = stage.bounding_box()
    stage.click(position={"x": 0.42 * box["width"], "y": 0.75 * box["height"]})
    page.wait_for_selector("#ranking li")


def tab(name: str, shown: str) -> Callable[[Any], None]:
    """Open a tab and wait for what it shows."""

    def act(page: Any) -> None:
        page.get_by_role("tab", name=name).click()
        page.wait_for_selector(shown)

    return act


def search(page: Any) -> None:
    """What else is here, answered."""
    tab("What else is here", "#look")(page)
    page.get_by_role("button", name="What else is here?").click()
    page.wait_for_selector("#found input[type=checkbox]")


def export(page: Any) -> None:
    """The files, made."""
    tab("Export", "#make-files")(page)
    page.get_by_role("button", name="Make the files").click()
    page.wait_for_selector("#made a[download]")


def refused(page: Any) -> None:
    """An image over the limit."""
    with tempfile.TemporaryDirectory() as work:
        large = Path(work) / "large.png"
        Image.new("RGB", (1200, 1000)).save(large)
        page.locator("#image input[type=file]").first.set_input_files(large)
        page.wait_for_selector("#status .cc-problem")


def save(picture: bytes, path: Path) -> None:
    """Write a screenshot with a palette of its own."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(256, kmeans=2, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {image.width}×{image.height}, {path.stat().st_size / 1000:.0f} kB")


PICTURES: dict[str, tuple[Callable[[Any], None], dict[str, Any], bool]] = {
    "studio-segment": (segment, {}, True),
    "studio-dark": (segment, {"dark": True}, False),
    "studio-phone": (segment, {"size": PHONE, "full": True}, False),
    "studio-phone-dark": (segment, {"size": PHONE, "full": True, "dark": True}, False),
    "studio-compare": (tab("Compare", "#comparison figure:nth-of-type(6)"), {"dark": True}, True),
    "studio-heat": (tab("Heat maps", "#heat figure:nth-of-type(4)"), {}, True),
    "studio-inspect": (tab("Inspect", "#parts figure:nth-of-type(4)"), {}, True),
    "studio-search": (search, {}, False),
    "studio-export": (export, {}, True),
    "studio-refused": (refused, {}, False),
}
"""By file name: what is done, how the page is opened, and whether the documentation shows it."""


if __name__ == "__main__":
    typer.run(main)
