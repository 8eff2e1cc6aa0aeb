"""From a change on the studio's page to the new picture in the browser.

python benchmarks/studio_latency.py --models tiny,b16=local-dir:FOLDER --repeats 15
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from studio_process import free_port, start, stop

# The clock runs in the page: from the event to the frame after the viewer has painted its canvas.
WATCH = """() => {
  window.ccTimes = [];
  const viewer = document.querySelector('#viewer [data-ready]');
  new MutationObserver(() => requestAnimationFrame(() => setTimeout(() => window.ccTimes.push(performance.now()))))
    .observe(viewer, { attributes: true, attributeFilter: ['data-drawn'] });
}"""
TYPE = """([place, text]) => {
  const box = document.querySelectorAll('#labels .cc-name')[place];
  const count = window.ccTimes.length;
  const began = performance.now();
  box.value = text;
  box.dispatchEvent(new Event('input', { bubbles: true }));
  return [count, began];
}"""
SLIDE = """([selector, value]) => {
  const box = document.querySelector(selector);
  const count = window.ccTimes.length;
  const began = performance.now();
  box.value = value;
  box.dispatchEvent(new Event('input', { bubbles: true }));
  return [count, began];
}"""


def measure(page: Any, act: Callable[[int], tuple[int, float]], repeats: int) -> list[float]:
    """Milliseconds of some changes, one after the other; each must draw a new picture."""
    found = []
    for turn in range(repeats):
        count, began = act(turn)
        page.wait_for_function("(count) => window.ccTimes.length > count", arg=count, timeout=60_000)
        found.append(page.evaluate("() => window.ccTimes.at(-1)") - began)
        page.wait_for_timeout(150)
    return found


def choose(page: Any, selector: str, text: str) -> tuple[int, float]:
    """Take an option of a dropdown; the clock starts with the Enter key."""
    box = page.locator(f"{selector} input").first
    box.click()
    box.fill(text)
    count, began = page.evaluate("() => [window.ccTimes.length, performance.now()]")
    box.press("Enter")
    return count, began


def one_model(page: Any, model: str, repeats: int) -> dict[str, list[float]]:
    """All changes with one model."""
    if page.locator("#model input").first.input_value().split(" ")[0] != model:
        choose(page, "#model", model)
        page.wait_for_function(
            "(name) => document.querySelector('#status').innerText.startsWith(name)", arg=model, timeout=300_000
        )
        page.wait_for_timeout(500)
    page.evaluate(WATCH)
    known, new = ("grass", "sea"), iter(f"{one} {two}" for one in ("red", "blue", "old", "big") for two in NOUNS)
    found = {
        "a word that was asked for before": lambda turn: page.evaluate(TYPE, [0, known[turn % 2]]),
        "a new word": lambda _: page.evaluate(TYPE, [0, next(new)]),
        "threshold": lambda turn: page.evaluate(SLIDE, ["#threshold input[type=range]", str(0.5 + 0.02 * turn)]),
        "another last-block method, first time": lambda turn: choose(page, "#method", METHODS[turn]),
        "another last-block method, again": lambda turn: choose(page, "#method", METHODS[turn]),
    }
    page.evaluate(TYPE, [0, known[1]])
    page.wait_for_timeout(3000)
    page.evaluate(TYPE, [0, known[0]])
    page.wait_for_timeout(3000)
    times = {}
    for name, act in found.items():
        times[name] = measure(page, act, min(repeats, len(METHODS)) if "method" in name else repeats)
        if name == "threshold":
            page.evaluate(SLIDE, ["#threshold input[type=range]", "0"])
            page.wait_for_timeout(1500)
    return times


NOUNS = ("house", "boat", "car", "bus", "ball", "tree")
METHODS = ("sclip", "maskclip", "vanilla", "maskclip+clearclip", "sclip+clearclip")


def main() -> None:
    """Start a studio, drive a browser, and print medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="tiny")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work, sync_playwright() as playwright:
        server = start("--port", free_port(), "--models", options.models, "--device", "cpu", cache=Path(work))
        try:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
            )
            for model in (part.partition("=")[0] for part in options.models.split(",")):
                page = browser.new_page(viewport={"width": 1360, "height": 950})
                page.goto(server.url)
                page.wait_for_selector("#viewer [data-ready=yes]", timeout=120_000)
                page.get_by_role("button", name="Background and prompts").click()
                page.wait_for_selector("#threshold input[type=range]")
                times = one_model(page, model, options.repeats)
                report[model] = {
                    name: {"median_ms": round(statistics.median(part)), "max_ms": round(max(part)), "times": len(part)}
                    for name, part in times.items()
                }
                page.close()
            browser.close()
        finally:
            stop(server)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
