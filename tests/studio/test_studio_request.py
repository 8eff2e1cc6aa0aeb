"""What a visitor may ask, and how a refusal reads."""

import pytest

from clearclip.errors import UsageError
from clearclip.service.request import Limits, read_labels, read_request, read_word_file, read_words, with_residual
from clearclip.vocabulary import Label

LIMITS = Limits(labels=3, synonyms=2, words=4)


def ask(labels=("sky",), **settings):
    return read_request(list(labels), **{"limits": LIMITS, "model": "tiny", **settings})


def test_labels_in_both_forms():
    assert read_labels(["person=man|woman", " sky @#87ceeb ", "  "], limits=LIMITS) == (
        Label("person", ("man", "woman")),
        Label("sky", (), (0x87, 0xCE, 0xEB)),
    )
    entries = [{"name": "person", "synonyms": "man, woman", "color": None}, {"name": " ", "synonyms": []}]
    assert read_labels(entries, limits=LIMITS) == (Label("person", ("man", "woman")),)
    assert read_labels([{"name": "a", "color": "#010203"}], limits=LIMITS)[0].color == (1, 2, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "no label yet"),
        ([{"name": ""}], "no label yet"),
        (["a", "b", "c", "d"], "4 labels: at most 3"),
        (["x"] * 1000, "1000 labels: at most 3"),
        (["a=b|c|d"], "3 synonyms: at most 2"),
        (["a", "a"], "given twice"),
        ("sky", "labels are a str"),
        ([3], "is a int"),
        ([{"name": 3}], "is a int"),
        ([{"name": "x" * 300}], "300 characters"),
        ([{"name": "a", "color": "red"}], "hexadecimal"),
    ],
)
def test_labels_that_cannot_be_used(labels, message):
    with pytest.raises(UsageError, match=message):
        read_labels(labels, limits=LIMITS)


def test_background_comes_with_a_threshold():
    assert ask().vocabulary.names == ("sky",)
    assert ask(threshold=0.3, background="none of these").vocabulary.names == ("none of these", "sky")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.2}, "probability"),
        ({"threshold": "high"}, "probability"),
        ({"threshold": float("nan")}, "probability"),
        ({"method": "clearclap"}, "did you mean"),
        ({"method": None}, "a method is a NoneType"),
        ({"model": 3}, "model's name is a int"),
        ({"templates": ["{}"] * 101}, "101 prompts"),
    ],
)
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(UsageError, match=message):
        ask(**settings)


def test_residual_of_a_method():
    assert with_residual("clearclip", "as the method", 30) == "clearclip"
    assert with_residual("clearclip", "beta", 30) == "clearclip[residual=beta:30]"
    assert with_residual("vanilla", "drop", 30) == "vanilla[residual=drop]"
    for residual, beta in (("melt", 30), ("beta", "many"), ("beta", 300)):
        with pytest.raises(UsageError):
            with_residual("clearclip", residual, beta)


def test_words():
    assert read_words("sky, tree ,house", limits=LIMITS) == ("sky", "tree", "house")
    assert read_words("sky # above\n\nperson=man|woman\nsky", limits=LIMITS) == ("sky", "person=man|woman")
    for text, message in (("\n#\n", "empty"), ("a\nb\nc\nd\ne", "5 words: at most 4")):
        with pytest.raises(UsageError, match=message):
            read_words(text, limits=LIMITS)


def test_word_file(tmp_path):
    file = tmp_path / "words.txt"
    file.write_bytes(b"\xff\xfe\x00 no text")
    with pytest.raises(UsageError, match=r"words\.txt is no UTF-8 text"):
        read_word_file(file, limits=LIMITS)


def test_limits_are_sane():
    with pytest.raises(UsageError, match="at most 254"):
        Limits(labels=255)
    with pytest.raises(UsageError, match="queue=0"):
        Limits(queue=0)
