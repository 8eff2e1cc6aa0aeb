"""Where results of `large` may be written, and what an interrupted run left there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from clearclip.errors import UsageError
from clearclip.files.writing import claim
from clearclip.large.kept import Band, Layout, UnfinishedBands

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def test_two_runs_never_write_one_file(label, make, tmp_path):
    image, targets = make(), {"output": "out.tif", "scores": "scores.tif", "polygons": "out.geojson"}
    for held in targets.values():
        with claim(tmp_path / held, is_file=True), pytest.raises(UsageError, match="another run is at work there"):
            label(image, **{role: tmp_path / name for role, name in targets.items()})
    assert [file.name for file in tmp_path.iterdir()] == ["photo.tif"]


@pytest.mark.parametrize("role", ["output", "scores", "polygons"])
def test_what_is_not_ours_is_never_replaced(label, make, tmp_path, role):
    image = make()
    foreign = tmp_path / ("other.geojson" if role == "polygons" else "other.tif")
    contents = [b"", b"precious", make("theirs.tif").read_bytes(), b'{"info": {"software": "mine"},\n "features": []}']
    for content in (*contents, b"[" * 100_000):
        foreign.write_bytes(content)
        with pytest.raises(UsageError, match=r"was not made by clearclip: name another file, or delete that one"):
            label(image, **{role: foreign}, overwrite=True)
        assert foreign.read_bytes() == content
    foreign.unlink()
    label(image, **{role: foreign})
    label(image, **{role: foreign}, overwrite=True)


def test_an_input_is_never_an_output(label, make, tmp_path):
    image = make()
    label(image, output=tmp_path / "map.tif")  # one of ours, which `overwrite` would replace
    before = (tmp_path / "map.tif").read_bytes()
    (tmp_path / "link.tif").symlink_to(tmp_path / "map.tif")
    (tmp_path / "hard.tif").hardlink_to(tmp_path / "map.tif")
    for name in ("map.tif", "link.tif", "hard.tif", "../" + tmp_path.name + "/map.tif"):
        with pytest.raises(UsageError, match="is the image itself"):
            label(tmp_path / "map.tif", output=tmp_path / name, bands=(1,), overwrite=True)
    assert (tmp_path / "map.tif").read_bytes() == before
    with pytest.raises(UsageError, match="two results"):
        label(image, output=tmp_path / "a.tif", scores=tmp_path / "A.tif")


BESIDE = ("map.tif.ovr", "map.tif.msk", "map.tif.aux.xml", "map.tif.OVR", "map.aux", "map.tfw", "map.wld", "map.TAB")


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("role", ["output", "scores"])
def test_old_files_that_would_be_read_with_a_result_are_refused(label, make, tmp_path, name, role):
    image, beside = make(), tmp_path / name
    beside.write_text("old")
    with pytest.raises(UsageError, match=r"would be read with it: move or delete it, or name another file"):
        label(image, **{role: tmp_path / "map.tif"}, overwrite=True)
    assert beside.read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([name, "photo.tif"])


def test_old_overviews_never_show_through_a_new_result(label, make, tmp_path):
    label(make())
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(tmp_path / "out.tif", "r+") as dataset:
        dataset.build_overviews([2])
    assert (tmp_path / "out.tif.ovr").exists()
    with pytest.raises(UsageError, match=r"out\.tif\.ovr stands beside out\.tif"):
        label(make("other.tif"), overwrite=True)


def test_a_world_file_does_not_matter_to_a_result_with_coordinates_of_its_own(label, make, tmp_path):
    (tmp_path / "out.tfw").write_text("2\n0\n0\n-2\n101\n299\n")
    transform = rasterio.Affine(3, 0, 7, 0, -3, 9)
    label(make(transform=transform, crs="EPSG:32633"))
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.transform == transform


def test_an_image_that_is_named_as_the_mask_of_its_result_is_refused(label, make, tmp_path):
    image = make("map.tif.msk")
    with pytest.raises(UsageError, match="would be read with it"):
        label(image, output=tmp_path / "map.tif")


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("x" * 250 + ".tif", "cannot be used .* choose another"),
        ("photo.tif/out.tif", "cannot be used .* choose another"),
        pytest.param(
            "/proc/out.tif",
            "no file can be made there",
            marks=pytest.mark.skipif(not Path("/proc/self").exists(), reason="none"),
        ),
    ],
)
@pytest.mark.timeout(60)
def test_places_that_cannot_be_written_are_named_before_the_work(label, make, tmp_path, output, reason):
    image = make()
    with pytest.raises(UsageError, match=reason):
        label(image, output=tmp_path / output)
    assert [file.name for file in tmp_path.iterdir()] == ["photo.tif"]


@pytest.mark.parametrize("other", ["out.tif/scores.tif", "out.tif.unfinished/scores.tif", "out.tif.unfinished/a/b.tif"])
def test_a_result_never_lies_inside_another(label, make, tmp_path, other):
    image = make()
    with pytest.raises(UsageError, match="would lie inside another result"):
        label(image, scores=tmp_path / other)
    assert [file.name for file in tmp_path.iterdir()] == ["photo.tif"]


def test_a_folder_of_that_name_that_is_not_ours_stays(label, make, tmp_path):
    image, folder = make(), tmp_path / "out.tif.unfinished"
    folder.mkdir()
    for name, content in (("notes.txt", "mine"), ("settings.json", "{"), ("settings.json", "[" * 100_000)):
        (folder / name).write_text(content)
        with pytest.raises(UsageError, match="not made by clearclip, or is damaged: move or delete it"):
            label(image, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    shutil.rmtree(folder)
    folder.symlink_to(tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        label(image, overwrite=True)


LAYOUT = Layout(width=30, dtype="uint8", labels=3, nodata=255, scores=True, windows=(4, 5))


@pytest.fixture
def kept(tmp_path):
    return UnfinishedBands.open(tmp_path / "out.tif", {"model": "m"}, LAYOUT, overwrite=False)


def band(rows=20, **changed):
    labels = np.random.default_rng(0).integers(0, 3, (rows, 30)).astype(np.uint8)
    arrays = {"labels": labels, "scores": labels / np.float32(3), "encoded": np.array([[0, 5]])}
    return Band(**{**arrays, **changed})


def test_bands_that_do_not_fit_are_made_again(kept):
    kept.write(0, band())
    file = kept.folder / "000000000.band"
    np.testing.assert_array_equal(kept.read(0, 20).labels, band().labels)
    assert kept.read(0, 19) is None
    assert kept.read(20, 20) is None
    shutil.copy(file, kept.folder / "000000020.band")
    assert kept.read(20, 20) is None  # another band's place
    whole = file.read_bytes()
    for cut in range(0, len(whole), 7):
        file.write_bytes(whole[:cut])
        assert kept.read(0, 20) is None
        file.write_bytes(whole[:cut] + bytes([whole[cut] ^ 1]) + whole[cut + 1 :])
        assert kept.read(0, 20) is None
    file.unlink()
    (kept.folder / "000000000.band").mkdir()
    assert kept.read(0, 20) is None


def test_forged_bands_are_made_again(kept):
    forged = [
        band(labels=np.full((20, 30), 3, np.uint8)),  # no such label
        band(labels=np.full((20, 30), 255, np.uint8)),  # nodata with scores
        band(scores=np.full((20, 30), np.nan, np.float32)),
        band(encoded=np.array([[0, 6]])),
        band(encoded=np.array([[-1, 1]])),
        band(encoded=np.zeros(3, np.int64)),
        band(rows=19),
        band(labels=np.zeros((50_000, 3000), np.uint8)),  # a bomb: 150 MB in 150 kB
    ]
    for one in forged:
        kept.write(0, one)
        assert kept.read(0, 20) is None


def test_bands_of_other_settings_are_refused_by_name(kept, tmp_path):
    kept.write(0, band())
    with pytest.raises(
        UsageError, match=re.escape("(model: m there, n here; weights: none there, 1 here): start with")
    ):
        UnfinishedBands.open(tmp_path / "out.tif", {"model": "n", "weights": "1"}, LAYOUT, overwrite=False)
    UnfinishedBands.open(tmp_path / "out.tif", {"model": "m"}, LAYOUT, overwrite=False)
    UnfinishedBands.open(tmp_path / "out.tif", {"model": "n"}, LAYOUT, overwrite=True)
    assert not kept.folder.exists()


def test_an_image_that_changed_does_not_go_on_with_old_bands(label, make, tmp_path, monkeypatch):
    image = make(height=100)
    monkeypatch.setattr("clearclip.large.label._Work._band", interrupt_after(1))
    with pytest.raises(KeyboardInterrupt):
        label(image, block=32)
    monkeypatch.undo()
    os.utime(image, ns=(1, 1))
    with pytest.raises(UsageError, match=r"\(stamp: \d+ \d+, mask none there, \d+ 1, mask none here\)"):
        label(image, block=32)


def interrupt_after(count):
    from clearclip.large.label import _Work

    made, original = [], _Work._band

    def call(self, top, **options):
        if len(made) == count:
            raise KeyboardInterrupt
        made.append(top)
        return original(self, top, **options)

    return call


KILLS = """
import os, signal, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
import clearclip
from clearclip.large.label import segment_large

