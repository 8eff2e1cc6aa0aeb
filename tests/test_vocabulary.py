"""Labels in every form that users write, and what is refused."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearclip import Label, UsageError, Vocabulary
from clearclip.vocabulary import distinct_colors, read_labels, spoken
from colour_difference import ciede2000, difference

PERSON = Label("person", ("man", "woman"))


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("sky", Label("sky")),
        ("  traffic light ", Label("traffic light")),
        ("person=man|woman", PERSON),
        (" person = man | woman ", PERSON),
        ("sky@#87ceeb", Label("sky", (), (0x87, 0xCE, 0xEB))),
        ("sky @#87CEEB ", Label("sky", (), (0x87, 0xCE, 0xEB))),
        ("person=man|woman @#010203", Label("person", ("man", "woman"), (1, 2, 3))),
        ("C#", Label("C#")),
        ("Bäume – 木", Label("Bäume – 木")),
    ],
)
def test_one_label(text, label):
    assert Label.parse(text) == label


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("=man", "empty"),
        ("person=", "empty synonym"),
        ("person=man||woman", "empty synonym"),
        ("sky@#12345", "six hexadecimal"),
        ("sky@#", "six hexadecimal"),
        ("sky@#zzzzzz", "six hexadecimal"),
    ],
)
def test_labels_that_are_refused(text, said):
    with pytest.raises(UsageError, match=said):
        Label.parse(text)


@pytest.mark.parametrize("color", [(1, 2), (1, 2, 3, 4), (0, 0, 256), (-1, 0, 0)])
def test_colours_that_are_none(color):
    with pytest.raises(UsageError, match="three numbers from 0 to 255"):
        Label("sky", (), color)
    with pytest.raises(UsageError, match="three numbers from 0 to 255"):
        Vocabulary.parse({"sky": {"color": color}})


def test_synonyms_are_no_single_text():
    with pytest.raises(UsageError, match="man"):
        Label("person", "man")


def test_forms_of_a_vocabulary(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_bytes("\ufeff# a comment\nsky\n\n  person=man|woman   # of any age\r\ngrass @#00ff00 # green\n".encode())
    listed = Vocabulary.parse(["sky", "person=man|woman", "grass @#00ff00"])
    mapped = Vocabulary.parse({"sky": None, "person": ["man", "woman"], "grass": {"color": "#00ff00"}})
    assert listed == mapped == Vocabulary.parse(file)
    assert listed == Vocabulary.parse([Label("sky"), PERSON, Label("grass", (), (0, 255, 0))])
    assert listed == Vocabulary.parse({"sky": [], "person": ("man", "woman"), "grass": {"color": (0, 255, 0)}})
    assert Vocabulary.parse(listed) is listed
    assert Vocabulary.parse(iter(["sky"])).names == ("sky",)
    assert Vocabulary.parse({"sky": "blue"}).queries == ("sky", "blue")


def test_queries_and_their_classes():
    vocabulary = Vocabulary.parse(["sky", "person=man|woman|man|person", "grass"])
    assert vocabulary.names == ("sky", "person", "grass")
    assert vocabulary.queries == ("sky", "person", "man", "woman", "grass")
    assert vocabulary.query_to_class == (0, 1, 1, 1, 2)
    assert vocabulary.background_index is None
    assert vocabulary.index("grass") == 2
    with pytest.raises(UsageError, match="did you mean 'grass'"):
        vocabulary.index("gras")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([], "no labels"),
        ({}, "no labels"),
        (["sky", "sky"], "given twice"),
        (["sky", " sky "], "given twice"),
        (["sky", ""], "empty"),
        ({"sky": {"colour": "#fff"}}, "only 'synonyms' and 'color'"),
        ({"sky": {"color": "blue"}}, "six hexadecimal"),
        ("sky", r"\['sky'\]"),
        (3, "int"),
        ([1, 2], "int"),
        ([None], "NoneType"),
        ({1: None}, "int"),
    ],
)
def test_vocabularies_that_are_refused(labels, said):
    with pytest.raises(UsageError, match=said):
        Vocabulary.parse(labels)


def test_label_files_that_are_refused(tmp_path):
    file = tmp_path / "labels.txt"
    with pytest.raises(UsageError, match=r"labels\.txt: there is no such file$"):
        Vocabulary.parse(file)
    with pytest.raises(UsageError):
        Vocabulary.parse(tmp_path)
    file.write_text("# nothing\n\n")
    with pytest.raises(UsageError, match="holds no label"):
        Vocabulary.parse(file)
    file.write_bytes(b"sky\xff\xfe\n")
    with pytest.raises(UsageError, match="UTF-8"):
        Vocabulary.parse(file)


def test_background_that_is_one_of_the_labels_is_asked_for():
    vocabulary = Vocabulary.parse(["wall=floor", "sky"], background="wall")
    assert vocabulary.background_index == 0
    assert vocabulary.queries == ("wall", "floor", "sky")


def test_background_that_is_only_named_gets_what_is_left():
    vocabulary = Vocabulary.parse(["sky", "grass"], background="rest")
    assert vocabulary.names == ("rest", "sky", "grass")
    assert vocabulary.queries == ("sky", "grass")
    assert vocabulary.query_to_class == (1, 2)
    assert vocabulary.background_index == 0
    assert vocabulary.with_background("rest") is vocabulary
    assert vocabulary.with_background(None) is vocabulary
    with pytest.raises(UsageError, match="beside the background"):
        Vocabulary((Label("rest"),), background="rest", asks_background=False)
    with pytest.raises(UsageError, match="none of the labels"):
        Vocabulary((Label("sky"),), background="rest")


def test_background_is_black_and_moves_no_other_colour():
    plain, marked = Vocabulary.parse(["a", "b"]), Vocabulary.parse(["a", "b"], background="rest")
    assert marked.palette[0].tolist() == [0, 0, 0]
    assert np.array_equal(marked.palette[1:], plain.palette)
    own = Vocabulary.parse(["a @#0a0b0c", "b"])
    assert own.palette.tolist() == [[10, 11, 12], plain.palette[1].tolist()]
    assert plain.palette.dtype == np.uint8


@given(st.integers(0, 300))
def test_colours_depend_on_the_index_alone(count):
    colors = distinct_colors(count)
    assert colors.shape == (count, 3)
    assert np.array_equal(colors, distinct_colors(300)[:count])


@pytest.mark.parametrize(
    ("count", "eyes", "least"),
    [
        (20, "normal", 21.6),
        (20, "protanopia", 10.9),
        (20, "deuteranopia", 11.3),
        (30, "normal", 15.7),
        (30, "protanopia", 7.8),
        (30, "deuteranopia", 7.7),
    ],
)
def test_the_first_colours_and_black_are_told_apart_by_all_eyes(count, eyes, least):
    colors = [*distinct_colors(count).tolist(), [0, 0, 0]]
    pairs = itertools.combinations(colors, 2)
    assert min(difference(first, second, eyes=eyes) for first, second in pairs) == pytest.approx(least, abs=0.05)


def test_differences_are_those_of_the_formulas_authors():
    for first, second, published in (
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
        ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
    ):
        assert ciede2000(first, second) == pytest.approx(published, abs=1e-4)


def test_colours_differ():
    assert len(np.unique(distinct_colors(300), axis=0)) == 300


@given(
    st.lists(
        st.text(
            st.characters(codec="utf-8", exclude_characters='=|@#"\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029')
        ).filter(spoken),
        min_size=1,
        unique_by=str.strip,
    )
)
def test_any_words_are_labels(names):
    assert Vocabulary.parse(names).names == tuple(name.strip() for name in names)


@pytest.mark.parametrize(
    ("word", "asked"),
    [
        ("traffic_light", "traffic light"),
        ("  traffic \u00a0 light ", "traffic light"),
        ("sk\u200by\ufeff", "sky"),
        ("so\u00adft\u2060 hy\u202ephen", "soft hyphen"),
        ("a\x00b\x1b[2J", "a b [2J"),
        ("cafe\u0301", "caf\u00e9"),
        ("ra\u200din", "rain"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),  # between letters of Persian it is spelling
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        ("Tree", "Tree"),
    ],
)
def test_what_the_model_is_asked(word, asked):
    assert spoken(word) == asked
    assert Label("x", (word,)).queries == ("x", asked)
    assert Label(word).name == word


@pytest.mark.parametrize("word", ["\u200b", "_", "\ufeff \u2060", "\x00"])
def test_a_word_of_nothing_is_refused(word):
    with pytest.raises(UsageError, match="empty"):
        Label(word)
    with pytest.raises(UsageError, match="empty"):
        Label("sky", (word,))


def test_a_label_as_text_is_the_label():
    for label in (PERSON, Label("rock, paper", ("a, b",), (1, 2, 3)), Label("sky", (), (255, 0, 0))):
        assert Label.parse(label.text) == label
    with pytest.raises(UsageError, match="have a meaning of their own"):
        _ = Label("a|b").text


def test_what_was_read_is_told(tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(["sky=blue", *(f"label of {letter}" for letter in "abcdefgh")]))
    labels, told = read_labels(tmp_path / "words.txt")
    assert len(labels) == 9
    assert "words.txt, read as one label a line: 9 labels: sky=blue; label of a;" in told
    assert told.endswith(" …")
    (tmp_path / "words.txt").write_text(f"a\x1b[2Jb\n{'x' * 100}")
    assert read_labels(tmp_path / "words.txt")[1].endswith(f"a\ufffd[2Jb; {'x' * 60}…")
