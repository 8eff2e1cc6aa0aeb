"""What sources name: containers, addresses, and what is no image."""

import gzip
import io
import tarfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

import standin
from bombs import bomb
from clearclip import ImageError, UsageError
from clearclip.engine.containers import _of_one_key, read_members
from clearclip.engine.run import scan_images, segment_files
from clearclip.engine.sources import digest, find_sources, is_container, read_bytes, scan, stamp, stem_of, summary


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


COPIES = (".ipynb_checkpoints", ".thumbnails", "@eaDir", "@eaDir/a.jpg", "__MACOSX", "$RECYCLE.BIN", ".git/x")


def test_copies_that_systems_keep_are_counted_and_not_taken(images, tmp_path):
    source = images(1)
    for folder in COPIES:
        (source / folder).mkdir(parents=True, exist_ok=True)
        (source / folder / "0000.png").write_bytes((source / "0000.png").read_bytes())
    (
        (source / "a.psd").touch(),
        (source / "b.PSD").touch(),
        (source / "LICENSE").touch(),
        (source / "._0000.png").touch(),
    )
    (source / "link").symlink_to(tmp_path)
    (source / "lost.jpg").symlink_to(tmp_path / "nowhere")
    found = scan([str(source)])
    assert found.files == [source / "0000.png"]
    assert found.left_out == {
        ".psd": 2, "without suffix": 1, "hidden": 1, "link/ (a link)": 1, "links to nothing": 1, ".git/": 1,
        "@eaDir/": 2, **{f"{name}/": 1 for name in (".ipynb_checkpoints", ".thumbnails", "__MACOSX", "$RECYCLE.BIN")},
    }  # fmt: skip
    assert find_sources([f"{source}/**/*.png"]) == [source / "0000.png"]
    named = source / "@eaDir"
    assert find_sources([f"{named}/*.png"]) == [named / "0000.png"]
    assert scan([str(named)]).files == [named / "0000.png", named / "a.jpg" / "0000.png"]
    many = summary({f".{letter}": 1 for letter in "abcdefghijkl"})
    assert (
        many == "12 files were left out: " + "".join(f".{letter} 1, " for letter in "abcdefghij") + "and 2 more kinds"
    )


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    (tmp_path / "photos.tar.gz").touch()
    with pytest.raises(UsageError, match=r"no images in .* \(1 file was left out: \.gz 1\)"):
        scan([str(tmp_path)])


def test_copies_at_an_address_are_not_taken():
    files = pytest.importorskip("fsspec").filesystem("memory")
    for name in ("a.jpg", "@eaDir/a.jpg", "b/.thumbnails/a.jpg", "c.psd", "s.tar", "s.parquet", "t.parquet"):
        files.pipe(f"/disk/{name}", b"data")
    found = scan(["memory://disk"])
    assert found.files == [f"memory:///disk/{name}" for name in ("a.jpg", "s.tar", "t.parquet")]
    assert found.left_out == {"@eaDir/": 1, ".thumbnails/": 1, ".psd": 1, ".parquet": 1}


def test_what_img2dataset_writes_is_read_without_its_metadata(standin_run, tar, parquet, tmp_path):
    (tmp_path / "images").mkdir()
    tar(2, "images/00000.tar"), parquet(2, "images/00000.parquet"), parquet(1, "images/other.parquet")
    (tmp_path / "images" / "00000_stats.json").write_text("{}")
    report = standin_run(tmp_path / "images")
    assert (report.done, len(report.failed)) == (3, 1)  # the last row of other.parquet is empty
    assert report.left_out == {".json": 2}
    scanned = scan([str(tmp_path / "images")])
    assert [file.name for file in scanned.files] == ["00000.tar", "other.parquet"]
    assert scanned.left_out == {".parquet": 1, ".json": 1}
    with pytest.raises(UsageError, match=r"no image files in .*: 4 files were left out"):
        scan_images([str(tmp_path / "images")])


DOTTED = {
    "inputs and outputs": (
        ["s0.input.jpg", "s0.outputs.txt", "s1.input.jpg", "s1.outputs.txt"],
        ["shard-s0.input", "shard-s1.input"],
        {".txt": 2},
    ),
    "dates": (["IMG_2024.05.01.jpg", "IMG_2024.05.02.jpg"], ["shard-IMG_2024.05.01", "shard-IMG_2024.05.02"], {}),
    "masks beside images": (
        ["a.depth.png", "a.jpg", "a.seg.png", "a.json", "b.jpg", "b.seg.png"],
        ["shard-a", "shard-b"],
        {".depth.png": 1, ".seg.png": 2, ".json": 1},
    ),
    "folders": (["./x.1/a.jpg", "y/a.jpg", "__MACOSX/._a.jpg", "@eaDir/a.jpg"], ["shard-._x.1_a", "shard-y_a"],
        {"__MACOSX/": 1, "@eaDir/": 1}),
    "other pictures": (["a.jpg", "b.psd", "c"], ["shard-a"], {".psd": 1, "without suffix": 1}),
}  # fmt: skip


