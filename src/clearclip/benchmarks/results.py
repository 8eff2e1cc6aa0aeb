"""What a run leaves behind: one JSON record for each method, appended to `results.jsonl`."""

from __future__ import annotations

import codecs
import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clearclip.benchmarks.configuration import templates
from clearclip.benchmarks.evaluation import Evaluation
from clearclip.benchmarks.presets import MARK
from clearclip.benchmarks.published import published_number
from clearclip.benchmarks.state import refuse_constant
from clearclip.errors import ClearclipError, UsageError, printable
from clearclip.files.reading import check_regular, read_bytes
from clearclip.files.writing import atomic_write

RESULTS_FILE = "results.jsonl"
RESULTS_LIMIT = 1 << 28
SCORES = ("miou", "macc", "aacc", "fwiou")
Record = dict[str, Any]


def records(evaluation: Evaluation) -> list[Record]:
    """The outcome of a run as JSON-able data, one record for each method, scores in percent.

    `published` is the number that the paper prints for the cell, quoted, or `None`. Its `difference`, measured minus
    printed, is `None` where the two are not of the same images, protocol and threshold; `warnings` say so.
    """
    return [_record(evaluation, method) for method in evaluation.matrices]


def _record(evaluation: Evaluation, method: str) -> Record:
    config, facts, found = evaluation.config[method], evaluation.facts[method], evaluation.scores(method)
    printed = published_number(config.benchmark, model=facts.paper_model, method=method)
    if printed is not None and MARK in config.benchmark:
        from clearclip.encode.text import imagenet_templates

        # a preset's number is of its own protocol and prompts alone
        alike = evaluation.is_by_protocol(method) and config.templates == templates(imagenet_templates())
        printed = printed if alike else None
    return {
        "benchmark": config.benchmark,
        "method": method,
        "name": evaluation.names.get(method),
        "model": config.model,
        **{name: _percent(getattr(found, name)) for name in SCORES},
        "classes": {
            name: {"iou": _percent(iou), "accuracy": _percent(accuracy)}
            for name, iou, accuracy in zip(evaluation.classes, found.iou, found.accuracy, strict=True)
        },
        "published": None
        if printed is None
        else {
            "miou": printed.miou,
            "source": printed.source,
            "difference": round(100 * found.miou - printed.miou, 4)
            if evaluation.is_official(method) and not math.isnan(found.miou)
            else None,
        },
        "images": evaluation.images,
        "shard": str(evaluation.shard) if evaluation.shard.count > 1 else None,
        "warnings": list(evaluation.warnings),
        "skipped": list(evaluation.skipped),
        "config": json.loads(json.dumps(asdict(config))),
        "checkpoint": config.checkpoint,
        "data": facts.data,
        "device": facts.device,
        "versions": facts.versions,
        "seed": config.seed,
        "time": facts.began,
        "seconds": round(evaluation.seconds, 3),
        "run": facts.run,
    }


def _percent(fraction: float) -> float | None:
    return None if math.isnan(fraction) else round(100 * float(fraction), 4)


def check_results(folder: Path) -> tuple[bytes, list[Record]]:
    """The bytes and records of a folder's `results.jsonl`; `UsageError` if something else has that name."""
    path = folder / RESULTS_FILE
    try:
        check_regular(path.lstat())  # a link is refused, as it would be replaced
        data = read_bytes(path, limit=RESULTS_LIMIT)
        return data, _parse(data, path)
    except FileNotFoundError:
        return b"", []
    except OSError as error:
        raise UsageError(
            f"{path} cannot be appended to ({error.strerror or error}): move it, or choose another folder"
        ) from error


def append_results(evaluation: Evaluation, folder: Path) -> Path:
    """Append a run's records to `results.jsonl` of a folder that is claimed, unless they stand there already.

    What stands there stays byte for byte; `UsageError` if it is something else than records.
    """
    path = folder / RESULTS_FILE
    written, known = check_results(folder)
    runs = {record.get("run") for record in known}
    new = [record for record in records(evaluation) if record["run"] not in runs]
    if not new:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in new)
    end = b"\n" if written and not written.endswith(b"\n") else b""
    with atomic_write(path, replace=os.path.lexists(path)) as partial:
        partial.write_bytes(written + end + printable(lines).encode())
    return path


def read_results(paths: Iterable[Path]) -> list[Record]:
    """Read records, in order, of files and of output folders that hold a `results.jsonl`."""
    found: list[Record] = []
    for given in paths:
        path = given / RESULTS_FILE if given.is_dir() else given
        try:
            data = read_bytes(path, limit=RESULTS_LIMIT)
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(f"{path} cannot be read ({reason}): name a {RESULTS_FILE} or its folder") from error
        found += _parse(data, path)
    if not found:
        raise ClearclipError("there are no results in these files: run clearclip evaluate first")
    return found


def _parse(data: bytes, path: Path) -> list[Record]:
    found = []
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        try:
            if line.strip():
                found.append(_checked(json.loads(line, parse_constant=refuse_constant)))
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"{path}, line {number} is no record ({error}): delete that line, or move the file"
            ) from error
    return found


def _checked(record: Any) -> Record:
    """`ValueError` if something lacks what tables show, or has it of another kind."""
    needed = ("benchmark", "model", "method", "miou", "classes")
    if not isinstance(record, dict) or not record.keys() >= set(needed):
        raise ValueError(f"{', '.join(needed)} are needed")
    printed, config, classes = record.get("published") or {}, record.get("config", {}), record["classes"]
    if not all(isinstance(one, dict) for one in (printed, config, classes)):
        raise ValueError("its parts are of another kind than ours")
    if not all(isinstance(one, dict) for one in classes.values()):
        raise ValueError("its classes are of another kind than ours")
    numbers = [record.get(key) for key in (*SCORES, "images")]
    numbers += [printed.get(key) for key in ("miou", "difference")] + [config.get("threshold")]
    numbers += [one.get("iou") for one in classes.values()]
    if not all(one is None or (type(one) in (int, float) and abs(one) < 1e15) for one in numbers):
        raise ValueError("a number of it is none")
    names = (record["benchmark"], record["model"], record["method"], record.get("name") or "", record.get("time") or "")
    if not all(isinstance(name, str) for name in names):
        raise ValueError("a name of it is no text")
    return record
