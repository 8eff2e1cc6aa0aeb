"""Which labels compete in an image: presence, the area rule, pins, and words beside the labels."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open

import clearclip
from clearclip import UsageError, Vocabulary
from clearclip.classify.grid import LogitGrid
from clearclip.classify.presence import small
from clearclip.classify.words import Words
from clearclip.encode.windows import plan_windows
from clearclip.negatives import ALIKE, WORDS, negatives
from clearclip.protocol import Presence, Protocol
from clearclip.scenes import CLASSES, make_scene

LABELS = ["sky", "grass", "person", "car", "tree", "umbrella"]


@pytest.fixture(scope="module")
def tiny():
    return clearclip.load("tiny", device="cpu", cache=False)


@pytest.fixture(scope="module")
def encoded(tiny):
    return tiny.encode(make_scene(0, split="val").image)


def words_of(vocabulary, *, presence="none", area=0.0, threshold=None, scale=20.0):
    parsed = Vocabulary.parse(vocabulary) if isinstance(vocabulary, list) else vocabulary
    text = torch.eye(len(parsed.queries))
    return Words(parsed, text, threshold, scale, (), "", Presence.parse(presence), area)


def random_grid(queries, *, seed=0, cells=6, size=(40, 56)):
    plan = plan_windows((96, 96), crop_size=96, stride=48, patch_size=16)
    cosines = torch.rand(cells, cells, queries, generator=torch.Generator().manual_seed(seed))
    return LogitGrid(cosines.permute(2, 0, 1), plan, size)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    queries=st.integers(1, 9),
    least=st.floats(0, 1),
    area=st.sampled_from([0.0, 0.1, 0.4]),
    pinned=st.booleans(),
    background=st.booleans(),
    threshold=st.sampled_from([None, 0.0, 0.5]),
)
def test_what_is_left_out_never_wins(seed, queries, least, area, pinned, background, threshold):
    names = [f"label {index}" for index in range(queries)]
    vocabulary = replace(Vocabulary.parse(names), pinned=(names[-1],) if pinned else ())
    if background:
        vocabulary = vocabulary.with_background("rest" if threshold is not None else names[0])
    words = words_of(vocabulary, presence=f"weak:{least:.3f}", area=area, threshold=threshold)
    grid = random_grid(queries, seed=seed)
    settled = words.settle(grid)
    label_map, _ = settled.label(grid)
    verdicts = dict(zip(vocabulary.names, settled.verdicts, strict=True))
    won = {vocabulary.names[index] for index in np.unique(label_map)}
    assert all(verdicts[name].competed for name in won)
    assert all(bool(verdict.reason) for verdict in verdicts.values() if not verdict.competed)
    if pinned:
        assert verdicts[names[-1]].competed
    if background:
        assert verdicts[vocabulary.background].competed
    for name, map_ in zip(vocabulary.names, settled.probabilities(grid, range(len(verdicts))), strict=True):
        assert verdicts[name].competed or not map_.any()


def test_dropping_a_label_that_wins_no_pixel_changes_no_pixel():
    grid = random_grid(6)
    grid.cosines[4] -= 0.7
    words = words_of(LABELS)
    before, scores = words.label(grid, scores=True)
    assert 4 not in before
    settled = words_of(LABELS, presence="weak:0.03").settle(grid)
    assert [verdict.competed for verdict in settled.verdicts] == [1, 1, 1, 1, 0, 1]
    after, same = settled.label(grid, scores=True)
    np.testing.assert_array_equal(before, after)
    torch.testing.assert_close(scores, same)


def test_probabilities_are_over_all_words():
    grid = random_grid(6, seed=3)
    grid.cosines[2] += 0.4
    grid.cosines[5] -= 0.6
    settled = words_of(LABELS, presence="weak:0.8").settle(grid)
    assert [verdict.competed for verdict in settled.verdicts].count(1.0) < 6
    reference = (grid.logits() * 20).softmax(dim=0)
    kept = [index for index, verdict in enumerate(settled.verdicts) if verdict.competed]
    label_map, scores = settled.label(grid, scores=True)
    value, winner = reference[kept].max(dim=0)
    np.testing.assert_array_equal(label_map, np.array(kept)[winner])
    torch.testing.assert_close(scores, value)
    ranked = dict(settled.ranking(grid, 5, 7))
    assert ranked["person"] == pytest.approx(float(reference[2, 5, 7]), abs=1e-6)


def test_no_label_is_left():
    grid = random_grid(3)
    names = ["sky", "sea", "car"]
    alone = words_of(names, presence="weak:1").settle(grid)
    assert sum(verdict.competed for verdict in alone.verdicts) == 1
    assert any("likeliest" in verdict.reason for verdict in alone.verdicts)
    rest = words_of(Vocabulary.parse(names).with_background("rest"), presence="weak:1", threshold=0.0).settle(grid)
    label_map, scores = rest.label(grid, scores=True)
    assert not label_map.any()
    assert not scores.any()
    assert rest.ranking(grid, 0, 0)[0][1] == 0


def test_in_an_image(tiny, encoded):
    plain = tiny.classify(encoded, LABELS)
    assert plain.verdicts == plain.absent == {}
    found = tiny.classify(encoded, LABELS, presence="weak:0.6")
    assert found.absent
    assert set(found.absent).isdisjoint(found.labels[index] for index in np.unique(found.label_map))
    assert json.loads(found.info["absent"]) == found.absent
    assert found.info["presence"] == "weak:0.6"
    pinned = replace(Vocabulary.parse(LABELS), pinned=tuple(LABELS))
    same = tiny.classify(encoded, pinned, presence="weak:0.6")
    np.testing.assert_array_equal(same.label_map, plain.label_map)
    assert "pinned" in same.verdicts[next(iter(found.absent))].reason


@pytest.mark.parametrize("text", ["weak:2", "weak:x", "weak:0.1:0.2", "strong", "weak:-0.1", "weak:nan"])
def test_what_is_no_rule(text):
    with pytest.raises(UsageError, match="presence"):
        Presence.parse(text)


def test_protocol_says_it():
    protocol = Protocol(100, 200, 50, 25, presence="WEAK", area=0.1)
    assert protocol.presence == "weak:0.2"
    with pytest.raises(UsageError, match="area"):
        Protocol(100, 200, 50, 25, area=1.0)


# Words beside the labels


def test_words_beside():
    assert negatives(["dog"]) == WORDS
    left = negatives(["a red House", "oceans"])
    assert {"building", "sea", "river"}.isdisjoint(left)
    assert "sky" in left
    assert negatives(["dog"], known={"sky", "snow", "dog", "grass"}) == ("sky", "grass", "snow")
    assert "grass" not in negatives(["lawn"])
    assert "sands" not in negatives(["beaches", "sand"])
    assert all(len(group) > 1 for group in ALIKE)


def test_one_word_alone(tiny, encoded):
    with pytest.warns(UserWarning, match="'person' alone would fill every image: .*background none"):
        found = tiny.classify(encoded, ["person"])
    assert found.labels == ("background", "person")
    assert found.vocabulary.background == "background"
    assert 0 < found.mask("person").mean() < 0.5
    assert "sky" in found.vocabulary.entries[0]["queries"]
    assert "background" not in found.vocabulary.queries
    alone = tiny.classify(encoded, Vocabulary.parse(["person"], background="none"))
    assert alone.mask("person").all()


def test_a_threshold_or_a_name_keeps_its_meaning(tiny, encoded):
    assert tiny.classify(encoded, Vocabulary.parse(["person", "sky"], background="sky")).labels == ("person", "sky")
    with pytest.warns(UserWarning, match="gives no background"):
        found = tiny.classify(encoded, ["person"], threshold=0.5)
    assert found.vocabulary.queries == ("person",)
    for labels in (["person", "sky"], Vocabulary.parse(["person", "sky"], background="none")):
        assert tiny.classify(encoded, labels, threshold=0.6).labels == ("background", "person", "sky")


def test_auto_beside_several_labels(tiny, encoded):
    found = tiny.classify(encoded, Vocabulary.parse(["person", "lawn", "car"], background="auto"))
    background = found.vocabulary.entries[0]["queries"]
    assert "grass" not in background
    assert "sky" in background
    assert found.mask("background").mean() > 0.2


def test_own_words(tiny, encoded):
    vocabulary = replace(Vocabulary.parse(["person", "sky"]), beside=("Sky", "grass", "tree"))
    found = tiny.classify(encoded, vocabulary)
    assert found.vocabulary.entries[0]["queries"] == ["grass", "tree"]
    with pytest.raises(UsageError, match="no background words are left"):
        tiny.classify(encoded, replace(vocabulary, beside=("sky",)))


def test_labels_that_are_called_so():
    quoted = Vocabulary.parse(["auto", "none"], background='"auto"')
    assert (quoted.background, quoted.beside) == ("auto", "alone")
    assert Vocabulary.parse(["auto"], background="none").background is None


def test_entries_come_back():
    for vocabulary in (
        replace(Vocabulary.parse(["person=man", "sky @#102030"]), pinned=("sky",), beside="none"),
        Vocabulary.parse(["person"]).with_words_beside(["sky", "grass"]),
        replace(Vocabulary.parse(["sky"]).with_background("rest"), beside="none"),
    ):
        again = Vocabulary.from_entries(vocabulary.entries, background=vocabulary.background)
        assert again.entries == vocabulary.entries
        assert again.queries == vocabulary.queries


def test_a_pin_must_be_a_label():
    with pytest.raises(UsageError, match="'ski' is pinned but none of the labels"):
        replace(Vocabulary.parse(["sky"]), pinned=("ski",))


# The area rule against its authors' code (shared/golden/clip_only, section 7 of the ladder's text)


def test_area_rule_golden(shared):
    with safe_open(shared / "golden" / "clip_only" / "scclip.safetensors", "pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys() if key.startswith("rules/")}  # noqa: SIM118
        scale = json.loads(opened.metadata()["hyper"])["logit_scale"]
    with safe_open(shared / "golden" / "clip_only" / "inputs.safetensors", "pt") as opened:
        owners = opened.get_tensor("query_idx").tolist()
    logits = tensors.pop("rules/logits")
    _, height, width = logits.shape
    labels = {f"class {owner}": [] for owner in owners}
    for query, owner in enumerate(owners):
        labels[f"class {owner}"].append(f"query {query}")
    vocabulary = Vocabulary.parse(
        [f"{words[0]}={'|'.join(words[1:])}" if words[1:] else words[0] for words in labels.values()]
    ).with_background("query 0")
    plan = plan_windows((height, width), crop_size=0, stride=1, patch_size=1)
    grid = LogitGrid(logits.permute(1, 2, 0).contiguous().permute(2, 0, 1), plan, (height, width))
    for key in (name.removesuffix("/pred") for name in tensors if name.endswith("/pred")):
        options = dict(part.split("=") for part in key.removeprefix("rules/").split(","))
        area = 0.0 if options["area"] == "None" else float(options["area"])
        words = words_of(vocabulary, area=area, threshold=float(options["threshold"]), scale=scale).settle(grid)
        label_map, _ = words.label(grid)
        np.testing.assert_array_equal(label_map, tensors[f"{key}/pred"].numpy())
        for ours, theirs in zip(words.probabilities(grid, range(4)), tensors[f"{key}/probs"].numpy(), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-6)


# FreeCP by way of the segmenter; its parts against the authors' code are in test_golden_freecp.py


@pytest.fixture(scope="module")
def two_windows(tiny):
    return tiny.encode(make_scene(3, split="val").image)


def test_freecp_filters_windows_and_keeps_cosines(tiny, two_windows):
    found = tiny.classify(two_windows, LABELS, presence="freecp-filter:0.1:0.7")
    assert found.absent
    assert set(found.absent).isdisjoint(found.labels[index] for index in np.unique(found.label_map))
    assert all(reason.startswith("of ") and "window" in reason for reason in found.absent.values())
    assert all(0 <= verdict.competed <= 1 for verdict in found.verdicts.values())
    everyone = replace(Vocabulary.parse(LABELS), pinned=tuple(LABELS))
    plain = tiny.classify(two_windows, LABELS)
    np.testing.assert_array_equal(
        tiny.classify(two_windows, everyone, presence="freecp-filter").label_map, plain.label_map
    )


def test_freecp_labels_by_its_maps(tiny, two_windows):
    vocabulary = Vocabulary.parse(LABELS, background="auto")
    found = tiny.classify(two_windows, vocabulary, presence="freecp:0.05:0.7")
    maps = np.stack(list(found.probability_maps()))
    background = found.vocabulary.background_index
    others = np.delete(maps, background, axis=0)
    np.testing.assert_allclose(maps[background], 1 - others.max(axis=0), atol=1e-6)
    np.testing.assert_array_equal(found.label_map == background, maps[background] >= others.max(axis=0))
    np.testing.assert_allclose(found.scores, maps.max(axis=0), atol=1e-6)
    name, value = found.ranking(20, 30)[0]
    assert (name, value) == (
        found.labels[found.label_map[20, 30]],
        pytest.approx(float(found.scores[20, 30]), abs=1e-6),
    )


def test_freecp_has_a_background_of_its_own(tiny, two_windows):
    rest = Vocabulary.parse(LABELS, background="rest")
    assert tiny.classify(two_windows, rest, presence="freecp").labels[0] == "rest"
    with pytest.raises(UsageError, match="leave out threshold and area"):
        tiny.classify(two_windows, rest, presence="freecp", threshold=0.5)
    with pytest.raises(UsageError, match="stitches them first"):
        tiny.classify(two_windows, LABELS, presence="freecp-filter", method="clearclip[stitched=mean]")


def test_encoded_once_asked_with_and_without_freecp(tiny):
    image = make_scene(5, split="val").image
    fresh = tiny(image, LABELS, presence="freecp-filter", method="sclip[residual=drop]")
    encoded = tiny.encode(image, method="sclip[residual=drop]")
    before = tiny.classify(encoded, LABELS, method="sclip[residual=drop]")
    asked = tiny.classify(encoded, LABELS, method="sclip[residual=drop]", presence="freecp-filter")
    np.testing.assert_array_equal(asked.label_map, fresh.label_map)
    assert asked.absent == fresh.absent
    again = tiny.classify(encoded, LABELS, method="sclip[residual=drop]")
    np.testing.assert_array_equal(again.label_map, before.label_map)


def test_a_window_of_which_freecp_leaves_nothing_is_decided_by_its_cosines(tiny, two_windows):
    found = tiny.classify(two_windows, LABELS, presence="freecp-filter:0.5:0.7")
    np.testing.assert_array_equal(found.label_map, tiny.classify(two_windows, LABELS).label_map)
    assert not found.absent
    maps = tiny.classify(two_windows, LABELS, presence="freecp:0.5:0.7")
    assert not maps.label_map.any(), "the authors' rule: the first label where all maps are 0"
    with_background = Vocabulary.parse([*LABELS, "rock"], background="rock")
    assert (tiny.classify(two_windows, with_background, presence="freecp-filter:0.5:0.7").label_map == 6).all()


def test_too_many_crops_are_told(tiny, two_windows, monkeypatch):
    monkeypatch.setattr("clearclip.classify.freecp.MOST_CROPS", 0)
    with pytest.warns(UserWarning, match="crops of a window at most"):
        tiny.classify(two_windows, LABELS, presence="freecp-filter:0:0")


# Folders, rasters, the command line


@pytest.fixture
def scenes_folder(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(make_scene(index, split="val").image).save(folder / f"{index}.png")
    return folder


def test_a_folder_says_which_labels_were_left_out(run, scenes_folder, tmp_path):
    out = tmp_path / "out"
    command = ("segment", scenes_folder, "-l", ",".join(LABELS), "--model", "tiny", "--device", "cpu", "-o", out)
    ran = run(*command, "--presence", "weak:0.6", "--pin", "umbrella", "--json")
    assert ran.code == 0
    report = json.loads(ran.out)
    described = json.loads((out / "labels.json").read_text())
    assert report["absent"] == described["absent"]
    assert "umbrella" not in described["absent"]
    assert described["presence"] == "weak:0.6"
    assert described["labels"][5]["pinned"] is True
    with Image.open(out / "0.png") as written:
        absent = json.loads(written.text["absent"])
        assert not {LABELS.index(name) for name in absent} & set(np.unique(np.asarray(written)).tolist())
    assert all(count <= 3 for count in report["absent"].values())
    again = run(*command, "--presence", "weak:0.5")
    assert again.code == 2
    assert "other settings (labels, presence)" in again.err
    told = run(*command[:-1], tmp_path / "text", "--presence", "weak:0.6")
    assert "labels that did not compete, and in how many images: " in told.err


def test_shards_are_merged_to_the_same_bytes(run, scenes_folder, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command = ("segment", scenes_folder, "-l", "person,umbrella", "--background", "auto", "--presence", "weak:0.6")
    command += ("--model", "tiny", "--device", "cpu", "--batch-size", "1", "--format", "png,coco", "-o")
    assert run(*command, whole).code == 0
    for part in ("1/2", "2/2"):
        assert run(*command, parts, "--shard", part).code == 0
    assert run("merge", parts).code == 0
    for name in ("labels.json", "coco.json", "0.png"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_background_words_from_a_file(run, scenes_folder, tmp_path):
    words, out = tmp_path / "others.txt", tmp_path / "out"
    words.write_text("sky\ngrass = lawn\nPerson\n")
    ran = run(
        "segment", scenes_folder / "0.png", "-l", "person", "--background-words", words, "--model", "tiny", "-o", out
    )
    assert ran.code == 0, ran.err
    assert json.loads((out / "labels.json").read_text())["labels"][0]["queries"] == ["sky", "grass", "lawn"]


@pytest.mark.parametrize("rule", [{"presence": "weak:0.9"}, {"area": 0.1}])
def test_a_raster_is_decided_once(tiny, tmp_path, rule, monkeypatch):
    pytest.importorskip("rasterio")
    from clearclip.large import label

    pixels = np.concatenate([make_scene(index, split="val").image for index in (0, 1, 2)], axis=1)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    segmenter = clearclip.Segmenter(tiny.backbone, protocol=replace(tiny.protocol, **rule), show_progress=False)
    arguments = {"labels": LABELS, "output": tmp_path / "out.tif", "block": 256}
    surveys = []
    survey = label._Work.survey
    monkeypatch.setattr(label._Work, "survey", lambda self, advance: surveys.append(1) or survey(self, advance))
    write = label._Work.write
    monkeypatch.setattr(label._Work, "write", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        label.segment_large(segmenter, tmp_path / "wide.png", **arguments)
    monkeypatch.setattr(label._Work, "write", write)
    result = label.segment_large(segmenter, tmp_path / "wide.png", **arguments)
    assert surveys == [1], "what was found is kept for the next start"
    assert result.absent
    assert all(result.pixels[name] == 0 for name in result.absent)
    assert sum(result.pixels.values()) == pixels.shape[0] * pixels.shape[1]


def test_a_raster_by_freecp(tiny, tmp_path):
    pytest.importorskip("rasterio")
    from clearclip.large.label import segment_large

    Image.fromarray(make_scene(0, split="val").image).save(tmp_path / "one.png")
    for rule in ("freecp", "freecp-filter"):
        segmenter = clearclip.Segmenter(
            tiny.backbone, protocol=replace(tiny.protocol, presence=rule), show_progress=False
        )
        result = segment_large(segmenter, tmp_path / "one.png", labels=LABELS, output=tmp_path / f"{rule}.tif")
        assert sum(result.pixels.values()) == 256 * 320


def test_an_oracle_of_presence_asks_the_truth(run, tiny, tmp_path):
    command = ("evaluate", "scenes", "--model", "tiny", "--device", "cpu", "--limit", "2", "-o", tmp_path, "--json")
    plain, oracle = (json.loads(run(*command, *more).out)[0] for more in ((), ("--oracle-labels",)))
    assert oracle["config"]["protocol"]["presence"] == "oracle"
    assert oracle["miou"] >= plain["miou"]
    assert oracle["run"] != plain["run"]
    with pytest.raises(UsageError, match="needs the truth"):
        tiny(make_scene(0).image, LABELS, presence="oracle")


def test_no_folder_is_begun_with_a_rule_that_needs_the_truth(run, scenes_folder, tmp_path):
    ran = run(
        "segment", scenes_folder, "-l", "sky,car", "--model", "absent.pt", "-o", tmp_path / "o", "--presence", "oracle"
    )
    assert (ran.code, ran.err) == (
        2,
        "error: --presence oracle needs the truth: `clearclip evaluate --oracle-labels` has it\n",
    )


def test_own_data_sets_keep_their_values(run, tmp_path, scenes_folder):
    truth = tmp_path / "truth"
    truth.mkdir()
    for index in range(3):
        here = make_scene(index, split="val").label_map == CLASSES.index("person")
        Image.fromarray(here.astype(np.uint8)).save(truth / f"{index}.png")
    command = ("evaluate", "--images", scenes_folder, "--annotations", truth, "--model", "tiny", "-o", tmp_path / "out")
    names = tmp_path / "names.txt"
    names.write_text("person\ncar\n")
    refused = run(*command, "--labels", names, "--background", "auto")
    assert refused.code == 2
    assert "call one of the labels 'background'" in refused.err
    names.write_text("person\n")
    alone = run(*command, "--labels", names, "--ignored", "0", "--json")
    assert alone.code == 0, alone.err
    assert [*json.loads(alone.out)[0]["classes"]] == ["person"]
    names.write_text("background\nperson\n")
    ran = run(*command, "--labels", names, "--background", "auto", "--json")
    assert ran.code == 0, ran.err
    (record,) = json.loads(ran.out)
    assert "sky" in record["config"]["labels"][0]
    assert record["classes"]["person"]["iou"] > 20


def test_a_label_that_freecp_drops_in_a_window_wins_nothing_there(tiny):
    pixels = np.concatenate([make_scene(index, split="val").image for index in (0, 3)], axis=1)
    protocol = replace(tiny.protocol.in_pixels(112), crop_size=224, stride=224)
    segmenter = clearclip.Segmenter(tiny.backbone, protocol=protocol, show_progress=False)
    encoded = segmenter.encode(pixels)
    found = segmenter.classify(encoded, LABELS, presence="freecp-filter:0.1:0.7")
    partly = [name for name, verdict in found.verdicts.items() if 0 < verdict.competed < 1]
    assert partly
    grid, plan = found._grid, encoded.plan
    lost = 0
    for index, (cells, made) in enumerate(zip(grid.windows(), grid.filtered, strict=True)):
        winners = cells.argmax(dim=-1).unique().tolist()
        assert all(made.kept[label] for label in winners)
        plain = segmenter.encoder.features([encoded], segmenter.method)
        features = next(one for _, number, one, _ in plain if number == index)
        lost += sum(not made.kept[label] for label in (features @ found._words.text.T).argmax(dim=-1).unique().tolist())
    assert lost, "without the filter a dropped label would win somewhere"
    assert plan.count > 1


def test_the_area_s_limit_loses_too():
    vocabulary = Vocabulary.parse(["rest", "a", "b"], background="rest")
    assert small(np.array([50, 10, 90]), vocabulary, 0.1) == [1]
    assert small(np.array([50, 11, 89]), vocabulary, 0.1) == []
