"""From a change on the studio's page to the new picture in the browser.

python benchmarks/studio_latency.py --repeats 15            # the embedded model
python benchmarks/studio_latency.py --repeats 15 --b16      # and one of the shape of CLIP ViT-B/16, random weights

What is typed counts from the keystroke, so the 220 ms that the page waits for the next one are in it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from playwright.sync_api import sync_playwright
from safetensors.torch import save_file

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


SETTLED = """() => new Promise((done) => {
  const viewer = document.querySelector('#viewer [data-ready]');
  let [drawn, since] = [viewer.dataset.drawn, performance.now()];
  const look = () => {
    if (viewer.dataset.drawn !== drawn) [drawn, since] = [viewer.dataset.drawn, performance.now()];
    if (viewer.dataset.ready === 'yes' && performance.now() - since > 1500) done();
    else setTimeout(look, 50);
  };
  look();
})"""
PATIENCE = 300_000


def measure(page: Any, act: Callable[[int], tuple[int, float]], repeats: int) -> list[float]:
    """Milliseconds of some changes, one after the other; each must draw a new picture."""
    found = []
    for turn in range(repeats):
        count, began = act(turn)
        page.wait_for_function("(count) => window.ccTimes.length > count", arg=count, timeout=PATIENCE)
        found.append(page.evaluate("() => window.ccTimes.at(-1)") - began)
        page.wait_for_timeout(150)
    return found


def choose(page: Any, selector: str, text: str) -> tuple[int, float]:
    """Take an option of a dropdown; the clock starts with the Enter key."""
    box = page.locator(f"{selector} input").first
    box.click()
    box.fill(text)
    count, began = page.evaluate("() => [(window.ccTimes || []).length, performance.now()]")
    box.press("Enter")
    return count, began


def one_model(page: Any, model: str, repeats: int) -> dict[str, list[float]]:
    """All changes with one model."""
    if page.locator("#model input").first.input_value().split(" ")[0] != model:
        choose(page, "#model", model)
        page.wait_for_function(
            "(name) => document.querySelector('#status').innerText.startsWith(name)", arg=model, timeout=PATIENCE
        )
    page.evaluate(SETTLED)
    page.evaluate(WATCH)
    known, new = ("grass", "sea"), iter(f"{one} {two}" for one in ("red", "blue", "old", "big") for two in NOUNS)
    found = {
        "a word that was asked for before": lambda turn: page.evaluate(TYPE, [0, known[turn % 2]]),
        "a new word": lambda _: page.evaluate(TYPE, [0, next(new)]),
        "threshold": lambda turn: page.evaluate(SLIDE, ["#threshold input[type=range]", threshold(turn)]),
        "another last-block method, first time": lambda turn: choose(page, "#method", METHODS[turn]),
        "another last-block method, again": lambda turn: choose(page, "#method", METHODS[turn]),
    }
    measure(page, lambda turn: page.evaluate(TYPE, [0, known[turn]]), len(known))
    times = {}
    for name, act in found.items():
        print(f"{model}: {name}", file=sys.stderr)
        times[name] = measure(page, act, min(repeats, len(METHODS)) if "method" in name else repeats)
        if name == "threshold":
            measure(page, lambda _: page.evaluate(SLIDE, ["#threshold input[type=range]", "0"]), 1)
    return times


def threshold(turn: int) -> str:
    """Each another one, alternately near 1 (almost all is background) and below one part in thirteen (nothing is)."""
    return f"{0.99 - 0.01 * turn:.2f}" if turn % 2 == 0 else f"{0.01 * (1 + turn // 2 % 7):.2f}"


def random_b16(folder: Path) -> str:
    """A model of CLIP ViT-B/16's shape with random weights, in a folder; what `clearclip.load` takes for it.

    Its patches are told apart more than random weights do it, so that every change gives another picture.
    """
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16", pretrained=None)
    model.visual.conv1.weight.data *= 20
    folder.mkdir()
    save_file(
        {name: one.contiguous() for name, one in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    preprocess = {
        "mean": list(model.visual.image_mean),
        "std": list(model.visual.image_std),
        "interpolation": "bicubic",
    }
    config = {"model_cfg": open_clip.get_model_config("ViT-B-16"), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return f"local-dir:{folder}"


NOUNS = ("house", "boat", "car", "bus", "ball", "tree")
METHODS = ("sclip", "maskclip", "vanilla", "maskclip+clearclip", "sclip+clearclip")


def main() -> None:
    """Start a studio, drive a browser, and print medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="tiny")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--b16", action="store_true", help="also a random model of ViT-B/16's shape")
    options = parser.parse_args()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work, sync_playwright() as playwright:
        models = options.models
        if options.b16:
            models += f",b16={random_b16(Path(work) / 'b16')}"
        server = start("--port", free_port(), "--models", models, "--device", "cpu", cache=Path(work))
        try:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
            )
            for model in (part.partition("=")[0] for part in models.split(",")):
                page = browser.new_page(viewport={"width": 1360, "height": 950})
                page.set_default_timeout(PATIENCE)
                page.goto(server.url)
                page.wait_for_selector("#viewer [data-ready=yes]", timeout=PATIENCE)
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
