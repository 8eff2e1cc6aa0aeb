"""Label Studio's tasks, read back by its own SDK: the brush's bits, the interface, the prediction."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from clearclip.formats import Choices, Run, Writer, get_formats
from clearclip.formats.labelstudio import brush_rle
from format_cases import INFO, LABEL_MAPS, NAMES, make

THINGS = Choices(things=(NAMES[1],))


def tasks_of(done):
    return json.loads((done.folder / "labelstudio.json").read_text(encoding="utf-8"))


def test_tasks(write):
    done = write("labelstudio", choices=THINGS)
    tasks = tasks_of(done)
    assert len(tasks) == len(LABEL_MAPS)
    for stem, task in zip(sorted(LABEL_MAPS), tasks, strict=True):
        (prediction,) = task["predictions"]
        assert task["data"]["image"] == "/data/local-files/?d=" + str(done.images / f"{stem}.png").lstrip("/")
        assert task["meta"] == {**INFO, "source": str(done.images / f"{stem}.png")}
        assert prediction["model_version"] == "clearclip test / tiny & <small> / clearclip"
        assert prediction["score"] == pytest.approx(done.results[stem].scores.mean(), abs=1e-5)
        identities = [result["id"] for result in prediction["result"]]
        assert len(set(identities)) == len(identities)
    interface = ElementTree.parse(done.folder / "labelstudio.xml")
    assert [label.get("value") for label in interface.iter("Label")] == NAMES


def test_addresses(tmp_path):
    result = make(LABEL_MAPS["full"])
    writer = Writer(get_formats(["labelstudio"]), Run(tmp_path, result.vocabulary, INFO))
    sources = {"./my photos/a#1.jpg": "/data/local-files/?d=my%20photos/a%231.jpg", "s3://b/c.jpg": "s3://b/c.jpg"}
    records = [writer.write(result, stem=f"{n}", source=source) for n, source in enumerate(sources)]
    writer.finish(lambda: iter(records))
    tasks = json.loads((tmp_path / "labelstudio.json").read_text(encoding="utf-8"))
    assert [task["data"]["image"] for task in tasks] == list(sources.values())


def test_the_sdk_reads_the_brushes(write):
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="the extra interop is not installed")
    done = write("labelstudio", choices=THINGS)
    for stem, task in zip(sorted(LABEL_MAPS), tasks_of(done), strict=True):
        found = np.full(LABEL_MAPS[stem].shape, -1)
        for result in task["predictions"][0]["result"]:
            # as the SDK's converter flattens a result before it decodes it
            flat = {**result, **result["value"]}
            (layer,) = brush.decode_from_annotation(result["from_name"], [flat]).values()
            assert set(np.unique(layer)) <= {0, 255}
            assert (found[layer > 0] == -1).all()
            found[layer > 0] = NAMES.index(result["value"]["brushlabels"][0])
        assert np.array_equal(found, LABEL_MAPS[stem])


def test_the_sdk_accepts_interface_and_predictions(write):
    interface = pytest.importorskip("label_studio_sdk.label_interface", reason="the extra interop is not installed")
    done = write("labelstudio")
    checked = interface.LabelInterface((done.folder / "labelstudio.xml").read_text(encoding="utf-8"))
    checked.validate()
    assert set(checked.get_tag("label").labels) == set(NAMES)
    for task in tasks_of(done):
        assert checked.validate_prediction(task["predictions"][0], return_errors=True) == []


def unpacked(data):
    """The values in rle-pack's bits, read one by one: a plain reference for when the SDK is not there."""
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8)).tolist()
    place = 0

    def read(count):
        nonlocal place
        place += count
        return int("".join(map(str, bits[place - count : place])), 2)

    count, width = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < count:
        repeated, length = read(1), read(lengths[read(2)]) + 1
        values += [read(width)] * length if repeated else [read(width) for _ in range(length)]
    assert len(values) == count
    assert len(bits) - place < 8
    return np.array(values)


@pytest.mark.parametrize("stem", LABEL_MAPS)
def test_bits_hold_the_mask(stem):
    for value in range(4):
        mask = (LABEL_MAPS[stem] == value).astype(np.uint8)
        assert np.array_equal(unpacked(brush_rle(mask)), np.repeat(mask.ravel() * 255, 4))


def test_runs_longer_than_a_length_holds():
    mask = np.zeros((200, 300), dtype=np.uint8)
    mask[:, :150] = 1
    mask[100:] = 1
    assert np.array_equal(unpacked(brush_rle(mask)), np.repeat(mask.ravel() * 255, 4))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (40, 30), (300, 400)])
@pytest.mark.parametrize("density", [0.0, 0.001, 0.5, 1.0])
def test_the_bits_are_the_sdks(shape, density):
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="the extra interop is not installed")
    mask = (np.random.default_rng(1).random(shape) < density).astype(np.uint8)
    ours, theirs = list(brush_rle(mask)), brush.mask2rle(mask * 255)
    assert ours == theirs[: len(ours)]
    assert not any(theirs[len(ours) :])
    assert np.array_equal(brush.decode_rle(ours).reshape(*shape, 4), np.repeat(mask[..., None] * 255, 4, axis=2))
