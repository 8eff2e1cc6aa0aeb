"""The label maps of a run as PNGs, each with what decided it, so that maps of two models never look the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clearclip.benchmarks.configuration import Configuration, file_digest
from clearclip.benchmarks.readers import Dataset, Item, Pair
from clearclip.benchmarks.state import file_name
from clearclip.errors import UsageError
from clearclip.files.label_maps import read_info, save_label_map
from clearclip.files.outputs import Outputs, hold
from clearclip.files.shards import Shard


def prediction_name(method: str, item: Item) -> str:
    """Where the prediction of a method for an image is kept, below the folder of predictions."""
    return f"{file_name(method)}/{item.id}.png"


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of configurations, by method, in a folder that this process holds."""

    outputs: Outputs
    dataset: Dataset
    configs: Mapping[str, Configuration]

    def info(self, method: str, item: Item) -> dict[str, str]:
        """The texts in a prediction's PNG."""
        config = asdict(self.configs[method])
        described = {
            "software": f"clearclip {config['clearclip']}",
            **{key: config[key] for key in ("benchmark", "model", "weights", "dtype", "method")},
            "threshold": json.dumps(config["threshold"]),
            **{key: json.dumps(config[key], ensure_ascii=False) for key in ("protocol", "templates", "labels")},
            "source": item.id,
        }
        return {**described, "sha256": file_digest(item.image)} if isinstance(item, Pair) else described

    def check(self, items: Sequence[Item], *, overwrite: bool) -> None:
        """Refuse a folder with files of a user's own under these names; without `overwrite`, other settings too."""
        wanted = {prediction_name(method, item): (method, item) for method in self.configs for item in items}
        self.outputs.check(wanted)
        if len(wanted) < len(items) * len(self.configs):
            raise UsageError("two predictions would have one file: save those of one method at a time")
        for name, (method, item) in wanted.items() if not overwrite else ():
            if self.outputs.stands(name) and (other := self._differences(method, item)):
                raise UsageError(
                    f"{self.outputs.folder / name} was made with another {', '.join(other)}: choose another folder for "
                    "predictions, or replace them with --overwrite"
                )

    def stand(self, method: str, item: Item) -> bool:
        """Whether a prediction is there, as this configuration makes it."""
        return self.outputs.stands(prediction_name(method, item)) and not self._differences(method, item)

    def _differences(self, method: str, item: Item) -> list[str]:
        wanted = self.info(method, item)
        found = read_info(self.outputs.folder / prediction_name(method, item))
        return [key for key, text in wanted.items() if found.get(key) != text and key != "software"]

    def save(self, label_maps: Mapping[str, npt.NDArray[np.integer]], item: Item) -> None:
        """Write the label maps of one image, by method."""
        for method, label_map in label_maps.items():
            with self.outputs.write(prediction_name(method, item)) as partial:
                save_label_map(
                    label_map, partial, palette=self.dataset.vocabulary.palette, info=self.info(method, item)
                )


@contextmanager
def hold_predictions(
    folder: Path | None, dataset: Dataset, configs: Sequence[Configuration], *, shard: Shard
) -> Iterator[Predictions | None]:
    """The predictions of a run and shard; several may be at work in one folder. `None` for no folder."""
    if folder is None:
        yield None
        return
    with hold(folder, part=f"-{configs[0].key}{shard.suffix}") as outputs:
        yield Predictions(outputs, dataset, {config.method: config for config in configs})
