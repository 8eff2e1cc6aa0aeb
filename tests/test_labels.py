"""`clearclip labels check`, and labels that win by a hair."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import clearclip
from clearclip.classify.maps import grids
from clearclip.classify.presence import Verdict
from clearclip.classify.rivals import Rival, by_a_hair, rivals
from clearclip.inspection.apart import SAME, compare_labels
from clearclip.scenes import CLASSES, make_scene

pytestmark = pytest.mark.filterwarnings("ignore:the model has never seen:UserWarning")
SYNONYMS = [
    ("ship", "boat"), ("road", "street"), ("house", "home"), ("lawn", "grass"), ("fir", "pine"), ("car", "automobile"),
    ("bus", "coach"), ("rock", "stone"), ("plane", "airplane"), ("boat", "sailboat"), ("dirt", "soil"),
    ("mountain", "hill"), ("tree", "trees"),
]  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    return clearclip.load("tiny", device="cpu")


def grid_of(segmenter, image, words):
    (grid,) = grids(segmenter.encoder, [segmenter.encode(image)], segmenter.method, words)
    return grid


def test_synonyms_are_the_same_to_the_embedded_model_and_its_classes_are_not(tiny):
    for pair in SYNONYMS:
        assert compare_labels(tiny, pair).pairs[0].apart < 0.1 < SAME, pair
    found = compare_labels(tiny, list(CLASSES), top=1000)
    assert len(found.pairs) == 435
    assert found.counts["same"] == 0
    assert min(pair.apart for pair in found.pairs) > 0.5
    assert np.median([pair.apart for pair in found.pairs]) == pytest.approx(1)
    verdicts = {frozenset((pair.first, pair.second)): pair.verdict for pair in found.pairs}
    assert verdicts[frozenset(("car", "bus"))] == "close"
    assert verdicts[frozenset(("tree", "pine"))] == "apart"


def test_pixels_of_close_pairs_are_taken_for_one_another(tiny):
    """What the limit of `close` rests on: the share of two classes' pixels that score higher for the other one."""
    words = tiny.prepare(list(CLASSES))
    lost, seen = np.zeros((30, 30)), np.zeros(30)
    for index in range(25):
        scene = make_scene(index, split="val")
        logits = grid_of(tiny, scene.image, words).logits().numpy()
        for label in set(np.unique(scene.label_map).tolist()) - {255}:
            own = logits[:, scene.label_map == label]
            lost[label] += (own > own[label]).sum(axis=1)
            seen[label] += own.shape[1]
    found = {"close": [], "apart": []}
    for pair in compare_labels(tiny, list(CLASSES), top=1000).pairs:
        first, second = CLASSES.index(pair.first), CLASSES.index(pair.second)
        if seen[first] and seen[second]:
            found[pair.verdict].append((lost[first, second] + lost[second, first]) / (seen[first] + seen[second]))
    assert np.mean(found["close"]) > 3 * np.mean(found["apart"])


def test_pairs_are_those_of_a_plain_search(segmenter):
    labels = {"sky": None, "house": ["home", "hut"], "tree": ["pine"], "car": None, "boat": ["ship", "sail", "dinghy"]}
    embedded = {
        (label, word): segmenter.embed([word])[0].double()
        for label, more in labels.items()
        for word in (label, *(more or ()))
    }
    everyday = segmenter.embed(list(CLASSES)).double()
    usual = np.median([float((one - two).norm()) for one, two in itertools.combinations(everyday, 2)])
    expected = {}
    for first, second in itertools.combinations(labels, 2):
        cosines = {
            (one, two): float(embedded[first, one] @ embedded[second, two])
            for one in (first, *(labels[first] or ()))
            for two in (second, *(labels[second] or ()))
        }
        expected[first, second] = max(cosines.items(), key=lambda item: item[1])
    found = compare_labels(segmenter, labels, top=4)
    assert len(found.pairs) == 4
    best = sorted(expected.items(), key=lambda item: -item[1][1])[:4]
    for pair, (names, (words, cosine)) in zip(found.pairs, best, strict=True):
        assert (pair.first, pair.second) == names
        assert (pair.first_word, pair.second_word) == words
        assert pair.cosine == pytest.approx(cosine, abs=1e-6)
        assert pair.apart == pytest.approx(np.sqrt(2 - 2 * cosine) / usual, abs=2e-3)
    for stray in found.strays:
        own = [word for word in (stray.label, *(labels[stray.label] or ())) if word != stray.word]
        word = embedded[stray.label, stray.word]
        nearest = max(float(word @ embedded[stray.label, other]) for other in own)
        assert float(word @ embedded[stray.other, stray.other_word]) > nearest


def test_a_word_of_another_label_is_told(tiny):
    (stray,) = compare_labels(tiny, {"boat": ["sailboat", "street"], "road": ["pavement"]}).strays
    assert (stray.label, stray.word, stray.other) == ("boat", "street", "road")


