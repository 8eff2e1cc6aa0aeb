"""What the fuzzer found, each as a test of its own."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from clearclip.benchmarks.readers import read_index_map
from clearclip.benchmarks.results import append_results, read_results
from clearclip.benchmarks.state import load_state
from clearclip.encode.text import embed_queries
from clearclip.errors import ClearclipError, ImageError
from clearclip.files.label_maps import read_settings

RECORD = {"benchmark": "voc20", "model": "tiny", "method": "gem", "miou": 1.0, "classes": {"sky": {"iou": 1.0}}}
pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")


def test_a_cached_embedding_under_anothers_name_is_made_again(backbone, tmp_path):
    apart = [embed_queries(backbone, [word], cache_dir=tmp_path / word) for word in ("sky", "car")]
    sky, car = (next((tmp_path / word).rglob("*.safetensors")) for word in ("sky", "car"))
    shutil.copy(car, sky)
    again = embed_queries(backbone, ["sky"], cache_dir=tmp_path / "sky")
    assert torch.equal(again, apart[0])
    assert not torch.equal(again, apart[1])


@pipes
def test_pipes_in_an_output_folder_do_not_hang(tmp_path):
    for name in ("state.npz", "map.png", "labels.json", "results.jsonl"):
        os.mkfifo(tmp_path / name)
    assert read_settings(tmp_path / "labels.json") is None
    with pytest.raises(ClearclipError, match="a named pipe"):
        load_state(tmp_path / "state.npz")
    with pytest.raises(ClearclipError, match="a named pipe"):
        read_results([tmp_path])
    with pytest.raises(ImageError, match="a named pipe"):
        read_index_map(tmp_path / "map.png")


@pipes
def test_a_pipe_among_the_label_maps_of_a_video_is_no_label_map(run, tmp_path):
    video, masks = tmp_path / "v.mkv", tmp_path / "v-masks"
    frames(video)
    line = ("video", video, "-l", "sky", "-l", "car", "--model", "tiny", "-o", tmp_path / "v.mp4", "--masks")
    assert run(*line).code == 0
    (tmp_path / "v.mp4").unlink()
    (masks / "000000.png").unlink()
    os.mkfifo(masks / "000000.png")
    ran = run(*line)
    assert ran.code in (0, 2)
    assert "Traceback" not in ran.err


@pytest.fixture
def cut_short(tmp_path):
    """A label map whose end was lost, zeros in its place, as some file systems leave it."""

    def call(file):
        data = file.read_bytes()
        end = data.rindex(b"IEND") - 8
        file.write_bytes(data[: end - 7] + bytes(len(data) - end + 7))

    return call


def test_a_label_map_whose_end_was_lost_is_not_read(tmp_path, cut_short):
    file = tmp_path / "map.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 20, (40, 56), dtype=np.uint8)).save(file)
    cut_short(file)
    with Image.open(file) as image:
        image.load()  # Pillow does not notice
    with pytest.raises(ImageError, match="the label map cannot be read"):
        read_index_map(file)


def test_a_label_map_of_a_video_whose_end_was_lost_is_made_again(run, tmp_path, cut_short):
    video, file = tmp_path / "v.mkv", tmp_path / "v-masks" / "000001.png"
    frames(video)
    line = ("video", video, "-l", "sky", "-l", "car", "--model", "tiny", "-o", tmp_path / "v.mp4", "--masks")
    assert run(*line).code == 0
    (tmp_path / "v.mp4").unlink()
    whole = file.read_bytes()
    cut_short(file)
    assert run(*line).code == 0
    assert file.read_bytes() == whole


def test_a_refused_run_leaves_nothing_in_the_folder(run, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "p.png")
    line = ("segment", tmp_path / "p.png", "-l", "sky", "-l", "car", "--model", "tiny", "-o", tmp_path / "out")
    assert run(*line).code == 0
    (tmp_path / "out" / "labels.json").write_text("{}")
    os.utime(tmp_path / "out" / "labels.json", ns=(1, 1))
    before = sorted((tmp_path / "out").iterdir())
    ran = run(*line)
    assert (ran.code, "labels.json was changed since it was written" in ran.err) == (2, True)
    assert sorted((tmp_path / "out").iterdir()) == before


def frames(path):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "bgr0"
        for level in (0, 128):
            frame = av.VideoFrame.from_image(Image.fromarray(np.full((32, 32, 3), level, np.uint8)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    "changed",
    [
        {"config": 0}, {"config": {"threshold": "x"}}, {"published": 7}, {"published": {"miou": []}}, {"method": None},
        {"miou": {}}, {"classes": []}, {"classes": {"sky": 1}}, {"benchmark": ["voc20"]}, {"miou": 10**400},
    ],
)  # fmt: skip
@pytest.mark.parametrize("view", ["runs", "methods", "classes"])
def test_damaged_records_are_named_by_their_line(run, tmp_path, changed, view):
    file = tmp_path / "results.jsonl"
    file.write_text(json.dumps(RECORD) + "\n" + json.dumps({**RECORD, **changed}) + "\n")
    ran = run("results", file, "--view", view)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "line 2 is no record" in ran.err


def test_nested_without_end_is_no_record(tmp_path):
    (tmp_path / "results.jsonl").write_text("[" * 100_000)
    with pytest.raises(ClearclipError, match="line 1 is no record"):
        read_results([tmp_path])


def test_results_are_not_added_to_a_file_that_a_link_leads_to(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.jsonl").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(ClearclipError, match="cannot be appended to"):
        append_results(None, tmp_path / "out")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_state_under_the_name_of_another_runs_is_refused(run, tmp_path):
    def evaluate(method, *more):
        line = ("evaluate", "scenes", "--limit", "1", "--model", "tiny", "--template", "{}", "--method", method)
        return run(*line, "-o", tmp_path, *more)

    def states():
        return set((tmp_path / "state").glob("*.npz"))

    assert evaluate("vanilla").code == 0
    (first,) = states()
    assert evaluate("clearclip").code == 0
    (second,) = states() - {first}
    shutil.copy(first, second)
    ran = evaluate("clearclip")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "is the state of another run" in ran.err
    second.unlink()
    assert evaluate("clearclip").code == 0
