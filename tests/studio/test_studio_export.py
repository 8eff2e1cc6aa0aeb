"""What is taken away gives the same result elsewhere."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image

from clearclip.errors import UsageError
from clearclip.service.models import Models
from clearclip.service.request import Limits, read_request
from clearclip.studio import export
from clearclip.vocabulary import Label

REQUESTS = {
    "plain": {"labels": ["sky", "grass", "house"]},
    "everything": {
        "labels": ["person=man|woman", "old house", "it's a tree @#00ff00", "x=car|bus @#123456"],
        "method": "clearclip[residual=beta:30,ffn=keep]",
        "threshold": 0.45,
        "background": "nothing of this",
        "templates": ["a 'quoted' photo of a {}.", "{}"],
    },
    "own background": {"labels": ["background=road", "sky"], "threshold": 0.4, "method": "gem"},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_lines_give_the_same_label_map(name, photo, run, tmp_path, monkeypatch):
    image = photo("an image.png", height=80, width=100)
    request = read_request(**REQUESTS[name], limits=Limits(), model="tiny", device="cpu")
    models = Models({"tiny": "tiny"}, devices=("cpu",))
    answer = models.segment(image, request, full=True)
    made = export.write_files(answer.first, tmp_path, stem="made", opacity=0.5)
    expected = np.asarray(Image.open(made[0]))
    lines = export.lines(request, image=image.name, source="tiny", method=next(iter(answer.results)), device="cpu")

    monkeypatch.chdir(image.parent)
    command = shlex.split(lines.command)
    assert command[0] == "clearclip"
    ran = run(*command[1:])
    assert ran.code == 0, ran.err
    assert np.array_equal(np.asarray(Image.open("results/an image.png")), expected)

    exec(compile(lines.python, "lines", "exec"), {})
    assert np.array_equal(np.asarray(Image.open("an image.labels.png")), expected)
    settings = json.loads((image.parent / "results" / "labels.json").read_text())
    assert [label["name"] for label in settings["labels"]] == list(answer.first.labels)
    assert [label["color"] for label in settings["labels"]] == answer.first.palette.tolist()


def test_a_name_that_the_text_form_cannot_carry():
    with pytest.raises(UsageError, match=r"'=', '\|' and '@#' have a meaning"):
        _ = Label("a=b").text


def test_record(photo, tmp_path):
    models = Models({"tiny": "tiny"}, devices=("cpu",))
    image = photo(height=64, width=72)
    request = read_request(["sky", "sea=ocean"], limits=Limits(), model="tiny", device="cpu", threshold=0.5)
    result = models.segment(image, request, full=True).first
    files = export.write_files(result, tmp_path, stem="x", opacity=0.5)
    assert [file.name for file in files] == ["x.labels.png", "x.overlay.png", "x.json"]
    record = json.loads(files[2].read_text())
    assert (record["height"], record["width"], record["background"]) == (64, 72, "background")
    assert record["made"]["model"] == "tiny"
    assert sum(entry["share"] for entry in record["labels"]) == pytest.approx(1, abs=1e-5)
    for entry in record["labels"]:
        inside = sum(
            abs(sum(x * y1 - x1 * y for (x, y), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True))) / 2
            * (1 if place == 0 else -1)
            for polygon in entry["polygons"]
            for place, ring in enumerate(polygon)
        )  # fmt: skip
        assert inside == (result.label_map == entry["index"]).sum()
    assert record["labels"][2]["queries"] == ["sea", "ocean"]


def test_example_there_and_back(photo, tmp_path):
    image = photo(height=20, width=30)
    settings = {"method": "sclip", "opacity": 0.7, "labels": "replaced"}
    request = read_request(["sky=air @#010203"], limits=Limits(), model="tiny")
    file = tmp_path / "example.json"
    file.write_text(export.example(settings, request=request, image=image, limits=Limits()), encoding="utf-8")
    state, name, picture = export.read_example(file, limits=Limits())
    assert (name, picture) == ("photo.png", image.read_bytes())
    assert state["labels"] == [{"name": "sky", "synonyms": ["air"], "color": "#010203"}]
    assert state["method"] == "sclip"


@pytest.mark.parametrize(
    "text",
    ["no json", "[]", "{}", '{"kind": "clearclip studio example"}', "[" * 100_000,
     '{"kind": "clearclip studio example", "image": {"name": "x", "base64": "***"}}'],
)  # fmt: skip
def test_what_is_no_example(tmp_path, text):
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"other\.json is no example"):
        export.read_example(file, limits=Limits())


def test_an_examples_file_name_stays_a_name(tmp_path):
    file = tmp_path / "evil.json"
    for evil in ("../../x.png", "/etc/passwd", "..", "a/b\\c\x00.png", ""):
        image = {"name": evil, "base64": ""}
        file.write_text(json.dumps({"kind": export.STATE_KIND, "image": image}))
        _, name, _ = export.read_example(file, limits=Limits())
        assert name
        assert not set(name) & set("/\\\0")
        assert name not in (".", "..")


def test_a_huge_example_is_refused(tmp_path):
    file = tmp_path / "huge.json"
    file.write_text(" " * 300)
    with pytest.raises(UsageError, match=r"huge.json .* it has 300 bytes, more than the limit of 200"):
        export.read_example(file, limits=Limits(upload_bytes=100))
