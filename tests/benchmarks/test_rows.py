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
