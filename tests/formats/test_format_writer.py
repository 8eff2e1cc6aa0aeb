"""Several formats in one run: what is checked, kept, streamed, and written again after a stop."""

import json
import pickle
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from clearclip import Segmentation, UsageError
from clearclip.engine.run import segment_files
from clearclip.formats import (
    FORMAT_NAMES,
    Choices,
    Run,
    Writer,
    arrays,
    get_formats,
    merge_records,
    safe_stem,
)
from clearclip.formats.base import image_name
from format_cases import INFO, LABEL_MAPS, NAMES, make

pycocotools = pytest.importorskip("pycocotools.coco")
LABELS = ["sky", "tree", "grass"]
RUN_LEVEL = ("coco", "panoptic", "labelstudio", "cvat", "parquet")


def test_every_name_is_a_format():
    assert [format_.name for format_ in get_formats(FORMAT_NAMES)] == list(FORMAT_NAMES)
    with pytest.raises(UsageError, match="format 'coko' is not known: did you mean 'coco'"):
        get_formats(["coko"])
    with pytest.raises(UsageError, match="no format was given"):
        get_formats([])


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("coco", "pycocotools"),
        ("geojson", "shapely"),
        ("geojson", "rasterio"),
        ("yolo", "cv2"),
        ("parquet", "pyarrow"),
        ("cvat", "cv2"),
    ],
)
def test_a_missing_library_is_said_before_anything_runs(name, library, tmp_path, monkeypatch):
    for module in [module for module in sys.modules if module.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, library, None)
    writer = Writer(get_formats([name]), Run(tmp_path, make(LABEL_MAPS["full"]).vocabulary, INFO))
    with pytest.raises(
        UsageError, match=rf'format \'{name}\' needs {library} .*python -m pip install ".*the extra \'formats\''
    ):
        writer.check()


@pytest.mark.parametrize("name", [name for name in FORMAT_NAMES if name != "npz"])  # that one needs logits
def test_the_core_alone_writes_pictures(name, tmp_path, monkeypatch):
    """What a format declares is what it uses: without the rest it works."""
    (format_,) = get_formats([name])
    declared = {library.partition(".")[0] for library in format_.libraries}
    optional = {"cv2", "shapely", "rasterio", "pyarrow", "pycocotools", "supervision"} - declared
    for module in [module for module in sys.modules if module.partition(".")[0] in optional]:
        monkeypatch.setitem(sys.modules, module, None)
    for library in optional:
        monkeypatch.setitem(sys.modules, library, None)
    result = make(LABEL_MAPS["rings"])
    writer = Writer((format_,), Run(tmp_path, result.vocabulary, INFO, Choices(things=(NAMES[0],))))
    if name in ("png", "preview", "overlay", "masks"):
        writer = Writer((format_,), Run(tmp_path, result.vocabulary, INFO))
        assert not declared
    writer = pickle.loads(pickle.dumps(writer))  # as it travels to a worker
    writer.check()
    record = writer.write(result, stem="x", source="x.png")
    writer.finish(lambda: iter([record]))


def test_things_must_be_labels(tmp_path):
    writer = Writer(get_formats(["coco"]), Run(tmp_path, make(LABEL_MAPS["full"]).vocabulary, INFO, Choices(("sun",))))
    with pytest.raises(UsageError, match="label 'sun' is none of this vocabulary"):
        writer.check()
    with pytest.raises(UsageError, match="min_area=-1: a number of pixels"):
        Choices(min_area=-1)


def test_records_are_json_and_the_same_bytes_follow_from_them(write):
    names = [name for name in FORMAT_NAMES if name != "npz"]
    first = write(*names, choices=Choices(things=tuple(NAMES[:2])))
    again = write(*names, choices=Choices(things=tuple(NAMES[:2])), folder="again")
    assert json.loads(json.dumps(first.records)) == first.records == again.records
    files = {file.relative_to(first.folder) for file in first.folder.rglob("*") if file.is_file()}
    assert files == {file.relative_to(again.folder) for file in again.folder.rglob("*") if file.is_file()}
    for file in files:
        assert (first.folder / file).read_bytes() == (again.folder / file).read_bytes(), file


