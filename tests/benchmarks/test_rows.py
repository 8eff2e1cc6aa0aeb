"""The rows against the protocol's facts."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clearclip.benchmarks import BENCHMARKS, get_benchmark, published_number, vocabulary_of
from clearclip.benchmarks.decoding import COCO_GAPS, IGNORE, INVALID
from clearclip.benchmarks.rows import NAMES, with_names
from clearclip.errors import UsageError
from clearclip.protocol import PROTOCOLS

SHARED = Path(os.environ.get("CLEARCLIP_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.fixture
def protocol():
    folder = SHARED / "protocol"
    if not folder.is_dir():
        pytest.skip(f"no facts in {folder} (set CLEARCLIP_SHARED)")
    return folder


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_row_fits_its_words_protocol_and_label_forms(name):
    row, vocabulary = BENCHMARKS[name], vocabulary_of(name)
    assert len(vocabulary.names) == row.classes == len(vocabulary.palette)
    assert row.protocol in PROTOCOLS
    assert vocabulary.background == ("background" if row.background else None)
    for form in row.layout.forms if row.layout else ():
        values = np.array(form.table)
        assert set(values[(values != IGNORE) & (values != INVALID)]) == set(range(row.classes))


def test_sizes_and_thresholds_are_the_papers():
    assert {name: (row.size, dict(row.thresholds)) for name, row in BENCHMARKS.items()} == {
        "voc21": (1449, {"clearclip": 0.5, "vanilla": 0.2}),
        "voc20": (1449, {}),
        "context60": (5104, {"clearclip": 0.15}),
        "context59": (5104, {}),
        "coco_object": (5000, {"clearclip": 0.4}),
        "coco_stuff": (5000, {}),
        "cityscapes": (500, {}),
        "ade20k": (2000, {}),
        "scenes": (500, {}),
    }


def test_queries_are_the_papers(protocol):
    with (protocol / "queries.csv").open() as file:
        facts = list(csv.DictReader(file))
    assert {row["benchmark"] for row in facts} == set(BENCHMARKS) - {"scenes"}
    for row in facts:
        assert vocabulary_of(row["benchmark"]).queries[int(row["class_index"])] == row["query"]


def words(text):
    return text.split(", ")


PEOPLE = ["person", *(f"person in {part}" for part in words("shirt, jeans, dress, sweater, skirt, jacket"))]
SCREENS = words("television monitor, tv monitor, monitor, television, screen")
WORDS_26 = words(
    "sky, wall, tree, wood, grass, road, sea, river, mountain, sands, desk, bed, building, cloud, lamp, door, window, "
    "wardrobe, ceiling, shelf, curtain, stair, floor, hill, rail, fence"
)
WORDS_17 = [*WORDS_26[: WORDS_26.index("cloud") + 1], "floor", "hill", "rail"]
WORDS_25 = words(
    "ground, land, grass, tree, building, wall, sky, lake, water, river, sea, railway, railroad, keyboard, helmet, "
    "cloud, house, mountain, ocean, road, rock, street, valley, bridge, sign"
)
CLOTHES = "person in shirt jeans dress sweater skirt jacket"
AVIAN = {"bird": ["bird avian"], "chair": ["chair seat"], "tvmonitor": ["tvmonitor screen"]}
CLIPER_VOC = AVIAN | {
    "person": ["person with clothes, people, human"], "ship": ["boat"], "table": ["diningtable"]
}  # fmt: skip
HUMAN = {"person": ["person with cloth people human"]}
SPELLED_AS_VOC = {
    "motorcycle": ["motorbike"], "airplane": ["aeroplane"], "couch": ["sofa"], "potted plant": ["pottedplant"],
    "dining table": ["diningtable"], "tv": ["tvmonitor"], "chair": ["chair seat"],
}  # fmt: skip
CHANGED = {
    "clearclip": {},
    "sclip": {
        "voc20": {"person": PEOPLE, "tvmonitor": SCREENS},
        "voc21": {"background": WORDS_26, "person": PEOPLE, "tvmonitor": SCREENS},
        "coco_object": {"background": WORDS_26, "person": [*PEOPLE, "body"]},
    },
    "proxyclip": {"voc21": {"background": WORDS_26}, "coco_object": {"background": WORDS_17}},
    "freecp": {
        "voc20": {"person": [CLOTHES], "tvmonitor": ["television monitor screen"]},
        "voc21": {"background": WORDS_26, "person": [CLOTHES], "tvmonitor": ["television monitor screen"]},
        "coco_object": {"background": WORDS_26, "person": [f"{CLOTHES} body"]},
    },
    "cliper": {
        "voc20": CLIPER_VOC,
        "voc21": CLIPER_VOC | {"background": WORDS_25},
        "context59": AVIAN | HUMAN,
        "context60": AVIAN | HUMAN,
        "coco_object": SPELLED_AS_VOC
        | HUMAN
        | {"background": [word for word in WORDS_25 if word not in ("keyboard", "sign")]},
    },
    "corrclip": {
        **{name: {"person": ["people"]} for name in set(BENCHMARKS) - {"scenes"}},
        "voc21": {"background": WORDS_26, "person": ["people"]},
        "coco_object": {"background": [word for word in WORDS_17 if word != "bed"], "person": ["people"]},
    },
}
"""ClearCLIP's word → theirs, from `ladder/`: `clip_only.md` 8, `freecp_and_cliper.md` 3, `second_model.md` 5."""
LIMITS = {"sclip": (0.1, 0.1, 0.1), "proxyclip": (0.2, 0.15, 0.25), "corrclip": (0.2, 0.15, 0.25)}


