"""Bad input through the command line: one clear line, the right exit code, no traceback, nothing half-written."""

import errno
import os

import pytest
from PIL import Image

import tiny_models
from bombs import bomb
from clearclip.formats import Writer


@pytest.fixture
def segment(run, clip_folder, tmp_path):
    """Runs the command and checks what holds for every wrong request."""

    def call(*arguments, code=2, model=clip_folder, lines=1, labels=("sky", "grass")):
        words = [part for label in labels for part in ("-l", label)]
        given = ["--model", model, "--device", "cpu", "--template", "{}", "-o", tmp_path / "out"]
        ran = run("segment", *given, *words, *arguments)
        assert ran.code == code, (ran.out, ran.err)
        assert "Traceback" not in ran.err
        if lines is not None:
            assert ran.err.count("\n") == lines, ran.err
        out = tmp_path / "out"
        if out.is_dir():
            assert not [file.name for file in out.iterdir() if file.name.startswith(".")]
        return ran

    return call


def results(folder):
    """Without the ledger, which every run has."""
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("ledger.sqlite"))


def test_broken_files_are_listed_and_the_others_done(segment, photo, tmp_path):
    photo("good.png"), photo("cut.jpg", 200, 200)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-9000])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    bomb(tmp_path / "bomb.png")
    names = ["absent.png", "cut.jpg", "empty.png", "good.png", "text.jpg", "bomb.png"]
    ran = segment(*(tmp_path / name for name in names), code=1, lines=5)
    assert ran.out.startswith("1 segmented, 5 failed")
    for line in ran.err.splitlines():
        assert line.startswith("failed: ")
    for name, word in (
        ("absent.png", "no such file"),
        ("cut.jpg", "truncated"),
        ("empty.png", "empty"),
        ("text.jpg", "no image"),
        ("bomb.png", "--max-pixels"),
    ):
        line = next(line for line in ran.err.splitlines() if name in line)
        assert word in line
    assert results(tmp_path / "out") == ["errors.csv", "good.overlay.jpg", "good.png", "labels.json"]


def test_the_limit_of_pixels_can_be_raised(segment, photo):
    path = photo("a.png", 40, 50)
    assert "2,000 pixels" in segment(path, "--max-pixels", 1999, code=1).err
    segment(path, "--max-pixels", 2000, code=0, lines=0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "CMYK", "I;16"])
def test_every_kind_of_image(segment, tmp_path, picture, mode):
    name = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image = Image.fromarray(picture())
    (image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode)).save(name)
    segment(name, code=0, lines=int(mode == "I;16"))  # a guess of what is white


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_sizes(segment, photo, tmp_path, size):
    segment(photo("a.png", *size), code=0, lines=0)
    with Image.open(tmp_path / "out" / "a.png") as written:
        assert written.size == size[::-1]


@pytest.mark.parametrize(
    "name", ["ünï – 木.png", "a b'c\"d$.png", "[1]*.png", "new\nline.png", os.fsdecode(b"caf\xe9.png")]
)
def test_odd_names(segment, photo, tmp_path, name):
    photo("a.png").rename(tmp_path / name)
    segment(tmp_path / name, code=0, lines=0)
    segment(tmp_path / name, tmp_path / f"absent {name}", code=2 if "*" in name else 1)
    segment(tmp_path / name, tmp_path / f"absent {name}", "--json", code=2 if "*" in name else 1)


def test_two_inputs_with_one_stem(segment, photo, tmp_path):
    ran = segment(photo("x/same.png"), photo("y/same.png", seed=1), code=1)
    assert "would both become same:" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["*.none"], "matches no images"),
        (["--method", "clearclop"], "did you mean 'clearclip'"),
        (["--method", "clearclip[residul=keep]"], "did you mean 'residual'"),
        (["--method", "clearclip[residual=kep]"], "did you mean 'keep'"),
        (["--method", "vanilla,gem"], "takes one method, 2 were given"),
        (["--method", "gem[depth=20]"], "depth=20 needs 20 blocks"),
        (["--protocol", "papper"], "did you mean 'paper'"),
        (["--threshold", "1.5"], "probability from 0 to 1"),
        (["--stride", "100"], "stride=100 is larger"),
        (["--crop-size", "-1"], "crop_size"),
        (["--device", "gpu"], "device 'gpu'"),
        (["--dtype", "float31"], "float32"),
        (["--template", "a photo"], "exactly one {}"),
        (["--tokenizer", "/absent/folder"], "/absent/folder"),
    ],
)
def test_wrong_options(segment, photo, tmp_path, arguments, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = photo()
    first = [] if arguments[0] == "*.none" else [path]
    ran = segment(*first, *arguments, code=1 if "--tokenizer" in arguments else 2)
    assert ran.err.startswith("error: ")
    assert said in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([], "no labels"),
        (["sky", "sky"], "'sky' was given twice"),
        (["sky", ""], "empty"),
        (["sky", "person="], "empty synonym"),
        (["sky", "sky@#12"], "six hexadecimal"),
        (["sky", "umbrella " * 90], "umbrella"),
    ],
)
def test_wrong_labels(segment, photo, tmp_path, labels, said):
    ran = segment(photo(), labels=labels)
    assert said in ran.err
    assert not (tmp_path / "out").exists()


