"""What sources name: containers, addresses, and what is no image."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from bombs import bomb
from clearclip import ImageError, UsageError
from clearclip.engine.containers import read_members
from clearclip.engine.sources import digest, find_sources, is_container, read_bytes, stamp, stem_of


def test_a_folder_gives_images_and_containers(images, tar, parquet):
    source = images(2)
    tar(1, "images/b.tar"), parquet(1, "images/c.parquet")
    bomb(source / "bomb.png")
    (source / "notes.txt").write_text("no")
    found = find_sources([str(source)])
    assert [path.name for path in found] == ["0000.png", "0001.png", "b.tar", "bomb.png", "c.parquet"]
    assert [is_container(path) for path in found] == [False, False, True, False, True]


def test_tars_give_their_images(tar):
    members = list(read_members(tar(3, extra=[("deep/a b.JPG", b"x"), ("000.png", b"again")])))
    assert [member.stem for member in members] == ["shard-000", "shard-001", "shard-002", "shard-deep_a b", "shard-000"]
    assert members[3].source.endswith("shard.tar#deep/a b.JPG")
    assert members[4].reason is not None
    assert "would also become" in members[4].reason
    pixels = np.asarray(Image.open(io.BytesIO(members[1].data)))
    assert pixels.shape == (48, 64, 3)


def test_a_damaged_tar_gives_what_precedes_the_damage(tar):
    path = tar(4)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    members = list(read_members(path))
    assert 1 <= len(members) <= 4
    assert [member.reason is None for member in members] == [True] * (len(members) - 1) + [False]
    path.write_bytes(b"no tar at all" * 100)
    (only,) = read_members(path)
    assert "cannot be read" in only.reason
    (gone,) = read_members(path.with_name("gone.tar"))
    assert "no such file" in gone.reason


def test_parquet_gives_its_rows(parquet):
    members = list(read_members(parquet(4)))
    assert [member.stem for member in members] == [f"rows-{row:08d}" for row in range(5)]
    assert [member.reason is None for member in members] == [True] * 4 + [False]
    assert members[0].data.startswith(b"\x89PNG")


def test_parquet_without_images_is_one_reason(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"a": [1], "b": ["x"]}), tmp_path / "t.parquet")
    (only,) = read_members(tmp_path / "t.parquet")
    assert "columns of bytes are none" in only.reason
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no")
    (only,) = read_members(tmp_path / "t.parquet")
    assert "cannot be read" in only.reason


def test_addresses_are_listed_and_read():
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    for name in ("b.png", "a.jpg", "notes.txt", "deep/c.png"):
        files.pipe(f"/bucket/{name}", b"data of " + name.encode())
    assert find_sources(["memory://bucket"]) == [
        f"memory:///bucket/{name}" for name in ("a.jpg", "b.png", "deep/c.png")
    ]
    assert find_sources(["memory://bucket/*.png"]) == ["memory:///bucket/b.png"]
    assert read_bytes("memory:///bucket/a.jpg") == b"data of a.jpg"
    assert (stem_of("memory:///bucket/a.jpg"), stamp("memory:///bucket/a.jpg")) == ("a", "address")
    with pytest.raises(ImageError, match="no such file"):
        read_bytes("memory://bucket/gone.png")
    for nothing in ("memory://empty/*.png", "nosuchscheme://x/a.png"):
        with pytest.raises(UsageError):
            find_sources([nothing])


def test_a_tar_at_an_address(tar):
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/tars/shard.tar", tar(2).read_bytes())
    members = list(read_members("memory:///tars/shard.tar"))
    assert [member.stem for member in members] == ["shard-000", "shard-001"]
    assert members[0].source == "memory:///tars/shard.tar#000.png"


def test_digests_and_stamps_follow_the_bytes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = digest(path), stamp(path)
    assert before[0] == digest(b"one")
    path.write_bytes(b"three")
    assert digest(path) != before[0]
    assert stamp(path) != before[1]
    assert (digest(tmp_path / "gone"), stamp(tmp_path / "gone")) == ("none", "")


def test_the_tar_helper_is_a_tar(tar):
    with tarfile.open(tar(1)) as archive:
        assert archive.getnames() == ["000.png", "000.json"]
