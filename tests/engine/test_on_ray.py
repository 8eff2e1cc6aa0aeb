"""Runs on Ray leave what runs of one process leave, whatever dies on the way."""

import errno

import numpy as np
import pytest
from PIL import Image

import standin
from bombs import bomb
from clearclip import ClearclipError, UsageError
from clearclip.engine.ray_pool import Fleet
from clearclip.engine.run import find_images, segment_files, segment_on_ray
from clearclip.engine.sources import find_sources

pytestmark = [
    # Ray's own: sockets and files that it leaves to the end of the process.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
FLEET = Fleet(2, gpus=0)


def local(sources, output, **options):
    options = {"labels": standin.LABELS, "batch_size": 3, **options}
    return segment_files(standin.load(), find_sources([str(sources)]), output=output, **options)


def on_ray(sources, output, *, load=None, **options):
    options = {"labels": standin.LABELS, "batch_size": 3, "fleet": FLEET, **options}
    return segment_on_ray(load or standin.loader(), find_sources([str(sources)]), output=output, **options)


def test_ray_leaves_the_same_files(cluster, images, tar, parquet, tmp_path, contents, error_rows):
    """Pictures, poisoned files, a tar with a poisoned member, rows of a table."""
    source = images(13)
    (source / "zero.jpg").touch()
    (source / "text.jpg").write_text("no picture")
    (source / "cut.png").write_bytes((source / "0000.png").read_bytes()[:200])
    bomb(source / "bomb.png")
    tar(8, "images/shard.tar", extra=[("bad.png", b"nothing")])
    parquet(7, "images/rows.parquet")
    (source / "gone.png").symlink_to(tmp_path / "nowhere.png")
    first, second = local(source, tmp_path / "local"), on_ray(source, tmp_path / "ray")
    assert (first.done, len(first.failed)) == (13 + 8 + 7, 6)
    assert first.as_dict() == second.as_dict()
    assert contents(tmp_path / "local") == contents(tmp_path / "ray")
    assert set(error_rows(tmp_path / "ray")) == {
        "zero.jpg", "text.jpg", "cut.png", "bomb.png", "shard.tar#bad.png", "rows.parquet#7"
    }  # fmt: skip
    again = on_ray(source, tmp_path / "ray")
    assert (again.done, again.skipped, len(again.failed)) == (0, 28, 6)


def test_an_image_that_kills_every_worker_is_one_row_of_the_error_table(
    cluster, images, tar, tmp_path, contents, error_rows
):
    source = images(9)
    deadly = Image.fromarray(np.full((20, 20, 3), standin.DEADLY, dtype=np.uint8))
    local(source, tmp_path / "expected")
    deadly.save(source / "0004x.png")
    report = on_ray(source, tmp_path / "ray")
    assert (report.done, len(report.failed)) == (9, 1)
    assert error_rows(tmp_path / "ray").keys() == {"0004x.png"}
    assert "every worker that reads it dies" in report.failed[0][1]
    found = contents(tmp_path / "ray")
    del found["errors.csv"]
    assert found == contents(tmp_path / "expected")


def test_a_full_disk_is_one_line_and_what_is_done_stays(cluster, images, tmp_path):
    source, output = images(8), tmp_path / "out"
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(source / "9999.png")
    with pytest.raises(ClearclipError, match=r"the disk is full\. \d images are done and stay") as caught:
        on_ray(source, output, load=standin.loader(file_bytes=20_000), formats=["png"])
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    report = on_ray(source, output, formats=["png"])
    assert (report.done + report.skipped, report.failed) == (9, [])


def test_what_workers_cannot_do_is_an_error_of_ours(cluster, images, tmp_path):
    source = images(1)
    with pytest.raises(UsageError, match="labels"):
        on_ray(source, tmp_path / "out", labels=[])
    with pytest.raises(ClearclipError, match="a worker failed"):
        on_ray(source, tmp_path / "out", load=standin.loader(pause="no number"))
    assert not list(tmp_path.glob("out/*.png"))


def test_a_fleet_needs_positive_numbers():
    for wrong in ({"workers": 0}, {"cpus": 0}, {"gpus": -1}):
        with pytest.raises(UsageError, match="needed"):
            Fleet(**wrong)


def test_addresses_are_no_local_images():
    with pytest.raises(UsageError, match="not on this machine"):
        find_images(["s3://bucket/a.png"])
