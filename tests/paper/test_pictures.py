"""Figures 2–4, `inspect` and `compare`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import clearclip
from clearclip.benchmarks.rows import BENCHMARKS, vocabulary_of
from clearclip.errors import UsageError
from clearclip.inspection.features import block_parts, findings, inspect_image, statistics
from clearclip.inspection.sheets import SheetRow, draw_sheet, known_colors, same_colors
from clearclip.inspection.style import save
from clearclip.paper.figure2 import features_page
from clearclip.scenes import PALETTE
from clearclip.vocabulary import Vocabulary, distinct_colors


def test_last_blocks_parts_are_those_of_dense_features(backbone):
    images = torch.randn(1, 3, 40, 48, generator=torch.Generator().manual_seed(1))
    row = clearclip.parse_method("vanilla")
    blocks = block_parts(backbone, images, method=row)
    wanted = clearclip.dense_features(backbone, images, method=row, parts=True)
    assert len(blocks) == 8
    for name in ("features", "residual", "attn_out", "sum"):
        torch.testing.assert_close(getattr(blocks[-1], name), getattr(wanted, name))
    later = blocks[3].sum + backbone.blocks[3].mlp(backbone.blocks[3].ln_2(blocks[3].sum))
    torch.testing.assert_close(blocks[4].residual, later, rtol=1e-4, atol=1e-4)


def test_statistics_against_a_plain_computation():
    rng = np.random.default_rng(0)
    values = {part: rng.normal(size=(3, 4, 5)) for part in ("X_res", "X_attn", "X_sum")}
    values["X_res"][..., 2] += 30
    x = values["X_res"].reshape(12, 5)
    found = statistics({part: torch.tensor(value) for part, value in values.items()}, part="X_res", block=1)
    share = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = [unit[i] @ unit[j] for i in range(12) for j in range(12) if i != j]
    assert found.peak_channel == 2
    assert found.norm == pytest.approx(np.linalg.norm(x, axis=1).mean())
    assert found.entropy == pytest.approx(-(share * np.log(share)).sum() / np.log(60))
    assert found.cosine == pytest.approx(np.mean(pairs))
    assert found.peak_to_mean == pytest.approx(np.abs(x).mean(0)[2] / np.abs(x).mean())
    assert found.channel_mean_high == pytest.approx(x.mean(0).max())
    assert found.cosine_with_residual == pytest.approx(1)


def test_page_of_features(segmenter, picture, tmp_path):
    seen = inspect_image(segmenter, picture(), name="noise")
    assert len(seen.statistics) == 3 * 8
    assert seen.maps["X_res"].shape[-1] == 64
    page = features_page([seen])
    assert set(page.pictures) == {"maps-noise.png", "channels-noise.svg", "statistics.svg"}
    assert len(page.numbers) == 24
    assert len(page.extra_tables["channel-means"].rows) == 8 * 64
    assert "peak channel" in findings(seen)[0]
    drawn = save(page.pictures["statistics.svg"][0], tmp_path / "a.svg").read_text()
    assert "<svg" in drawn
    assert "dc:date" not in drawn
    with pytest.raises(UsageError, match="one at a time"):
        inspect_image(segmenter, picture(), method="gem")


def test_one_label_has_one_colour_on_every_sheet():
    first, second = (same_colors(vocabulary_of(name)) for name in ("coco_stuff", "ade20k"))
    shared = set(first.names) & set(second.names)
    assert {"person", "airplane"} <= shared
    for name in shared:
        assert first.palette[first.index(name)].tolist() == second.palette[second.index(name)].tolist()


def test_colours_of_a_sheet_differ_and_labels_of_ones_own_keep_theirs():
    for name in BENCHMARKS:
        vocabulary = same_colors(vocabulary_of(name))
        assert len({tuple(color) for color in vocabulary.palette.tolist()}) == len(vocabulary.names)
    own = same_colors(Vocabulary.parse(["zebra crossing @#123456"]))
    assert own.palette.tolist() == [[0x12, 0x34, 0x56]]


def test_scenes_and_sheets_have_the_one_palette():
    """How far its colours are apart is tested with the vocabulary."""
    palette = {tuple(color) for color in distinct_colors(30).tolist()}
    assert {tuple(color) for color in PALETTE.tolist()} == palette
    drawn = {tuple(color) for color in distinct_colors(len(known_colors())).tolist()} | {(0, 0, 0)}
    assert set(known_colors().values()) <= drawn


def test_sheet_has_truth_methods_and_a_legend_of_what_is_seen(picture):
    vocabulary = Vocabulary.parse(["sky", "tree", "never"])
    truth = np.zeros((40, 56), dtype=np.uint8)
    truth[:4] = 255
    found = np.zeros((40, 56), dtype=np.int32)
    found[20:] = 1
    row = SheetRow("a", picture(), {"vanilla": found, "maskclip+clearclip": truth * 0}, truth)
    assert row.miou("vanilla", classes=3) == pytest.approx(100 * (16 / 36) / 2, abs=0.1)
    figure = draw_sheet([row, row], vocabulary)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sky", "tree"]
    assert [axes.get_title() for axes in figure.axes[:4]] == ["image", "truth", "CLIP", "MaskCLIP\n+ ClearCLIP"]


def test_inspect_and_compare_commands(run, clip_folder, photo, tmp_path):
    paths = [photo("one.png"), photo("two.png", seed=1)]
    ran = run("inspect", paths[0], "--model", clip_folder, "-o", tmp_path / "seen", "--json")
    assert ran.code == 0, ran.err
    assert len(json.loads(ran.out)["statistics"]) == 24
    assert (tmp_path / "seen/inspect/report.md").exists()
    ran = run("compare", *paths, "-l", "sky", "-l", "tree", "--model", clip_folder, "--methods",
              "vanilla,clearclip[residual=beta:30]", "--template", "a {}", "-o", tmp_path / "both")  # fmt: skip
    assert ran.code == 0, ran.err
    with Image.open(tmp_path / "both/compare.png") as drawn:
        assert drawn.width > drawn.height / 2
