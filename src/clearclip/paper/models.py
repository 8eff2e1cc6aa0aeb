"""Models of a reproduction: what `--models` names, whether their weights are the paper's, and loading them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clearclip.checkpoints import CHECKPOINTS
from clearclip.errors import UsageError, nearest
from clearclip.paper.rows import PAPER_MODELS

if TYPE_CHECKING:
    from clearclip.backbones import Backbone

KNOWN_HASHES = {
    "clip-b16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "clip-l14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
}
"""SHA-256 of OpenAI's own files, which stand in their addresses (`open_clip.pretrained`); the others publish none."""


@dataclass(frozen=True)
class Model:
    """A model that is to be measured.

    Attributes:
        name: Row of the tables: a friendly name, or a name of the user's model.
        source: What is loaded in its place; `None`: what the friendly name stands for.
    """

    name: str
    source: str | None = None

    @property
    def paper(self) -> bool:
        """Whether the paper has numbers for this row."""
        return self.name in PAPER_MODELS

    @property
    def architecture(self) -> str:
        """Shape of the vision tower, as far as the name tells."""
        return CHECKPOINTS[self.name].architecture if self.name in CHECKPOINTS else "other"

    def load(self, *, tokenizer: str | None = None) -> Backbone:
        """Load the weights. Those put in a row's place have its friendly name only where they are the paper's."""
        from clearclip.backbones import load_backbone

        backbone = load_backbone(self._source(), tokenizer=tokenizer)
        if self.source is None or backbone.checkpoint_hash == KNOWN_HASHES.get(self.name):
            backbone.name = self.name
        return backbone

    def _source(self) -> str:
        if self.source is None:
            return CHECKPOINTS[self.name].source if self.name in CHECKPOINTS else self.name
        row = CHECKPOINTS.get(self.name)
        architecture = row.source.partition("/")[0] if row is not None and row.family in _OPEN_CLIP else None
        is_file = Path(self.source).is_file()
        return f"{architecture}/{self.source}" if architecture and is_file else self.source

    def provenance(self, backbone: Backbone) -> str:
        """Whose weights these are, in words; empty for the paper's own and for models that the paper does not have."""
        if not self.paper or self.source is None:
            return ""
        known = KNOWN_HASHES.get(self.name)
        found = backbone.checkpoint_hash
        if found == known:
            return ""
        if known is None:
            return (
                f"{self.name} = {self.source}: not known to be the paper's weights (no hash of them is known; "
                f"SHA-256 {found[:12]}…)"
            )
        return f"{self.name} = {self.source}: not the paper's weights (SHA-256 {found[:12]}…, theirs is {known[:12]}…)"


_OPEN_CLIP = ("CLIP", "OpenCLIP", "MetaCLIP")


def parse_models(text: str) -> list[Model]:
    """Read a comma list of friendly names, of anything else that `clearclip.load` takes, and of `name=PATH`.

    `name=PATH` puts weights of one's own into a row of the tables.
    """
    models = [_parse(part.strip()) for part in text.split(",") if part.strip()]
    if not models:
        raise UsageError("--models is empty: name at least one, as `clearclip models` lists them, or name=PATH")
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"model {name!r} was named twice: name each once")
    return models


def _parse(text: str) -> Model:
    name, equals, source = (part.strip() for part in text.partition("="))
    if not equals:
        return Model(name)
    if name not in CHECKPOINTS:
        raise UsageError(f"model {name!r} in {text!r} is no row of the tables: {nearest(name, CHECKPOINTS)}")
    if not source:
        raise UsageError(f"{text!r} names no weights: write {name}=PATH, or {name} alone")
    return Model(name, source)
