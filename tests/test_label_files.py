"""Label files of many programs: what is read, what is refused and why, and what is said."""

import json
import os
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearclip import Label, UsageError, Vocabulary
from clearclip.files.commas import quoted, split_items, unquoted
from clearclip.files.label_files import PARTS, YAML_BYTES, parse_label_file, read_label_file
from clearclip.vocabulary import label_file, labels_of, read_labels


@pytest.fixture
def words_of(tmp_path):
    def call(text, name="words.txt"):
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        labels, _ = read_labels(file)
        return {label.name: label.synonyms for label in labels}

    return call


SKY_AND_TREE = {"sky": (), "tree": ()}
ROADS = {"sky": (), "road": ("street",), "car": ("van", "truck")}


FORMS_OF_ROADS = [
    "sky\nroad, street\ncar, van, truck\n",
    "sky\nroad;street\ncar; van; truck\n",
    "sky,\nroad, street,\ncar,van,truck,\n",
    "sky\nroad=street\ncar=van|truck\n",
    "sky\nroad|street\ncar|van|truck\n",
    "sky\nroad=street\ncar=van, truck\n",
    "0 sky\n1 road, street\n2 car, van, truck\n",
    "0: sky\n1: road; street\n2: car; van; truck\n",
    "1. sky\n2. road, street\n3. car, van, truck",
    "1) sky\r\n3) car, van, truck\r\n2) road, street\r\n",
    "- sky\n- road, street\n- car, van, truck\n",
    "n01440764 sky\nn01443537 road, street\nn01484850 car, van, truck\n",
    '["sky", "road, street", "car, van, truck"]',
    '{"0": "sky", "1": "road, street", "2": "car, van, truck"}',
    '{"2": "car, van, truck", "1": "road, street", "0": "sky"}',
    '{"sky": 0, "road, street": 1, "car, van, truck": 2}',
    '{"id2label": {"0": "sky", "1": "road, street", "2": "car, van, truck"}, "label2id": {}, "labels_dir": "x"}',
    '{"categories": [{"id": 1, "name": "sky"}, {"id": 2, "name": "road", "synonyms": ["street"]}, {"id": 3, '
    '"name": "car", "synonyms": ["car", "van", "truck"]}], "images": [], "annotations": []}',
    "Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t9\t9\tsky\n2\t0.1\t9\t9\troad, street\n3\t0\t1\t1\tcar, van, truck\n",
    "Idx,Ratio,Train,Val,Stuff,Name\n1,0.1,9,9,1,sky\n3,0,1,1,0,car;van;truck\n2,0.1,9,9,1,road;street\n",
    'id,name\n0,sky\n1,"road, street"\n2,"car, van, truck"\n',
]


@pytest.mark.parametrize("text", FORMS_OF_ROADS)
def test_one_vocabulary_in_the_forms_of_many_programs(words_of, text):
    assert words_of(text) == ROADS


FORMS_BY_NAME = [
    ("path: ../x\ntrain: images\nnc: 2\nnames:\n  0: sky\n  1: tree\n", "data.yaml"),
    ("path: ../x\ntrain: images\nnc: 2\nnames: [sky, tree]\ndownload: |\n  import os\n", "data.yml"),
    ("names: ['sky', 'tree']\nnc: 2\n", "words.txt"),
    ("- sky\n- tree\n", "labels.yaml"),
    ('{"names": ["sky", "tree"], "nc": 2}', "data.json"),
    ("# label:color_rgb:parts:actions\nsky:0,0,0::\ntree:128,0,0::\n", "labelmap.txt"),
    ('[{"name": "sky", "color": "#ff0000", "attributes": []}, {"name": "tree", "color": ""}]', "cvat.json"),
    ("sky: 1\ntree: 2\n", "words.txt"),
    ("sky,0\ntree,1\n", "words.txt"),
    ("\ufeffsky\n\n# not me\ntree # nor me\n", "words.txt"),
]


@pytest.mark.parametrize(("text", "name"), FORMS_BY_NAME)
def test_two_labels(words_of, text, name):
    assert words_of(text, name) == SKY_AND_TREE


