"""The settings that a visitor sees: what they are at first, as a request, and when they come from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clearclip.errors import UsageError
from clearclip.service.files import Files
from clearclip.service.models import Models, available_devices
from clearclip.service.request import BACKGROUND, RESIDUALS, Request, read_request, with_residual, within
from clearclip.studio import export
from clearclip.studio.html import label_entry
from clearclip.studio.scenes import SceneFile

PROMPTS = "the paper's 80 prompts"
OPACITY = 0.55


@dataclass
class Studio:
    """What the page's functions need: the models, the gallery, and the folder for files."""

    models: Models
    scenes: Sequence[SceneFile]
    files: Files

    @property
    def default_model(self) -> str:
        """The first of the allowed models."""
        return next(iter(self.models.sources))

    def defaults(self) -> dict[str, Any]:
        """The settings of a first visit."""
        return {
            "labels": [label_entry(label) for label in self.scenes[0].labels],
            "model": self.default_model,
            "device": self.models.devices[0],
            "method": "clearclip",
            "residual": RESIDUALS[0],
            "beta": 30,
            "threshold": 0,
            "background": BACKGROUND,
            "presence": "none",
            "templates": PROMPTS,
            "opacity": OPACITY,
        }

    def request(self, settings: Mapping[str, Any]) -> Request:
        """The values of the page's controls, by the names of `defaults`, as a request; `UsageError` for bad ones."""
        template = settings["templates"]
        return read_request(
            settings["labels"],
            limits=self.models.limits,
            model=settings["model"],
            method=with_residual(settings["method"], settings["residual"], settings["beta"]),
            threshold=settings["threshold"] or None,
            background=settings["background"],
            templates=None if not template or template == PROMPTS else template,
            device=settings["device"],
            presence=settings["presence"],
        )

    def lines(self, request: Request, *, image: str, method: str) -> export.Lines:
        """The command and the Python lines of a request, with the spelling of the method that ran."""
        device = request.device if request.device != available_devices()[0] else None
        source = self.models.sources[request.model]
        return export.lines(
            request, image=image, source=source, method=method, device=device, value_range=self.models.value_range
        )

    def checked(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings from outside, reduced to those that are known and usable; their labels may be empty."""
        known = {name: settings[name] for name in self.defaults()}
        request = self.request({**known, "labels": known["labels"] or [{"name": "any"}]})
        if request.model not in self.models.sources:
            raise UsageError(f"the model {request.model!r} is not allowed here: {', '.join(self.models.sources)}")
        opacity, beta = within(known["opacity"], 0, 1), within(known["beta"], 0, 100)
        if opacity is None or beta is None:
            raise UsageError("opacity and beta must be numbers")
        return {
            "labels": [label_entry(label) for label in request.labels] if known["labels"] else [],
            "model": request.model,
            "device": request.device if request.device in self.models.devices else self.models.devices[0],
            "method": known["method"],
            "residual": known["residual"],
            "beta": beta,
            "threshold": request.threshold or 0,
            "background": known["background"] or BACKGROUND,
            "presence": request.presence,
            "templates": request.templates[0] if request.templates else PROMPTS,
            "opacity": opacity,
        }