def test_words_with_equal_tokens_are_told_and_end_with_code_1(run, tmp_path):
    (tmp_path / "labels.txt").write_text("Tree\ntree\nsky\n")
    ran = run("labels", "check", tmp_path / "labels.txt", "--model", "tiny", "--device", "cpu", "--json")
    assert ran.code == 1
    answer = json.loads(ran.out)
    assert answer["counts"] == {"same": 1, "close": 0}
    assert answer["pairs"][0]["verdict"] == "same"
    assert answer["pairs"][0]["apart"] == pytest.approx(0, abs=1e-3)


def test_the_table_of_the_nearest_pairs(run):
    ran = run("labels", "check", "-l", "bus=vehicle,car=automobile,sky,tree", "--model", "tiny", "--device", "cpu",
              "--top", 2)  # fmt: skip
    assert ran.code == 0
    assert "bus (vehicle)" in ran.out
    assert "the same to this model: 0; close: 1" in ran.out
    assert ran.out.count("apart") == 1
    assert "name the labels once" in run("labels", "check").err
    assert "name the labels once" in run("labels", "check", "a.txt", "--labels", "a.txt").err
    assert "name at least two" in run("labels", "check", "-l", "sky").err


def test_rivals_are_those_of_a_plain_loop(segmenter, picture):
    words = segmenter.prepare({"sky": ["blue"], "grass": None, "tree": ["pine", "fir"], "car": None})
    grid = grid_of(segmenter, picture(80, 112), words)
    probabilities = (grid.cosines * words.logit_scale).softmax(dim=0).flatten(1)
    owners = words.vocabulary.query_to_class
    margin = 0.02
    seconds, close = {}, Counter()
    for cell in probabilities.T.tolist():
        best = [max(p for p, owner in zip(cell, owners, strict=True) if owner == label) for label in range(4)]
        winner, second = sorted(range(4), key=lambda label: -best[label])[:2]
        seconds.setdefault(winner, Counter())[second] += 1
        close[winner] += best[winner] - best[second] < margin
    found = rivals(grid, words, margin=margin)
    names = words.vocabulary.names
    assert [one.label for one in found] == [names[index] for index in sorted(seconds)]
    for one in found:
        counted = seconds[names.index(one.label)]
        assert counted[names.index(one.rival)] == max(counted.values())
        assert one.share == pytest.approx(counted.total() / probabilities.shape[1])
        assert one.close == pytest.approx(close[names.index(one.label)] / counted.total())
    assert sum(one.share for one in found) == pytest.approx(1)


def test_one_label_has_no_rival_and_what_a_threshold_takes_is_not_won(segmenter, picture):
    words = segmenter.prepare(clearclip.Vocabulary.parse(["sky"], background="none"))
    assert rivals(grid_of(segmenter, picture(), words), words) == []
    words = segmenter.prepare(["sky", "grass"], threshold=1.0)
    assert rivals(grid_of(segmenter, picture(), words), words) == []


def test_a_label_that_does_not_compete_neither_wins_nor_is_a_rival(segmenter, picture):
    labels = ["sky", "grass", "tree"]
    words = segmenter.prepare(labels)
    grid = grid_of(segmenter, picture(80, 112), words)
    absent = max(rivals(grid, words), key=lambda one: one.share).label
    judged = replace(words, verdicts=tuple(Verdict(float(name != absent), 0.5) for name in labels))
    found = rivals(grid, judged)
    assert absent not in {name for one in found for name in (one.label, one.rival)}
    assert sum(one.share for one in found) == pytest.approx(1)
    only = tuple(Verdict(float(name == absent), 0.5) for name in labels)
    assert rivals(grid, replace(words, verdicts=only)) == []


def test_two_words_for_one_thing_are_told_in_a_result(tiny):
    image = make_scene(
        next(i for i in range(50) if (make_scene(i).label_map == CLASSES.index("boat")).mean() > 0.05)
    ).image
    words = tiny.prepare(["boat", "ship", "sky", "water", "grass"])
    found = rivals(grid_of(tiny, image, words), words)
    close = {(one.label, one.rival) for one in by_a_hair(found)}
    assert close & {("boat", "ship"), ("ship", "boat")}
    assert "sky" not in {label for label, _ in close}
    words = tiny.prepare(["boat=ship", "sky", "water", "grass"])
    assert by_a_hair(rivals(grid_of(tiny, image, words), words)) == []


def test_many_unknown_words_are_counted_not_listed(tiny):
    with pytest.warns(UserWarning, match=r"never seen '.*' and 12 more of these words: expect nothing of them") as said:
        tiny.prepare([f"xyzzy{letter}" for letter in "abcdefghijklmnopqrst"])
    assert len(str(said[0].message)) < 250


def test_what_is_small_or_sure_is_left_out():
    assert by_a_hair([Rival("a", 0.009, "b", 1.0), Rival("c", 0.5, "d", 0.4)]) == []


def test_a_terminal_obeys_no_label(run, tmp_path):
    (tmp_path / "labels.txt").write_text("sky\x1b[2J\ntree\x1b[31m=sky\n")
    ran = run("labels", "check", tmp_path / "labels.txt", "--model", "tiny", "--device", "cpu")
    assert "\x1b" not in ran.out + ran.err
    assert "sky" in ran.out