folder = Path(sys.argv[1])
segmenter = clearclip.load("tiny")
names = {"output": "out.tif", "scores": "scores.tif", "polygons": "out.geojson"}

def run(name):
    targets = {role: folder / name / file for role, file in names.items()}
    segment_large(segmenter, folder / "photo.tif", labels=["sky", "grass"], block=32, overwrite=True, **targets)
    return [file.read_bytes() for file in targets.values()]

whole = run("whole")
rename = Path.replace
for moment in range(9):
    child = os.fork()
    if child == 0:
        calls = []
        def kill(self, target):
            calls.append(target)
            if len(calls) == moment + 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(self, target)
        Path.replace = kill
        run("killed")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print("killed" if os.WIFSIGNALED(status) else "ended", len(list((folder / "killed").rglob("*"))))
assert run("killed") == whole
print(sorted(file.name for file in (folder / "killed").iterdir()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_killed_at_any_moment_and_started_again_gives_the_same_bytes(make, tmp_path):
    make(height=100, crs="EPSG:4326", transform=rasterio.Affine(0.1, 0, 5, 0, -0.1, 50))
    done = subprocess.run(
        [sys.executable, "-c", KILLS, tmp_path], capture_output=True, text=True, check=False, env={**os.environ}
    )
    *moments, left = done.stdout.splitlines() or [done.stderr]
    assert left == "['out.geojson', 'out.tif', 'scores.tif']", done.stderr
    assert [line.split()[0] for line in moments].count("killed") >= 6