def test_the_lists_of_the_texts_have_the_lengths_that_they_say():
    assert [len(words) for words in (WORDS_26, WORDS_17, WORDS_25, PEOPLE)] == [26, 17, 25, 7]


@pytest.mark.parametrize("name", sorted(set(BENCHMARKS) - {"scenes"}))
@pytest.mark.parametrize("names", NAMES)
def test_class_names_of_papers_differ_where_the_texts_say(names, name):
    own, theirs = vocabulary_of(name), vocabulary_of(name, names=names)
    changed = CHANGED[names].get(name, {})
    assert set(changed) <= set(own.names)
    for mine, label in zip(own.labels, theirs.labels, strict=True):
        assert list(label.queries) == changed.get(mine.name, [mine.name])
    assert theirs.background_index == own.background_index
    np.testing.assert_array_equal(theirs.palette, own.palette)


@pytest.mark.parametrize("names", NAMES)
def test_thresholds_of_class_names_are_the_texts(names):
    limits = dict(zip(("voc21", "context60", "coco_object"), LIMITS.get(names, (None,) * 3), strict=True))
    for name, row in BENCHMARKS.items():
        if name == "scenes":
            continue
        found = with_names(row, names)
        if names == "clearclip":
            assert found is row
            continue
        assert found.threshold("clearclip") == found.threshold("vanilla") == limits.get(name)
        changed = name in CHANGED[names] or row.background
        assert found.name == (f"{name}-{names}" if changed else name)
        assert (found is row) is not changed
        if changed:
            assert published_number(found.name, model="clip-b16", method="clearclip") is None


def test_unknown_class_names_and_those_of_scenes_are_refused():
    with pytest.raises(UsageError, match="did you mean 'sclip'"):
        vocabulary_of("voc20", names="slip")
    with pytest.raises(UsageError, match="scenes has words of its own"):
        vocabulary_of("scenes", names="sclip")


def test_published_numbers_are_the_papers(protocol):
    models = {
        "ViT-B/16": {"CLIP": "clip-b16", "OpenCLIP": "openclip-b16", "MetaCLIP": "metaclip-b16", "BLIP": "blip-b16"},
        "ViT-L/14": {"CLIP": "clip-l14", "OpenCLIP": "openclip-l14", "MetaCLIP": "metaclip-l14", "BLIP": "blip-l16"},
    }
    with (protocol / "published_miou.csv").open() as file:
        facts = list(csv.DictReader(file))
    for row in facts:
        by_family, plus = models[row["architecture"]], row["clearclip"] == "yes"
        if row["model"] in by_family:
            model, method = by_family[row["model"]], "clearclip" if plus else "vanilla"
        else:
            model, method = by_family["CLIP"], row["model"].lower() + "+clearclip" * plus
        found = published_number(row["benchmark"], model=model, method=method)
        assert found is not None
        assert found.miou == float(row["miou"])
        assert row["source"] in found.source


def test_coco_raw_ids_keep_their_order_and_close_the_gaps():
    table = np.array(BENCHMARKS["coco_stuff"].layout.forms[1].table)
    assert table[0] == 0
    assert table[10] == 10
    assert table[12] == 11
    assert table[181] == 170
    assert table[255] == IGNORE
    assert all(table[gap] == INVALID for gap in COCO_GAPS)


def test_voc_and_cityscapes_keep_their_own_colours():
    assert vocabulary_of("voc21").palette[[0, 1, 2, 15]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
    ]
    np.testing.assert_array_equal(vocabulary_of("voc20").palette, vocabulary_of("voc21").palette[1:])
    assert vocabulary_of("cityscapes").palette[10].tolist() == [70, 130, 180]


def test_an_unknown_benchmark_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'voc21' or 'voc20'"):
        get_benchmark("voc22")


def test_the_package_imports_no_torch():
    code = "import sys, clearclip.benchmarks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
