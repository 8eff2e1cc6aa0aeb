"""The generator: determinism, splits, statistics that the benchmark promises, captions, held-out pairs."""

import hashlib
import itertools
import re
import subprocess
import sys

import numpy as np
import pytest

from clearclip.scenes import CLASSES, COLOURED, COLOURS, HELD_OUT, PALETTE, THINGS, make_scene, visible_phrases
from clearclip.scenes.captions import caption
from clearclip.scenes.layouts import KINDS, LAYOUTS

PINNED = {
    ("train", 0): "31e1be0525637dd4",
    ("val", 0): "1cef2e1691a3fd11",
    ("test", 0): "0fbf967438877eb7",
    ("test", 7): "bf248d34eb9598ba",
}


@pytest.mark.parametrize(("key", "digest"), PINNED.items())
def test_pictures_are_frozen(key, digest):
    scene = make_scene(key[1], split=key[0], size=(64, 80))
    content = scene.image.tobytes() + scene.label_map.tobytes() + "|".join(scene.captions).encode()
    assert hashlib.sha256(content).hexdigest()[:16] == digest


@pytest.mark.parametrize("size", [(8, 8), (33, 97), (96, 96), (256, 320)])
def test_shapes_and_types(size):
    scene = make_scene(3, size=size)
    assert scene.image.shape == (*size, 3)
    assert scene.label_map.shape == scene.instance_map.shape == size
    assert scene.image.dtype == scene.label_map.dtype == scene.instance_map.dtype == np.uint8
    names = np.array([CLASSES.index(thing.name) for thing in scene.objects])
    assert (names[scene.instance_map] == scene.label_map).all()


def test_same_arguments_same_pixels_and_splits_differ():
    first, again = make_scene(11, split="val", size=(48, 60)), make_scene(11, split="val", size=(48, 60))
    assert (first.image == again.image).all()
    assert first.captions == again.captions
    digests = {
        make_scene(index, split=split, size=(24, 30)).image.tobytes()
        for split, index in itertools.product(("train", "val", "test"), range(40))
    }
    assert len(digests) == 120


def test_promised_statistics():
    """At least 6 classes a picture, things on a quarter of the pixels, 5 classes under 1 %, every class there."""
    shares = []
    for index in range(200):
        label_map = make_scene(index, size=(128, 160)).label_map
        shares.append(np.bincount(label_map.ravel(), minlength=len(CLASSES)) / label_map.size)
    table = np.array(shares)
    assert (table > 0).sum(axis=1).mean() >= 6
    assert table[:, [CLASSES.index(name) for name in THINGS]].sum(axis=1).mean() >= 0.25
    assert (table.mean(axis=0) < 0.01).sum() >= 5
    assert (table.max(axis=0) > 0.01).all()


def test_class_tables_agree():
    assert len(CLASSES) == len(PALETTE) == len({tuple(colour) for colour in PALETTE.tolist()}) == 30
    assert set(KINDS) == set(THINGS)
    assert set().union(*(layout.things for layout in LAYOUTS.values())) <= set(THINGS)
    for colour, name in HELD_OUT:
        assert colour in COLOURED[name]
        assert len(COLOURED[name]) > 2
        assert any(colour in COLOURED[other] and (colour, other) not in HELD_OUT for other in COLOURED)
    assert {colour for colours in COLOURED.values() for colour in colours} == set(COLOURS)


@pytest.mark.parametrize("layout", [None, "portrait"])
def test_held_out_pairs_are_never_trained_on(layout):
    scenes = [make_scene(index, split="train", size=(16, 20), layout=layout) for index in range(300)]
    pairs = {(thing.colour, thing.name) for scene in scenes for thing in scene.objects}
    assert not pairs & HELD_OUT
    words = " ".join(text for scene in scenes for text in scene.captions)
    assert not any(re.search(rf"{colour} {name}\b", words) for colour, name in HELD_OUT)
    tested = {(thing.colour, thing.name) for index in range(300) for thing in make_scene(index, size=(16, 20)).objects}
    assert tested >= HELD_OUT


def test_captions_name_only_what_is_visible():
    for index in range(60):
        scene = make_scene(index, size=(96, 120))
        visible = {CLASSES[number] for number in np.unique(scene.label_map)}
        for text in scene.captions:
            named = {name for name in CLASSES if name in text.replace(",", " ").replace(".", " ").split()}
            assert named
            assert named <= visible


def test_captions_vary_in_form_part_and_order():
    rng = np.random.default_rng(0)
    texts = [caption(["red car", "tree", "grass"], rng, time="night") for _ in range(200)]
    assert len(set(texts)) > 120
    assert any("car" in text and "tree" not in text for text in texts)
    assert any(text.index("tree") < text.index("car") for text in texts if "tree" in text and "car" in text)
    assert any("night" in text for text in texts)


def test_visible_phrases_adds_up_pieces_and_sorts_by_size():
    instance_map = np.repeat(np.array([0, 1, 2, 3], dtype=np.uint8), [60, 30, 9, 1]).reshape(10, 10)
    phrases = ("sky", "red car", "tree", "red car")
    assert visible_phrases(instance_map, phrases, share=0.05) == ["sky", "red car", "tree"]
    assert visible_phrases(instance_map, phrases, share=0.4) == ["sky"]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"unknown split 'dev'.*train, val, test"):
        make_scene(0, split="dev")
    with pytest.raises(ValueError, match="unknown layout 'moonbase'"):
        make_scene(0, layout="moonbase")
    with pytest.raises(ValueError, match="0 or more"):
        make_scene(-1)
    with pytest.raises(ValueError, match="one thing to name"):
        caption([], np.random.default_rng(0))


def test_import_loads_no_torch():
    code = "import sys, clearclip.scenes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
