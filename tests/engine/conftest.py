"""One local cluster for the tests of a module, folders of images, and how to compare what runs leave."""

import csv
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def cluster():
    """A Ray of two cores in this process; runs that find it use it, and leave it."""
    pytest.importorskip("ray", reason="ray has no wheel for this Python")
    import warnings

    from clearclip.engine.ray_pool import Fleet, connect

    before = dict(os.environ)
    paths = [str(Path(__file__).parents[1] / "helpers"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # where workers find `standin`
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with connect(Fleet(2, gpus=0)) as pool:
            yield pool
    os.environ.clear()
    os.environ.update(before)


def smooth(seed, height=48, width=64):
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def images(tmp_path):
    """Makes a folder of smooth pictures."""

    def make(count, name="images"):
        folder = tmp_path / name
        folder.mkdir()
        for index in range(count):
            smooth(index).save(folder / f"{index:04d}.png")
        return folder

    return make


@pytest.fixture
def contents():
    """What a run left, by name: everything but the ledger, which holds times of files."""

    def read(folder):
        files = (file for file in folder.rglob("*") if file.is_file())
        return {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in files
            if not file.name.startswith("ledger.sqlite")
        }

    return read


@pytest.fixture
def error_rows():
    """The error table as `{file name: reason}`."""

    def read(folder):
        with (folder / "errors.csv").open(encoding="utf-8", newline="") as opened:
            rows = list(csv.reader(opened))
        assert rows[0] == ["image", "reason"]
        return {row[0].rpartition("/")[2]: row[1] for row in rows[1:]}

    return read


def encoded(seed):
    stream = io.BytesIO()
    smooth(seed).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def tar(tmp_path):
    """Writes a WebDataset tar."""

    def write(count, name="shard.tar", extra=()):
        path = tmp_path / name
        with tarfile.open(path, "w") as archive:
            members = [(f"{index:03d}.png", encoded(index)) for index in range(count)]
            for key, data in [*members, *((f"{key[:-4]}.json", b"{}") for key, _ in members[:2]), *extra]:
                entry = tarfile.TarInfo(key)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        return path

    return write


@pytest.fixture
def parquet(tmp_path):
    """Writes a Parquet file with a column of images."""

    def write(count, name="rows.parquet"):
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        path = tmp_path / name
        rows = [{"bytes": encoded(index), "path": f"{index}.png"} for index in range(count)] + [None]
        parquet.write_table(pyarrow.table({"image": rows, "label": [1] * len(rows)}), path, row_group_size=3)
        return path

    return write