@pytest.mark.parametrize("kind", DOTTED)
def test_names_with_dots_in_tars_are_images_and_nothing_is_lost_without_a_count(tar, kind):
    names, stems, left_out = DOTTED[kind]
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    members = list(read_members(tar(0, extra=[(name, data.getvalue()) for name in names])))
    assert [member.stem for member in members] == stems
    assert all(member.reason is None and member.data == data.getvalue() for member in members)
    counted = sum((Counter(member.left_out) for member in members), Counter())
    assert counted == left_out


def test_images_of_one_key_do_not_fill_the_memory(tar, monkeypatch):
    monkeypatch.setattr("clearclip.engine.containers.MAX_MEMBER", 100)
    held = []

    def recorded(images, left_out):
        held.append(len(images))
        return _of_one_key(images, left_out)

    monkeypatch.setattr("clearclip.engine.containers._of_one_key", recorded)
    members = read_members(tar(0, extra=[(f"IMG.{index}.jpg", bytes(60)) for index in range(9)]))
    assert [member.stem for member in members] == [f"shard-IMG.{index}" for index in range(9)]
    assert max(held) == 2


def test_a_tar_that_ends_early_gives_the_images_it_held_back(tar):
    path = tar(0, extra=[("a.1.png", bytes(2000)), ("a.2.png", bytes(2000))])
    path.write_bytes(path.read_bytes()[:4000])
    first, second = read_members(path)
    assert (first.stem, first.reason, len(first.data)) == ("shard-a.1", None, 2000)
    assert "the tar ends within it" in second.reason or "cannot be read" in second.reason


def test_a_tar_without_images_and_a_compressed_one_fail_by_name(tar, tmp_path):
    (only,) = read_members(tar(0, extra=[("a.txt", b""), ("b.json", b"")]))
    assert "no images are in it: 2 files were left out: .json 1, .txt 1" in only.reason
    (tmp_path / "z.tar").write_bytes(gzip.compress(tar(2).read_bytes()))
    (only,) = read_members(tmp_path / "z.tar")
    assert "compressed by gzip: unpack it first" in only.reason
    data = tar(0, extra=[("BZh.jpg", b"1")])
    assert [member.stem for member in read_members(data)] == ["shard-BZh"]


def test_pages_that_no_result_shows_are_told_by_every_engine_alike(standin_run, tmp_path, run, clip_folder):
    (tmp_path / "in").mkdir()
    sheets = [Image.new("RGB", (20, 16), colour) for colour in ("red", "green", "blue")]
    for name in ("a.tif", "b.tif", "c.gif"):
        sheets[0].save(tmp_path / "in" / name, save_all=True, append_images=sheets[1 : 2 if name == "c.gif" else 3])
    report = standin_run(tmp_path / "in")
    three, two = (f"it has {count} pages, the first is taken" for count in (3, 2))
    assert {note: len(files) for note, files in report.notes.items()} == {three: 2, two: 1}
    ran = run(
        "segment", tmp_path / "in", "-l", "sky", "--model", clip_folder, "--template", "a {}.", "-o", tmp_path / "out"
    )
    assert ran.code == 0
    assert f"note: {tmp_path / 'in' / 'a.tif'} and 1 more: {three}\n" in ran.err
    assert f"note: {tmp_path / 'in' / 'c.gif'}: {two}\n" in ran.err


@pytest.fixture
def standin_run(tmp_path):
    """Segments a folder with the stand-in of a model."""

    def segment(source):
        return segment_files(standin.load(), find_sources([str(source)]), labels=["sky"], output=tmp_path / "result")

    return segment


def test_a_parquet_file_without_rows_or_with_addresses_is_told(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for columns, said in (
        ({"image": arrow.array([], arrow.binary())}, "it has no rows"),
        ({"image": ["http://x/a.jpg"], "mask": [b"x"]}, "its column 'image' holds no bytes"),
    ):
        parquet.write_table(arrow.table(columns), tmp_path / "a.parquet")
        (only,) = read_members(tmp_path / "a.parquet")
        assert said in only.reason