FORMS_WITH_COLOURS = [
    "name,r,g,b\nsky,70,130,180\ntree,107,142,35\n",
    "class\tred\tgreen\tblue\nsky\t70\t130\t180\ntree\t107\t142\t35\n",
    "sky,70,130,180\ntree,107,142,35\n",
    "sky 70 130 180\ntree 107 142 35\n",
    "70 130 180\tsky\n107 142 35\ttree\n",
    "sky:70,130,180::\ntree:107,142,35::\n",
    '[{"name": "sky", "color": [70, 130, 180]}, {"name": "tree", "color": "#6b8e23"}]',
    "sky @#4682b4\ntree @#6b8e23\n",
]


@pytest.mark.parametrize("text", FORMS_WITH_COLOURS)
def test_colours_are_read(text, tmp_path):
    (tmp_path / "palette.csv").write_text(text)
    vocabulary = Vocabulary.parse(tmp_path / "palette.csv")
    assert vocabulary.names == ("sky", "tree")
    assert vocabulary.palette.tolist() == [[70, 130, 180], [107, 142, 35]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sky, tree, person\n", "may be 3 labels or one with synonyms.*'sky=tree|person'"),
        ("sky;tree", "may be 2 labels"),
        ("0 sky\n2 tree\n", "numbers are 0, 2, not 0, 1"),
        ("7 sky\n8 tree\n", "numbers are 7, 8"),
        ("0 sky\n0 tree\n", "numbers are 0, 0"),
        ("1 sky\n999999999 tree\n", "numbers are 1, 999999999"),
        ('{"0": "sky", "5": "tree"}', "numbers are 0, 5"),
        ('{"0": "sky", "0": "tree"}', "'0' stands twice"),
        ('{"a": {"b": 1}}', "none that is known"),
        ('{"labels": []}', "none that is known"),
        ("[]", "none that is known"),
        ('["sky", 3]', "name '3' is a int"),
        ('["sky"', "begins like JSON"),
        ("{", "begins like JSON"),
        ("names: [sky, no]\n", "name 'False' is a bool"),
        ("names: [sky, tree]\nnc: 3\n", "nc is 3, but it has 2 names"),
        ("base: &a [sky, tree]\nnames: *a\n", "alias"),
        ("names: !!python/object/apply:os.system ['true']\n", "no YAML"),
        ("names: [sky\n", "no YAML"),
        ("<annotations><label><name>sky</name></label></annotations>", "XML or HTML"),
        ("<!DOCTYPE html>", "XML or HTML"),
        ('item {\n  id: 1\n  name: "sky"\n}\n', "'}' is a program's"),
        ("train: images\nval: images\n", "settings"),
        ("sky\t0.3\ntree\t0.4\n", "columns, and no header"),
        ("sky,3\ntree,8\n", "numbers between its commas"),
        ("name,r,g,b\nsky,1,2\n", "header has 4 columns, the row 'sky,1,2' 3"),
        ("name,r,g,b\nsky,1,2,256\n", "not three numbers from 0 to 255"),
        ("id,name\nx,sky\n", "no whole number"),
        ("id,name\n", "without a row"),
        ("# nothing\n", "holds no label"),
        ("name\nsky\ntree\n", "looks like a heading"),
        ("-1 unlabeled\n0 sky\n1 tree\n", "'-1 unlabeled' does not"),
        ("background\n1 sky\n2 tree\n", "'background' does not"),
        ("id name\n0 sky\n1 tree\n", "'id name' does not"),
        ("__ignore__\n_background_\nsky\n", "labelme's '__ignore__'"),
        ("1 166 206 227\n2 31 120 180\n", "'166 206 227' has no letter"),
        ("n01440764\nn01443537\n", "WordNet's numbers"),
        ("classes= 2\nnames = data/voc.names\n", "darknet's settings"),
        ('CLASSES = ["sky", "tree"]\n', "is a program's"),
        ("classes=(\n'sky',\n'tree'\n)\n", "is a program's"),
        ("Value,Count,Red,Green,Blue,Class\n11,5,1,2,3,sky\n12,5,1,2,4,tree\n", "numbers are 11, 12"),
        ("kode,navn\n0,sky\n1,tree\n", "'kode,navn' does not"),
    ],
)
def test_what_cannot_be_told_is_refused_with_the_reason(words_of, text, said):
    with pytest.raises(UsageError, match=f"(?s)words.txt: .*{said}") as caught:
        words_of(text)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text",
    ["boeing 737\nairbus 320\n", "thing 0\nthing 1\n", '"2 person tent"\n"3 person tent"', "2 wheeler", "C#\nC++\n"],
)
def test_numbers_of_names_stay(words_of, text):
    assert list(words_of(text)) == [unquoted(line) for line in text.splitlines()]


