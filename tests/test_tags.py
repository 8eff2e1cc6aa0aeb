"""Which words of a vocabulary an image holds: `clearclip tags`, and what it is made of."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import clearclip
from clearclip.benchmarks import vocabulary_of
from clearclip.decompose import class_features
from clearclip.errors import UsageError
from clearclip.inspection.tags import class_token_cosines, find_tags, named_vocabulary, rank_tags
from clearclip.scenes import make_scene

pytestmark = pytest.mark.filterwarnings("ignore:the model has never seen:UserWarning")
WORDS = ["sky", "grass=meadow|lawn", "tree", "boat"]


@pytest.fixture(scope="module")
def tiny():
    return clearclip.load("tiny", device="cpu")


@pytest.fixture
def scenes(tmp_path):
    folder = tmp_path / "scenes"
    folder.mkdir()
    for index in range(2):
        Image.fromarray(make_scene(index, size=(96, 128)).image).save(folder / f"{index}.png")
    return folder


def test_tags_are_what_the_label_map_and_the_scores_say(tiny):
    image = make_scene(3).image
    tags, result = find_tags(tiny, image, WORDS), tiny(image, WORDS)
    assert sorted(tag.label for tag in tags) == sorted(result.labels)
    for tag in tags:
        mask = result.mask(tag.label)
        assert tag.share == mask.mean()
        assert tag.probability == (pytest.approx(result.scores[mask].mean(), abs=1e-5) if mask.any() else None)
    assert [tag.share for tag in tags] == sorted((tag.share for tag in tags), reverse=True)


def test_the_class_token_is_the_librarys_and_the_nearest_word_counts(segmenter, clip_model, picture):
    image = picture(48, 80)
    tags = {tag.label: tag.class_token for tag in find_tags(segmenter, image, WORDS)}
    square = np.array(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC))
    with torch.no_grad():
        expected = F.normalize(clip_model.encode_image(segmenter.encoder.normalize(square)[None])[0], dim=0)
    cosines = segmenter.embed(WORDS) @ expected
    for label, own in (("sky", cosines[0]), ("grass", cosines[1:4].max()), ("boat", cosines[-1])):
        assert tags[label] == pytest.approx(float(own), abs=1e-5)


def test_a_model_without_a_class_token_leaves_it_out(segmenter, picture, monkeypatch):
    backbone = segmenter.backbone
    monkeypatch.setattr(backbone, "prefix_tokens", lambda: torch.zeros(0, backbone.width))
    assert class_token_cosines(segmenter, picture(), segmenter.prepare(WORDS)) is None
    with pytest.raises(UsageError, match="has no class token"):
        class_features(backbone, torch.zeros(1, 3, 32, 32), positions="model")


def test_labels_that_win_nothing_follow_by_the_class_token_and_a_background_is_no_tag(tiny):
    image = make_scene(0).image
    result = tiny(image, ["sky", *WORDS[1:], "nothing"], threshold=0.2)
    assert result.vocabulary.background == "background"
    chances = [0.0, 0.1, 0.2, 0.3, 0.5, 0.4]
    tags = rank_tags(result, class_token=chances)
    assert "background" not in [tag.label for tag in tags]
    lost = [tag.class_token for tag in tags if not tag.share]
    assert lost == sorted(lost, reverse=True)


def test_vocabularies_are_the_benchmarks_without_their_background():
    assert named_vocabulary("coco-stuff") == vocabulary_of("coco_stuff")
    assert named_vocabulary("voc") == vocabulary_of("voc20")
    assert len(named_vocabulary("coco_object").labels) == 80
    with pytest.raises(UsageError, match="did you mean 'ade20k'"):
        named_vocabulary("ade2k")


def test_the_table_and_json_name_the_first_ones(run, scenes):
    given = ("tags", scenes, "--vocabulary", "scenes", "--model", "tiny", "--device", "cpu")
    ran = run(*given, "--top", 3)
    assert ran.code == 0
    assert ran.out.count("class token") == 3
    assert "over the words of all 30 labels" in ran.out
    answer = json.loads(run(*given, "--top", 3, "--json").out)
    assert answer["vocabulary"] == 30
    assert [len(image["labels"]) for image in answer["images"]] == [3, 3]
    assert answer["images"][0]["labels"][0]["label"] in ran.out


def test_a_folder_becomes_a_table_with_every_label(run, scenes, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    (scenes / "broken.png").write_bytes(b"\x89PNG")
    given = ("tags", scenes, "-l", "sky,grass,whale", "--model", "tiny", "--device", "cpu", "-o")
    for name in ("tags.csv", "tags.parquet"):
        ran = run(*given, tmp_path / "out" / name)
        assert ran.code == 1
        assert ran.err.splitlines()[-1].startswith("failed: ")
        assert "2 images, 3 labels" in ran.out
    with (tmp_path / "out" / "tags.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = parquet.read_table(tmp_path / "out" / "tags.parquet").to_pylist()
    assert [(row["image"], row["label"]) for row in rows] == [(row["image"], row["label"]) for row in table]
    assert len(rows) == 6
    for row, twin in zip(rows, table, strict=True):
        assert float(row["share"]) == twin["share"]
        assert (float(row["probability"]) if row["probability"] else None) == twin["probability"]
    first = [row["share"] for row in table if row["image"].endswith("0.png")]
    assert sum(first) == pytest.approx(1)


def test_a_table_is_refused_before_the_work(run, scenes, tmp_path, monkeypatch):
    given = ("tags", scenes, "--vocabulary", "scenes", "--model", "tiny", "-o")
    (tmp_path / "mine.csv").write_text("mine")
    assert "was not written by a run" in run(*given, tmp_path / "mine.csv").err
    assert (tmp_path / "mine.csv").read_text() == "mine"
    assert ".csv or .parquet" in run(*given, tmp_path / "tags.xlsx").err
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    assert "needs pyarrow" in (ran := run(*given, tmp_path / "tags.parquet")).err
    assert ran.code == 2
    assert not list(tmp_path.glob("tags*"))


def test_words_are_named_once(run, scenes):
    assert "use --vocabulary NAME" in run("tags", scenes).err
    assert "leave -l and --labels out" in run("tags", scenes, "-l", "sky", "--vocabulary", "voc").err
    assert "--background" not in run("tags", "--help").out


def test_no_table_where_every_image_failed(run, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    ran = run("tags", tmp_path, "--vocabulary", "scenes", "--model", "tiny", "-o", tmp_path / "tags.csv")
    assert ran.code == 1
    assert "error: " in ran.err
    assert not (tmp_path / "tags.csv").exists()