def test_wrong_label_files(segment, photo, tmp_path):
    words = tmp_path / "words.txt"
    assert "words.txt" in segment(photo(), "--labels", words, labels=()).err
    words.write_text("# nothing\n")
    assert "holds no label" in segment(photo(), "--labels", words, labels=()).err
    words.write_text("sky\nsky\n")
    assert "given twice" in segment(photo(), "--labels", words, labels=()).err
    assert "use one of them" in segment(photo(), "--labels", words).err


@pytest.mark.parametrize(
    "arguments", [["--batch-size", "0"], ["--limit", "0"], ["--nonsense"], ["--threshold", "high"]]
)
def test_what_typer_refuses(segment, photo, arguments):
    assert arguments[0] in segment(photo(), *arguments, lines=None).err


@pytest.mark.parametrize(
    ("model", "code", "said"),
    [
        ("clip-b61", 2, "did you mean 'clip-b16'"),
        ("ViT-B-61/openai", 2, "did you mean"),
        ("ViT-B-16/openai", 1, "ViT-B-16-quickgelu/openai"),
        ("RN50/openai", 1, "RN50"),
        ("clip-b16", 1, "--model tiny"),
        ("openai/clip-vit-base-patch16", 1, "https://huggingface.co/openai/clip-vit-base-patch16"),
        ("x" * 400, 2, "not known"),
    ],
)
def test_wrong_models(segment, photo, tmp_path, model, code, said, monkeypatch):
    import urllib.request

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    ran = segment(photo(), model=model, code=code)
    assert said in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"noise" * 99, b"\x80\x04K\x01."])
def test_wrong_checkpoint_files(segment, photo, tmp_path, content):
    file = tmp_path / "model.pth"
    file.write_bytes(content)
    assert "model.pth" in segment(photo(), model=file, code=1).err


def test_a_model_that_cannot_read_words(segment, photo, tmp_path):
    text = {"vocab_size": 64, "context_length": 16}
    folder = tiny_models.save_open_clip(
        tiny_models.open_clip_model(text=text, vision={"layers": 1}), tmp_path / "m", text=text, vision={"layers": 1}
    )
    ran = segment(photo(), model=folder, code=1)
    assert "tokenizer" in ran.err
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file(segment, photo, tmp_path):
    (tmp_path / "out").write_text("in the way")
    assert "cannot be used" in segment(photo()).err
    assert (tmp_path / "out").read_text() == "in the way"


def test_an_output_that_may_not_be_written(segment, photo, monkeypatch):
    from clearclip.files import writing

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    path = photo()
    monkeypatch.setattr(writing, "_hold", refuse)
    ran = segment(path, lines=None)
    assert "cannot be used (Permission denied)" in ran.err.splitlines()[-1]


def test_full_disk(segment, photo, tmp_path, monkeypatch):
    path = photo()
    original = Image.Image.save

    def full(self, target, *arguments, **options):
        if "out" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, target, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    assert "the disk is full" in segment(path, code=1).err
    assert results(tmp_path / "out") == ["labels.json"]


def test_other_settings(segment, photo):
    path = photo()
    segment(path, code=0, lines=0)
    assert "holds results with other settings (labels)" in segment(path, labels=["other", "sea"]).err
    segment(path, "--overwrite", labels=["other", "sea"], code=0, lines=0)


def test_interruption(segment, photo, tmp_path, monkeypatch):
    paths = [photo("a.png"), photo("b.png")]
    original = Writer.write

    def stop(writer, result, *, stem, source):
        if stem == "b":
            raise KeyboardInterrupt
        return original(writer, result, stem=stem, source=source)

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "write", stop)
        segment(*paths, code=130, lines=None)
    assert not (tmp_path / "out" / "b.png").exists()
    ran = segment(*paths, code=0, lines=0)
    assert ran.out.startswith("1 segmented, 1 were there already")