def test_commas_in_brackets_and_quotes_stay(words_of):
    assert words_of('"rock, paper"\ncar (red, big)\n') == {"rock, paper": (), "car (red, big)": ()}


def test_our_own_file_is_read_again(run, photo, tmp_path):
    words = ("--model", "tiny", "--template", "{}", "-o")
    first = run("segment", photo(), "-l", "sky=blue|air @#010203,tree", *words, tmp_path / "first")
    again = run("segment", photo(), "--labels", tmp_path / "first" / "labels.json", *words, tmp_path / "again")
    assert (first.code, again.code) == (0, 0), again.err
    assert "2 labels: sky=blue|air; tree" in first.err
    assert "labels.json, read as the labels of JSON: 2 labels: sky=blue|air; tree" in again.err
    assert (tmp_path / "again" / "labels.json").read_text() == (tmp_path / "first" / "labels.json").read_text()


def test_a_background_of_ours_is_told(tmp_path):
    (tmp_path / "labels.json").write_text('{"labels": [{"name": "rest"}, {"name": "sky"}], "background": "rest"}')
    assert "'rest' is a label like the others here; --background names it" in read_labels(tmp_path / "labels.json")[1]


# Attacks


def refused_at_once(file):
    started = time.thread_time()
    with pytest.raises(UsageError) as caught:
        read_labels(file)
    assert time.thread_time() - started < 20
    assert len(str(caught.value)) < 700


def test_bombs_are_refused_at_once(tmp_path):
    file = tmp_path / "names.yaml"
    lines = ["a: &a {x0: 1, x1: 1}"]
    for one, before in zip("bcdefgh", "abcdefg", strict=True):
        lines.append(f"{one}: &{one} {{<<: [{', '.join([f'*{before}'] * 9)}]}}")
    for text in (
        "\n".join([*lines, "names: [sky]"]),
        "names: " + "[" * 100_000,
        "names: " + "{a: " * 100_000,
        "names: [" + "a, " * YAML_BYTES + "]",
        "names: {" + "[a]: b, " * 10 + "}",
    ):
        file.write_text(text)
        refused_at_once(file)
    for text in ("[" * 100_000, "[" + "[]," * PARTS + "[]]", '{"a":' * 100_000, "[" + "9" * 5000 + "]"):
        (tmp_path / "words.json").write_text(text)
        refused_at_once(tmp_path / "words.json")


@pytest.mark.parametrize(
    "line",
    [
        "a" + " " * 1_000_000 + "b",
        "1 " * 500_000 + "x",
        "n01440764" + "," * 1_000_000,
        ",;" * 500_000 + "a",
        '"(' * 500_000,
        "a" + " 1" * 500_000 + " x",
        "é, " * 300_000,
        "x: " * 300_000,
    ],
    ids=range(8),
)
def test_long_lines_take_no_longer_than_their_length(tmp_path, line):
    (tmp_path / "words.txt").write_text(f"{line}\n{line}y\n")
    started = time.thread_time()
    with suppress(UsageError):
        read_labels(tmp_path / "words.txt")
    assert time.thread_time() - started < 20


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "data.yaml")
    with pytest.raises(UsageError, match="named pipe"):
        read_label_file(tmp_path / "data.yaml")


