"""Confusion matrices and scores, against scikit-learn's and against the definitions written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from clearclip.benchmarks import confusion, scores


@st.composite
def label_maps(draw):
    """Truth with ignored pixels and absent classes, and a prediction, `(H, W)` each."""
    classes = draw(st.integers(2, 40))
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    present = rng.choice(classes, rng.integers(1, classes + 1), replace=False)
    truth = rng.choice([*present, 255], (height, width)).astype(np.uint8)
    prediction = rng.choice(rng.choice(classes, rng.integers(1, classes + 1)), (height, width)).astype(np.int32)
    return classes, truth, prediction


@settings(deadline=None, max_examples=60)
@given(label_maps())
def test_confusion_equals_scikit_learn(maps):
    classes, truth, prediction = maps
    counted = truth != 255
    found = confusion(truth, prediction, classes=classes)
    assert found.dtype == np.int64
    if not counted.any():
        assert not found.any()
        return
    expected = confusion_matrix(truth[counted], prediction[counted], labels=range(classes))
    np.testing.assert_array_equal(found, expected)


@settings(deadline=None, max_examples=40)
@given(label_maps())
def test_scores_equal_scikit_learn(maps):
    classes, truth, prediction = maps
    true, predicted = truth[truth != 255], prediction[truth != 255]
    found = scores(confusion(truth, prediction, classes=classes))
    if not true.size:
        assert np.isnan([found.miou, found.macc, found.aacc, found.fwiou]).all()
        return
    occurring = np.union1d(true, predicted)
    iou = jaccard_score(true, predicted, labels=occurring, average=None, zero_division=0)
    np.testing.assert_allclose(found.iou[occurring], iou)
    assert np.isnan(np.delete(found.iou, occurring)).all()
    assert found.miou == pytest.approx(iou.mean())
    recall = [np.mean(predicted[true == index] == index) for index in np.unique(true)]
    assert found.macc == pytest.approx(np.mean(recall))
    assert found.aacc == pytest.approx(accuracy_score(true, predicted))
    shares = np.array([np.mean(true == index) for index in occurring])
    assert found.fwiou == pytest.approx(np.sum(shares * iou))


def test_absent_classes_count_as_in_the_field():
    truth = np.array([[0, 0, 1, 255]])
    prediction = np.array([[0, 2, 1, 3]])
    found = scores(confusion(truth, prediction, classes=5))
    np.testing.assert_array_equal(found.iou, [0.5, 1.0, 0.0, np.nan, np.nan])
    np.testing.assert_array_equal(found.accuracy, [0.5, 1.0, np.nan, np.nan, np.nan])
    assert found.miou == 0.5
    assert found.macc == 0.75
    assert found.aacc == pytest.approx(2 / 3)


def test_a_split_is_not_the_mean_of_its_images():
    first = confusion(np.array([[0, 0, 0, 1]]), np.array([[0, 0, 0, 0]]), classes=2)
    second = confusion(np.array([[1, 1]]), np.array([[1, 1]]), classes=2)
    assert scores(first + second).miou == pytest.approx((3 / 4 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), "one shape"),
        (np.full((1, 1), 3), np.zeros((1, 1), int), "truth has values"),
        (np.zeros((1, 1), int), np.full((1, 1), 3), "prediction has values"),
    ],
)
def test_what_is_no_label_map_is_refused(truth, prediction, message):
    with pytest.raises(ValueError, match=message):
        confusion(truth, prediction, classes=3)
