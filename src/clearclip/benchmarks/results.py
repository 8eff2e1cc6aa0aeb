"""What a run leaves behind: one JSON record for each method, appended to `results.jsonl`.

Belongs here: records, and writing and reading them. Does not: laying them out (`tables`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clearclip.benchmarks.evaluation import Evaluation
from clearclip.benchmarks.published import published_number
from clearclip.errors import ClearclipError, UsageError
from clearclip.files.reading import RefusedError, read_text

RESULTS_BYTES = 1 << 28
HUGE = 1e15  # no count or percentage of ours, and JSON knows integers that no float holds
RESULTS_FILE = "results.jsonl"
Record = dict[str, Any]


def records(evaluation: Evaluation) -> list[Record]:
    """The outcome of a run as JSON-able data, one record for each method, scores in percent.

    Args:
        evaluation: The outcome.

    Returns:
        Records. `published` is the number that the paper prints for the cell, quoted, with `difference` = measured
        minus printed, or `None`; `warnings` say where the two are not of the same protocol or images.
    """
    return [_record(evaluation, method) for method in evaluation.matrices]


def _record(evaluation: Evaluation, method: str) -> Record:
    config, facts, found = evaluation.config, evaluation.facts, evaluation.scores(method)
    printed = published_number(config["benchmark"], model=facts["paper_model"], method=method)
    own = {key: value for key, value in config.items() if key not in ("methods", "thresholds")}
    return {
        "benchmark": config["benchmark"],
        "method": method,
        "model": config["model"],
        "miou": _percent(found.miou),
        "macc": _percent(found.macc),
        "aacc": _percent(found.aacc),
        "fwiou": _percent(found.fwiou),
        "classes": {
            name: {"iou": _percent(iou), "accuracy": _percent(accuracy)}
            for name, iou, accuracy in zip(evaluation.classes, found.iou, found.accuracy, strict=True)
        },
        "published": None
        if printed is None
        else {
            "miou": printed.miou,
            "source": printed.source,
            "difference": None if math.isnan(found.miou) else round(100 * found.miou - printed.miou, 4),
        },
        "images": evaluation.images,
        "shard": str(evaluation.shard) if evaluation.shard.count > 1 else None,
        "warnings": list(evaluation.warnings),
        "skipped": list(evaluation.skipped),
        "config": {**own, "method": method, "threshold": config["thresholds"][method]},
        "checkpoint": config["checkpoint"],
        "data": facts["data"],
        "device": facts["device"],
        "versions": facts["versions"],
        "seed": config["seed"],
        "time": facts["began"],
        "seconds": round(evaluation.seconds, 3),
        "run": facts["run"],
    }


def _percent(fraction: float) -> float | None:
    return None if math.isnan(fraction) else round(100 * float(fraction), 4)


def append_results(evaluation: Evaluation, folder: Path) -> Path:
    """Append a run's records to the folder's `results.jsonl`, unless they stand there already.

    Args:
        evaluation: The outcome.
        folder: The output folder.

    Returns:
        The file.

    Raises:
        OSError: It cannot be written.
    """
    path = folder / RESULTS_FILE
    if path.is_symlink():
        raise RefusedError(f"{path} is a link to a file that may be another's: remove it, or name another output")
    written = read_text(path, limit=RESULTS_BYTES) if path.exists() else ""
    if f'"run": "{evaluation.facts["run"]}"' in written:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records(evaluation))
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" + lines if written and not written.endswith("\n") else lines)
        file.flush()
        os.fsync(file.fileno())
    return path


def read_results(paths: Iterable[Path]) -> list[Record]:
    """Read records.

    Args:
        paths: Files of records, or output folders that hold a `results.jsonl`.

    Returns:
        The records, in order.

    Raises:
        UsageError: There is no such file.
        ClearclipError: A line is no record.
    """
    found: list[Record] = []
    for given in paths:
        path = given / RESULTS_FILE if given.is_dir() else given
        try:
            lines = read_text(path, limit=RESULTS_BYTES).splitlines()
        except OSError as error:
            raise UsageError(f"{path} cannot be read ({error}): name a {RESULTS_FILE} or its folder") from error
        for number, line in enumerate(lines, start=1):
            if line.strip():
                found.append(_parse(line, place=f"{path}, line {number}"))
    if not found:
        raise ClearclipError("there are no results in these files: run clearclip evaluate first")
    return found


def _parse(line: str, *, place: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ClearclipError(f"{place} is no record ({error}): delete that line") from error
    needed = ("benchmark", "model", "method", "miou", "classes")
    if not isinstance(record, dict) or not record.keys() >= set(needed):
        raise ClearclipError(f"{place} is no record of clearclip evaluate: {', '.join(needed)} are needed")
    if not _is_whole(record):
        raise ClearclipError(f"{place} is damaged: its names are no texts, or its scores no numbers: delete that line")
    return record


def _is_whole(record: Record) -> bool:
    """Whether all that tables show is of its kind."""
    published, config = record.get("published") or {}, record.get("config", {})
    parts = [published, config, record["classes"]]
    if not all(isinstance(part, dict) for part in parts):
        return False
    classes = list(record["classes"].values())
    if not all(isinstance(scores, dict) for scores in classes):
        return False
    numbers = [record.get(name) for name in ("miou", "macc", "aacc", "fwiou", "images")]
    numbers += [published.get("miou"), published.get("difference"), config.get("threshold")]
    numbers += [scores.get("iou") for scores in classes]
    return all(isinstance(record[name], str) for name in ("benchmark", "model", "method")) and all(
        number is None or (isinstance(number, (int, float)) and abs(number) < HUGE) for number in numbers
    )