# One rule for commas


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("sky,tree,person", ["sky", "tree", "person"]),
        (" sky , , tree ,", ["sky", "tree"]),
        ('"rock, paper",sky', ['"rock, paper"', "sky"]),
        ('car="rock, paper"|van,sky', ['car="rock, paper"|van', "sky"]),
        ("car (red, big), tree [a, b], {c, d}", ["car (red, big)", "tree [a, b]", "{c, d}"]),
        ("car (red, big", ["car (red", "big"]),
        ('12" pizza, 5" nail', ['12" pizza', '5" nail']),
        ("vanilla[residual=drop,ffn=drop],gem", ["vanilla[residual=drop,ffn=drop]", "gem"]),
        ("", []),
    ],
)
def test_commas_separate_outside_brackets_and_quotes(text, items):
    assert split_items(text) == items


def test_a_quoted_word_is_read_back():
    for word in ("rock, paper", "sky", 'a "b", c', ","):
        assert unquoted(quoted(word)) == word


def test_commas_of_the_command_line(run, photo, tmp_path):
    words, out = 'sky,"grass, cut" @#010203,car (red, big)', tmp_path / "out"
    ran = run("segment", photo(), "-l", words, "--model", "tiny", "--format", "png,mask", "-o", out)
    assert ran.code == 0, ran.err
    assert "-l: 3 labels: sky; grass, cut; car (red, big)" in ran.err
    made = json.loads((out / "labels.json").read_text())["labels"]
    assert [label["queries"] for label in made] == [["sky"], ["grass, cut"], ["car (red, big)"]]
    assert (out / "mask" / "photo.png").exists()
    ran = run("segment", photo(), "-l", "sky", "-l", "", "--model", "tiny", "-o", tmp_path / "no")
    assert "a label is empty" in ran.err


TABLES = [
    "Value,Name\n0,sky\n1,tree\n",
    "code,name\n1,sky\n2,tree\n",
    "pixel value,class\n0,sky\n1,tree\n",
    "class,name\n0,sky\n1,tree\n",
    "label,name\n1,tree\n0,sky\n",
    "LabelID,LabelName\n0,sky\n1,tree\n",
    "category_id,category_name\n0,sky\n1,tree\n",
    "Class Index,Class Name\n0,sky\n1,tree\n",
    ",name\n0,sky\n1,tree\n",
    "id;class\n1;sky\n2;tree\n",
    '"id","name"\n"0","sky"\n"1","tree"\n',
    '{"categories": [{"id": 2, "name": "tree"}, {"id": 1, "name": "sky"}]}',
    '{"labels": [{"index": 1, "name": "tree"}, {"index": 0, "name": "sky"}]}',
    "n01440764 0 sky\nn01443537 1 tree\n",
    "0 n01440764 sky\n1 n01443537 tree\n",
    "0 -> sky\n1 -> tree\n",
    "0|sky\n1|tree\n",
]


@pytest.mark.parametrize("text", TABLES)
def test_tables_and_numbers_of_other_programs(text):
    assert [label.queries for label in parsed(text)] == [("sky",), ("tree",)]


def parsed(text):
    return labels_of(parse_label_file(text, "words.txt"))


def test_a_table_with_synonyms_and_colours():
    sky, tree = parsed('name,synonyms,r,g,b\nsky,"blue|air",1,2,3\ntree,,4,5,6\n')
    assert (sky.queries, sky.color) == (("sky", "blue", "air"), (1, 2, 3))
    assert (tree.queries, tree.color) == (("tree",), (4, 5, 6))


def test_colours_behind_names():
    for text in ("sky,#0a0b0c\ntree,#010203\n", "sky 10 11 12 255\ntree 1 2 3 255\n"):
        assert [(label.name, label.color) for label in parsed(text)] == [
            ("sky", (10, 11, 12)),
            ("tree", (1, 2, 3)),
        ]


def test_digits_may_be_classes():
    assert [label.name for label in parsed("0\n1\n2\n")] == ["0", "1", "2"]


def test_one_numbered_class():
    assert [label.name for label in parsed("0: person\n")] == ["person"]


def test_gaps_between_ids_are_told(tmp_path):
    file = tmp_path / "coco.json"
    file.write_text('{"categories": [{"id": 9, "name": "tree"}, {"id": 1, "name": "sky"}]}')
    labels, said = read_labels(file)
    assert [label.name for label in labels] == ["sky", "tree"]
    assert "whose ids are not 0, 1" in said


def test_quotes_in_names_are_no_table():
    assert [label.name for label in parsed('"big" cat\nthe "small" one\n')] == ['"big" cat', 'the "small" one']


