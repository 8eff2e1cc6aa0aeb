"""Training pairs: pictures rendered once into a file, then random zoomed blocks with captions of what is in view.

Only pictures and captions leave this module, never labels: the instance and part maps decide what a caption may name,
and which of a few blocks is taken for a word.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clearclip.files.outputs import hold
from clearclip.scenes.captions import caption
from clearclip.scenes.classes import OTHER_WORDS, PARTS, STUFF
from clearclip.scenes.generate import make_scene, visible_phrases

FILES = (IMAGES_NAME, INSTANCES_NAME, PARTS_NAME, INDEX_NAME) = ("images.u8", "instances.u8", "parts.u8", "album.json")
TRIES = 6
_CHUNK = 250


@dataclass(frozen=True, eq=False)
class Album:
    """Rendered training pictures on disk, memory-mapped: images (N, H, W, 3), instance and part maps (N, H, W), uint8.

    Each picture has the phrases of its objects, by number in the instance map, and its time of day.
    """

    images: NDArray[np.uint8]
    instance_maps: NDArray[np.uint8]
    part_maps: NDArray[np.uint8]
    phrases: list[tuple[str, ...]]
    times: list[str]

    def __len__(self) -> int:
        return len(self.phrases)

    @cached_property
    def pictures_by_word(self) -> dict[str, list[int]]:
        """The pictures that have a thing, its colour left out, or a part, by its word, in alphabetical order."""
        found: dict[str, list[int]] = {}
        for index, phrases in enumerate(self.phrases):
            parts = set(visible_phrases(self.part_maps[index], ("", *PARTS), share=0.0))
            for word in parts | {_thing(phrase) for phrase in phrases}:
                found.setdefault(word, []).append(index)
        return dict(sorted(found.items()))


def _render(indices: range, *, size: tuple[int, int], portraits: float) -> list[tuple[list[bytes], list[str], str]]:
    rows = []
    for index in indices:
        single = (index * 0.6180339887) % 1.0 < portraits
        scene = make_scene(index, split="train", size=size, layout="portrait" if single else None, captions=0)
        phrases = [thing.phrase for thing in scene.objects]
        arrays = [part.tobytes() for part in (scene.image, scene.instance_map, scene.part_map)]
        rows.append((arrays, phrases, scene.time))
    return rows


def render_album(
    folder: Path,
    *,
    pictures: int,
    size: tuple[int, int],
    portraits: float,
    workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> Album:
    """Render pictures of the `train` split, or take them from the folder if they are complete there.

    `size` is (height, width), `portraits` the share of pictures of a single thing; a pixel takes 5 bytes.
    """
    wanted = {"pictures": pictures, "size": list(size), "portraits": portraits}
    shape = (pictures, *size)
    with hold(folder) as outputs:
        outputs.check(FILES)
        if not all(map(outputs.stands, FILES)) or json.loads((folder / INDEX_NAME).read_text())["made"] != wanted:
            (folder / INDEX_NAME).unlink(missing_ok=True)  # it is ours, and no index may stand beside other pictures
            rows: list[tuple[list[str], str]] = []
            chunks = [range(start, min(start + _CHUNK, pictures)) for start in range(0, pictures, _CHUNK)]
            render = partial(_render, size=size, portraits=portraits)
            with (
                outputs.write(IMAGES_NAME) as image_file,
                outputs.write(INSTANCES_NAME) as instance_file,
                outputs.write(PARTS_NAME) as part_file,
                ProcessPoolExecutor(workers) as pool,
                ExitStack() as stack,
            ):
                files = [stack.enter_context(file.open("wb")) for file in (image_file, instance_file, part_file)]
                for chunk in pool.map(render, chunks) if workers > 1 else map(render, chunks):
                    for arrays, phrases, time in chunk:
                        for file, array in zip(files, arrays, strict=True):
                            file.write(array)
                        rows.append((phrases, time))
                    if progress is not None:
                        progress(len(rows))
            with outputs.write(INDEX_NAME) as index_file:
                index_file.write_text(json.dumps({"made": wanted, "rows": rows}))
    stored = json.loads((folder / INDEX_NAME).read_text())["rows"]
    return Album(
        np.memmap(folder / IMAGES_NAME, np.uint8, "r", shape=(*shape, 3)),
        np.memmap(folder / INSTANCES_NAME, np.uint8, "r", shape=shape),
        np.memmap(folder / PARTS_NAME, np.uint8, "r", shape=shape),
        [tuple(phrases) for phrases, _ in stored],
        [time for _, time in stored],
    )


@dataclass(frozen=True, eq=False)
class Batch:
    """Pairs for one step: square blocks (B, S, S, 3) uint8, the first patch of each in the patch grid, and captions."""

    images: NDArray[np.uint8]
    corners: NDArray[np.int64]
    captions: list[str]


def draw_batch(
    album: Album,
    rng: np.random.Generator,
    *,
    batch_size: int,
    side: int,
    grid: int,
    patch_size: int,
    zoom: float,
    named: int,
    share: float,
    ground_share: float = 0.0,
    bare: float = 0.0,
    other: float = 0.0,
) -> Batch:
    """Draw blocks of patches from random zoomed views and write a caption of what is in each.

    A view is a square of the picture's height divided by 1 to `zoom`, `grid` patches wide; the model is shown a block
    of `side` × `side` patches of it, in their places. Pairs are balanced over words, as MetaCLIP's are over its
    metadata (Xu et al., ICLR 2024): a word is drawn, then a picture that has it, then blocks until one can be captioned
    with it, at most `TRIES`. The other numbers are those of `Recipe`.
    """
    pixels = side * patch_size
    images = np.empty((batch_size, pixels, pixels, 3), dtype=np.uint8)
    corners = np.empty((batch_size, 2), dtype=np.int64)
    captions = []
    known = list(album.pictures_by_word)
    for place, word in enumerate(rng.integers(len(known), size=batch_size).tolist()):
        wanted = known[word]
        pictures = album.pictures_by_word[wanted]
        index = pictures[int(rng.integers(len(pictures)))]
        instances, parts, phrases = album.instance_maps[index], album.part_maps[index], album.phrases[index]
        for _ in range(TRIES):
            box, corners[place] = _draw_block(rng, instances.shape, side=side, grid=grid, zoom=zoom)
            left, top, right, bottom = box
            seen = _worth_naming(instances[top:bottom, left:right], phrases, share=share, ground_share=ground_share)
            seen += visible_phrases(parts[top:bottom, left:right], ("", *PARTS), share=share)
            if wanted in map(_thing, seen):
                break
        block = Image.fromarray(album.images[index, top:bottom, left:right])
        block = block.resize((pixels, pixels), Image.Resampling.BILINEAR)
        images[place] = np.asarray(block)[:, ::-1] if rng.random() < 0.5 else np.asarray(block)
        words = [seen[position] for position in rng.permutation(len(seen))[:named]]
        if bare > 0:
            words = list(dict.fromkeys(_thing(word) if rng.random() < bare else word for word in words))
        words = list(dict.fromkeys(_in_other_words(word, rng) if rng.random() < other else word for word in words))
        captions.append(caption(words, rng, time=album.times[index]))
    return Batch(images, corners, captions)


def _thing(phrase: str) -> str:
    """The word for the thing alone: "car" of "red car"."""
    return phrase.split()[-1]


def _in_other_words(phrase: str, rng: np.random.Generator) -> str:
    """The phrase with another word for its thing, if there is one: "red automobile" for "red car"."""
    *colour, thing = phrase.split()
    words = OTHER_WORDS.get(thing, (thing,))
    return " ".join([*colour, words[rng.integers(len(words))]])


def _worth_naming(
    instances: NDArray[np.uint8], phrases: tuple[str, ...], *, share: float, ground_share: float
) -> list[str]:
    """Phrases of what covers enough of a block; of all that covers `share` where nothing else does."""
    seen = visible_phrases(instances, phrases, share=share)
    large = visible_phrases(instances, phrases, share=max(share, ground_share))
    return [phrase for phrase in seen if phrase not in STUFF or phrase in large] or seen


def _draw_block(
    rng: np.random.Generator, size: tuple[int, ...], *, side: int, grid: int, zoom: float
) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """A block's (left, top, right, bottom) in the picture's pixels, and its corner in the patch grid."""
    height, width = size
    view = height / zoom ** float(rng.random())
    top, left = float(rng.uniform(0, height - view)), float(rng.uniform(0, width - view))
    row, column = int(rng.integers(0, grid - side + 1)), int(rng.integers(0, grid - side + 1))
    patch = view / grid
    first = round(left + column * patch), round(top + row * patch)
    length = max(round(side * patch), 2)
    first = min(first[0], width - length), min(first[1], height - length)
    return (first[0], first[1], first[0] + length, first[1] + length), (row, column)