def test_finish_holds_no_more_than_a_few_images(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "ROW_GROUP", 20)
    result = make(LABEL_MAPS["rings"])
    writer = Writer(get_formats(RUN_LEVEL), Run(tmp_path, result.vocabulary, INFO, Choices(things=(NAMES[0],))))
    record = json.dumps(writer.write(result, stem="x", source="x.png"))

    def peak(count):
        def records():
            for number in range(count):
                yield {**json.loads(record), "stem": f"{number:06d}"}

        tracemalloc.start()
        writer.finish(records)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1)
    few, many = peak(40), peak(400)
    assert many < few + 40 * len(record)  # as objects, 360 more would take several times their length as text
    assert len(json.loads((tmp_path / "coco.json").read_text(encoding="utf-8"))["images"]) == 400


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decode
def test_a_run_with_all_formats(segmenter, photo, tmp_path):
    paths = [photo(f"{name}.png", 40 + 10 * number, 50, seed=number) for number, name in enumerate("abc")]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    out = tmp_path / "out"
    options = {"labels": LABELS, "output": out, "choices": Choices(things=("tree",))}
    report = segment_files(segmenter, [paths[0], broken, paths[2]], formats=FORMAT_NAMES, **options)
    assert (report.done, len(report.failed)) == (2, 1)
    first = json.loads((out / "coco.json").read_text(encoding="utf-8"))
    assert [image["file_name"] for image in first["images"]] == ["a.png", "c.png"]
    report = segment_files(segmenter, [*paths, broken], formats=FORMAT_NAMES, **options)
    assert (report.done, report.skipped, len(report.failed)) == (1, 2, 1)
    coco = pycocotools.COCO(str(out / "coco.json"))
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == ["a.png", "b.png", "c.png"]
    for image in coco.loadImgs(coco.getImgIds()):
        with Image.open(out / image["file_name"]) as written:
            label_map = np.asarray(written)
        found = np.full(label_map.shape, -1)
        for annotation in coco.imgToAnns[image["id"]]:
            found[coco.annToMask(annotation).astype(bool)] = annotation["category_id"] - 1
        assert np.array_equal(found, label_map)
        assert np.array_equal(found, segmenter(tmp_path / image["file_name"], LABELS).label_map)
    assert coco.dataset["info"]["method"] == "clearclip"
    assert segment_files(segmenter, paths, formats=FORMAT_NAMES, **options).skipped == 3
    (out / "geojson" / "b.geojson").unlink()
    assert segment_files(segmenter, paths, formats=FORMAT_NAMES, **options).done == 1


def test_a_format_asked_for_later(segmenter, photo, tmp_path):
    paths = [photo("a.png"), photo("b.png", seed=1)]
    out = tmp_path / "out"
    segment_files(segmenter, paths[:1], labels=LABELS, output=out, formats=["png", "coco"])
    segment_files(segmenter, paths, labels=LABELS, output=out, formats=["cvat"])
    segment_files(segmenter, paths, labels=LABELS, output=out, formats=["coco"])
    assert len(json.loads((out / "coco.json").read_text(encoding="utf-8"))["images"]) == 2


def test_merged_records_keep_both_formats():
    old = {"stem": "a", "source": "old", "formats": {"png": {}, "coco": {"annotations": [1]}}}
    new = {"stem": "a", "source": "new", "formats": {"coco": {"annotations": [2]}}}
    assert merge_records(None, new) == new
    assert merge_records(old, new) == {
        "stem": "a",
        "source": "new",
        "formats": {"png": {}, "coco": {"annotations": [2]}},
    }


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("photos/a b.jpg", "a b.jpg"),
        ("a#b.jpg", "a#b.jpg"),
        ("s3://bucket/folder/a.jpg?version=1", "a.jpg"),
        ("shards/one.tar#x/0001.jpg", "0001.jpg"),
        ("s3://bucket/one.parquet#7", "7"),
        ("https://host/", "host"),
    ],
)
def test_names_of_images(source, name):
    assert image_name({"source": source, "stem": "stem"}) == name


@pytest.mark.parametrize("name", ["a", "ü 🚗", "..", "a/b", "a\\b", "", " ", "a\0b", "x:y", "\udcff"])
def test_a_stem_stays_in_its_folder(name, tmp_path):
    stem = safe_stem(name)
    assert stem == safe_stem(stem)
    (tmp_path / f"{stem}.png").touch()
    assert [file.name for file in tmp_path.iterdir()] == [f"{stem}.png"]
    writer = Writer(get_formats(["png"]), Run(tmp_path, make(LABEL_MAPS["full"]).vocabulary, INFO))
    if stem != name:
        if name == "a/b":
            return  # a folder of the output
        with pytest.raises(UsageError, match="cannot be a file's"):
            writer.write(make(LABEL_MAPS["full"]), stem=name, source="x.png")


def test_a_label_map_from_elsewhere_has_no_scores(tmp_path):
    made = make(LABEL_MAPS["rings"])
    result = Segmentation(made.label_map, made.vocabulary, made.image)
    assert made.has_scores
    assert not result.has_scores
    names = [name for name in FORMAT_NAMES if name != "npz"]
    writer = Writer(get_formats(names), Run(tmp_path, result.vocabulary, {}))
    record = writer.write(result, stem="x", source="x.png")
    writer.finish(lambda: iter([record]))
    assert "score" not in (tmp_path / "coco.json").read_text(encoding="utf-8")
    assert '"score"' not in (tmp_path / "labelstudio.json").read_text(encoding="utf-8")
    assert 'name="score"' not in (tmp_path / "cvat.xml").read_text(encoding="utf-8")
    table = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "regions.parquet")
    assert table["score"].null_count == len(table) == 2
    pytest.importorskip("supervision")
    assert result.to_detections().confidence is None


@pytest.mark.parametrize("name", ["aux", "CON", "nul.tar", "com1", "lpt9 "])
def test_names_of_windows_devices_are_no_names(name):
    assert safe_stem(name) == f"_{name}"


@pytest.mark.parametrize("name", ["auxiliary", "console", "com", "com10", "anul"])
def test_names_that_only_begin_as_a_device_stay(name):
    assert safe_stem(name) == name
