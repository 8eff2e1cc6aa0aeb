"""Labels, numbers and letters as an attacker, a slip or another system's console gives them."""

import json
import os
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import pytest

import clearclip
from clearclip import Label, Protocol, UsageError, Vocabulary, parse_method
from clearclip.benchmarks.evaluation import Run
from clearclip.encode.text import TEMPLATES, read_templates
from clearclip.files.label_files import FILE_BYTES
from clearclip.vocabulary import LABELS, QUERIES, SYNONYMS, WORD_BYTES


def refused(labels):
    """What the refusal says: one short line, at once."""
    started = time.thread_time()
    with pytest.raises(UsageError) as caught:
        Vocabulary.parse(labels)
    assert time.thread_time() - started < 20
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_names_of_imagenet_21k_are_read_at_once():
    started = time.thread_time()
    vocabulary = Vocabulary.parse([f"label {index}=one {index}|two {index}" for index in range(21_843)])
    assert len(vocabulary.queries) == 3 * 21_843
    assert vocabulary.palette.shape == (21_843, 3)
    assert time.thread_time() - started < 30  # seconds of the processor: 0.2; a comparison of all pairs takes minutes


def test_every_limit_of_labels_is_named():
    assert f"{WORD_BYTES:,} bytes" in refused(["x" * 100_000])
    assert f"{WORD_BYTES:,} bytes" in refused(["木" * WORD_BYTES])
    assert f"{WORD_BYTES:,} bytes" in refused(["sky=" + "x" * 100_000])
    assert f"at most {SYNONYMS:,}" in refused(["sky=" + "|".join(map(str, range(20_000)))])
    assert f"at most {SYNONYMS:,}" in refused({"sky": [str(index) for index in range(20_000)]})
    assert f"{LABELS:,} are allowed" in refused(map(str, iter(int, 1)))  # without end
    assert f"{LABELS:,} are allowed" in refused(dict.fromkeys(map(str, range(LABELS + 1))))
    assert f"at most {QUERIES:,}" in refused({f"{index}": ["word"] * SYNONYMS for index in range(QUERIES // SYNONYMS)})
    assert "given twice" in refused([str(index % 20_000) for index in range(20_001)])


def test_words_of_the_largest_size_are_still_counted(segmenter):
    with pytest.raises(UsageError, match="tokens") as caught:
        segmenter.embed(["x" * WORD_BYTES])
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("labels", [{"sky", "car"}, frozenset(["sky"]), {"sky": {"blue", "air"}}])
def test_what_has_no_order_is_refused(labels):
    assert "give a list" in refused(labels)


def test_what_has_an_order_is_read():
    for labels in (
        {"sky": None, "car": None},
        {"sky": 1, "car": 2}.keys(),
        OrderedDict(sky=None, car=None),
        iter(["sky", "car"]),
    ):
        assert Vocabulary.parse(labels).names == ("sky", "car")


@pytest.mark.parametrize(
    "labels",
    [
        {"sky": 3},
        {"sky": [3]},
        {"sky": {"color": 3}},
        {"sky": {1: 2}},
        {"sky": {"color": (0.5, 0, 0)}},
        ["\udcff"],
        [b"sky"],
        [[]],
    ],
)
def test_labels_of_other_types_are_refused(labels):
    refused(labels)


def test_a_label_is_checked_however_it_is_made():
    with pytest.raises(UsageError, match="bytes"):
        Label("x" * 100_000)
    with pytest.raises(UsageError, match="synonyms"):
        Label("x", ("y",) * 20_000)


@pytest.mark.parametrize(
    "content", ["Küche".encode("latin-1"), b"\xff\xfes\0k\0y\0", bytes(range(256)), b"\x89PNG\r\n\x1a\n\0\xff"]
)
def test_label_files_that_are_no_utf8_are_refused(tmp_path, content):
    (tmp_path / "words.txt").write_bytes(content)
    assert "UTF-8" in refused(tmp_path / "words.txt")


def test_label_files_that_are_none_or_too_large_are_refused(tmp_path):
    with (tmp_path / "words.txt").open("wb") as file:
        file.truncate(FILE_BYTES + 1)
    assert f"limit of {FILE_BYTES:,}" in refused(tmp_path / "words.txt")
    (tmp_path / "words.txt").write_text("sky " * 25_000)
    assert "bytes" in refused(tmp_path / "words.txt")
    (tmp_path / "words.txt").write_text("\n".join(map(str, range(LABELS + 1))))
    assert f"{LABELS:,} are allowed" in refused(tmp_path / "words.txt")
    assert "folder" in refused(tmp_path)
    assert "no such" in refused(tmp_path / "absent").lower()
    refused(Path("a\0b"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_of_labels_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "named pipe" in refused(tmp_path / "pipe")
    assert "device" in refused(Path("/dev/zero"))


def test_templates_have_limits():
    with pytest.raises(UsageError, match=f"{TEMPLATES:,} are allowed"):
        read_templates(["{}"] * (TEMPLATES + 1))
    with pytest.raises(UsageError, match="shorten it"):
        read_templates("{}" + "x" * 100_000)


# Numbers

WRONG = (float("nan"), float("inf"), -float("inf"), 1e308, -1, 0, 10**30)


@pytest.mark.parametrize("number", WRONG)
@pytest.mark.parametrize("name", ["short_side", "long_side", "crop_size", "stride", "logit_scale", "threshold"])
def test_a_protocol_of_wrong_numbers_is_refused(name, number):
    large = {(length, huge) for length in ("long_side", "logit_scale") for huge in (1e308, 10**30)}
    if (name, number) in {("threshold", 0), ("crop_size", 0), *large}:
        pytest.skip("it is allowed")
    numbers = {"short_side": 448, "long_side": 2048, "crop_size": 448, "stride": 1} | {name: number}
    with pytest.raises(UsageError, match=name):
        Protocol(**numbers)


def test_a_native_length_is_checked_in_pixels():
    with pytest.raises(UsageError, match="short_side=2"):
        Protocol(short_side=100, long_side=100, crop_size=1, stride=1, units="native").in_pixels(224)


@pytest.mark.parametrize("number", [float("nan"), -float("inf"), -1, 0])
def test_a_limit_of_pixels_that_is_none_is_refused(backbone, number):
    with pytest.raises(UsageError, match="max_pixels"):
        clearclip.Segmenter(backbone, device="cpu", max_pixels=number)


@pytest.mark.parametrize("seed", [-1, 2**32, 10**30])
def test_a_seed_that_no_generator_takes_is_refused(run, seed):
    with pytest.raises(UsageError, match="seed"):
        Run(seed=seed)
    ran = run("evaluate", "cartoons", "--model", "tiny", "--seed", seed)
    assert ran.code == 2
    assert "--seed" in ran.err


@pytest.mark.parametrize(
    "value", ["alpha=1e308", "alpha=nan", "alpha=-1", "depth=" + "1" * 5000, f"depth={10**30}", "depth=0", "depth=1e3"]
)
def test_a_method_of_wrong_numbers_is_refused(value):
    with pytest.raises(UsageError):
        parse_method(f"vanilla[{value}]")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--max-pixels", "0"),
        ("--max-pixels", "-1"),
        ("--max-pixels", "nan"),
        ("--cpus-per-worker", "nan"),
        ("--cpus-per-worker", "-1"),
        ("--crop-size", "1e308"),
        ("--short-side", "1e30"),
        ("--threshold", "nan"),
        ("--device", "meta"),
        ("--device", ""),
    ],
)
def test_options_of_wrong_numbers_are_refused(run, photo, tmp_path, arguments):
    ran = run(
        "segment", photo(), "-l", "sky", "--model", "tiny", "--template", "{}", "-o", tmp_path / "out", *arguments
    )
    assert ran.code == 2
    assert not (tmp_path / "out").exists()


# Letters

LETTERS = "木→😀"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp(LETTERS) / LETTERS

    def call(encoding, *arguments):
        environment = os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "100"}
        command = [sys.executable, "-m", "clearclip", *arguments]
        return subprocess.run(command, capture_output=True, env=environment, cwd=folder.parent, check=False)

    return call


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "cp932", "utf-8"])
def test_output_never_fails_for_its_letters(written, encoding):
    for arguments in (["segment", "--help"], ["models"], ["methods"], ["benchmarks", "--help"]):
        ran = written(encoding, *arguments)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout
    ran = written(encoding, "segment", f"{LETTERS}.png", "-l", LETTERS, "--model", "tiny", "-o", LETTERS, "--json")
    assert ran.returncode in (1, 2)
    assert b"Traceback" not in ran.stderr
    text = ran.stdout.decode("utf-8" if encoding == "ascii" else encoding)  # ASCII is UTF-8 for click
    failed = json.loads(text)["failed"]
    assert failed[0]["image"] == f"{LETTERS}.png"