# Written anew


def meaning(labels):
    return [(label.name, label.queries, label.color) for label in labels]


@pytest.mark.parametrize("suffix", [".txt", ".yaml", ".yml"])
@pytest.mark.parametrize(
    ("text", "name"),
    [*FORMS_BY_NAME, *((text, "words.txt") for text in (*FORMS_OF_ROADS, *FORMS_WITH_COLOURS, *TABLES))],
)
def test_what_is_read_is_written_and_read_again(text, name, suffix):
    labels = labels_of(parse_label_file(text, name))
    again = labels_of(parse_label_file(label_file(labels, suffix), f"labels{suffix}"))
    assert meaning(again) == meaning(labels)


def test_the_forms_that_are_written():
    labels = Vocabulary.parse(["sky", "person=man|woman", '"rock, paper"=stone']).labels
    assert label_file(labels, ".txt") == 'sky\nperson=man|woman\n"rock, paper"=stone\n'
    assert label_file(labels, ".yaml") == (
        "nc: 3\nnames:\n  0: sky\n  1: person, man, woman\n  2: '\"rock, paper\", stone'\n"
    )
    colored = label_file([Label("sky", ("air",), (1, 2, 3)), Label("no")], ".yaml")
    assert colored == "nc: 2\nnames:\n- name: sky\n  synonyms:\n  - air\n  color: '#010203'\n- name: 'no'\n"
    with pytest.raises(UsageError, match=r"written as .txt, .yaml or .yml, not as .json"):
        label_file(labels, ".json")


@pytest.mark.parametrize("names", [["7up", "sky"], ["3 seats", "5 seats"], ["name", "sky"], ["a # b", "c"], ["a=b"]])
def test_names_that_a_line_cannot_hold_are_said_or_quoted_and_yaml_holds_them(names):
    labels = [Label(name) for name in names]
    assert meaning(labels_of(parse_label_file(label_file(labels, ".yaml"), "labels.yaml"))) == meaning(labels)
    try:
        text = label_file(labels, ".txt")
    except UsageError as error:
        assert "write a .yaml" in str(error)  # noqa: PT017
    else:
        assert meaning(labels_of(parse_label_file(text, "labels.txt"))) == meaning(labels)


WORD = st.text(min_size=1, max_size=12).map(str.strip)


@given(st.lists(st.tuples(WORD, st.lists(WORD, max_size=3)), min_size=1, max_size=5, unique_by=lambda pair: pair[0]))
def test_any_labels_are_written_as_they_are_or_refused(pairs):
    try:
        labels = [Label(name, tuple(more)) for name, more in pairs]
    except UsageError:
        return
    for suffix in (".txt", ".yaml"):
        with suppress(UsageError):
            text = label_file(labels, suffix)
            assert meaning(labels_of(parse_label_file(text, f"labels{suffix}"))) == meaning(labels)


def test_a_label_file_is_converted_and_nothing_of_others_replaced(run, tmp_path):
    (tmp_path / "classes.csv").write_text('name,synonyms,r,g,b\nsky,"blue|air",1,2,3\ntree,,4,5,6\n')
    ran = run("labels", "convert", tmp_path / "classes.csv", "-o", tmp_path / "out" / "labels.txt")
    assert ran.code == 0
    assert "read as a table" in ran.err
    assert "2 labels" in ran.out
    assert (tmp_path / "out" / "labels.txt").read_text() == "sky=blue|air @#010203\ntree @#040506\n"
    given = ("labels", "convert", tmp_path / "out" / "labels.txt", "-o")
    assert "--overwrite replaces it" in (refused := run(*given, tmp_path / "out" / "labels.txt")).err
    assert refused.code == 2
    assert run(*given, tmp_path / "out" / "labels.txt", "--overwrite").code == 0
    (tmp_path / "out" / "mine.yaml").write_text("mine")
    assert "was not written by a run" in run(*given, tmp_path / "out" / "mine.yaml", "--overwrite").err
    assert (tmp_path / "out" / "mine.yaml").read_text() == "mine"
    assert "written as .txt, .yaml or .yml" in run(*given, tmp_path / "out" / "labels").err
