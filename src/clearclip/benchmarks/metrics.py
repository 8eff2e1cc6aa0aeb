"""Confusion matrices and the scores read from them. Pure numpy: no images, no files, no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clearclip.benchmarks.decoding import IGNORE

Matrix = npt.NDArray[np.int64]


def confusion(truth: npt.NDArray[np.integer], prediction: npt.NDArray[np.integer], *, classes: int) -> Matrix:
    """Count the pixels of each pair (true class, predicted class); counts of several images simply add up.

    truth `(H, W)` holds class indices and 255, whose pixels count nowhere, not even as predictions. Returns `(C, C)`
    int64: row = true class, column = predicted class.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth is {truth.shape} and prediction {prediction.shape}: both must have one shape (H, W)")
    counted = truth != IGNORE
    true, predicted = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
    for name, values in (("truth", true), ("prediction", predicted)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            raise ValueError(f"{name} has values from {values.min()} to {values.max()}: 0–{classes - 1} are classes")
    pairs = np.bincount(true * classes + predicted, minlength=classes * classes)
    return pairs.reshape(classes, classes).astype(np.int64)


def occurring(matrix: Matrix) -> Matrix:
    """`(R, 4)`: class, its pixels that are right, true ones and predicted ones, for the classes that occur at all."""
    columns = np.stack([np.arange(len(matrix)), np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)], axis=1)
    found: Matrix = columns[columns[:, 2:].any(axis=1)]
    return found


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says, as fractions of 1; `nan` where there is nothing to divide by.

    Attributes:
        iou: `(C,)` intersection over union of each class.
        accuracy: `(C,)` share of each class's true pixels that were found.
        aacc: Share of all pixels that are right.
        fwiou: IoU weighted with each class's share of the true pixels.
    """

    iou: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]
    miou: float
    macc: float
    aacc: float
    fwiou: float


def scores(matrix: Matrix) -> Scores:
    """Read the scores of a whole split (or of one image) from its confusion matrix.

    Absent classes count as in the field (mmsegmentation's IoUMetric, which the paper used): a class that occurs in
    neither truth nor prediction has no IoU and is left out of mIoU; one that is predicted but never true has an IoU of
    0 and counts; a class that is never true has no accuracy and is left out of mAcc.
    """
    hit = np.diag(matrix).astype(np.float64)
    true, predicted = matrix.sum(axis=1).astype(np.float64), matrix.sum(axis=0).astype(np.float64)
    union = true + predicted - hit
    iou = np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)
    accuracy = np.divide(hit, true, out=np.full_like(hit, np.nan), where=true > 0)
    total = true.sum()
    return Scores(
        iou=iou,
        accuracy=accuracy,
        miou=_mean(iou),
        macc=_mean(accuracy),
        aacc=float(hit.sum() / total) if total else float("nan"),
        fwiou=float(np.sum(true[true > 0] * iou[true > 0]) / total) if total else float("nan"),
    )


def _mean(values: npt.NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
