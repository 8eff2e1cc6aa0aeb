"""Results → HTML and data URIs that a browser shows; every name that a visitor wrote is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clearclip.files.commas import quoted
from clearclip.inspection.features import Inspection
from clearclip.segmentation import Segmentation
from clearclip.service.models import Answer
from clearclip.vocabulary import Label

Pixels = npt.NDArray[np.uint8]
TILE_SIDE = 512

# Anchors of two colour scales, dark to light and cold to warm; perceptually close to matplotlib's magma and RdBu.
_HEAT = ((0, 0, 4), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191))
_SIGNED = ((5, 48, 97), (67, 147, 195), (209, 229, 240), (247, 247, 247), (253, 219, 199), (214, 96, 77), (103, 0, 31))


def data_uri(image: Image.Image, *, kind: str = "PNG", **options: Any) -> str:
    """A picture as `data:image/…;base64,…`; `kind` and the options are those of Pillow's `save`."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def colored(values: npt.NDArray[Any], *, low: float, high: float, signed: bool = False) -> Image.Image:
    """Numbers (H, W) as colours, dark at `low` to light at `high`; `signed`: cold to warm."""
    anchors = np.array(_SIGNED if signed else _HEAT, dtype=float)
    share = np.clip((values - low) / max(high - low, 1e-12), 0, 1) * (len(anchors) - 1)
    table = np.stack([np.interp(share, range(len(anchors)), anchors[:, part]) for part in range(3)], axis=-1)
    return Image.fromarray(np.rint(table).astype(np.uint8))


def shares(result: Segmentation) -> list[float]:
    """Each label's share of the area, 0–1."""
    counts = np.bincount(result.label_map.ravel(), minlength=len(result.labels))
    return [float(count) / result.label_map.size for count in counts]


def viewer_value(result: Segmentation) -> dict[str, Any]:
    """What the viewer needs, JSON-able; the label map, of at most 256 labels, goes as grey levels."""
    height, width = result.label_map.shape
    return {
        "image": data_uri(Image.fromarray(result.image), kind="JPEG", quality=90),
        "labels": data_uri(Image.fromarray(result.label_map.astype(np.uint8)), compress_level=1),
        "width": width,
        "height": height,
        "names": list(result.labels),
        "colors": [hex_color(color) for color in result.palette],
        "shares": shares(result),
        "absent": [result.absent.get(name, "") for name in result.labels],
    }


def hex_color(color: Iterable[int]) -> str:
    """A colour as CSS writes it, `#rrggbb`."""
    return "#" + "".join(f"{int(part):02x}" for part in color)


def label_entry(label: Label) -> dict[str, Any]:
    """A label as the page's list has it and `read_labels` reads it: `{name, synonyms, color}`."""
    color = hex_color(label.color) if label.color else None
    return {"name": quoted(label.name), "synonyms": list(label.synonyms), "color": color}


def words_note(result: Segmentation) -> str:
    """Which words are the background and which labels did not compete, in sentences; empty where there are none."""
    vocabulary, told = result.vocabulary, []
    for label in vocabulary.labels:
        if label.name == vocabulary.background and not vocabulary.asks_background and label.synonyms:
            beside = vocabulary.queries_of(label)
            told.append(f"The background is {len(beside)} words: {', '.join(beside[:6])} …")
    if absent := list(result.absent):
        told.append(f"Did not compete: {', '.join(absent[:6])}{' …' if absent[6:] else ''}.")
    return " ".join(told)


def status_line(answer: Answer, *, model: str, methods: str, notes: Sequence[str] = ()) -> str:
    """What was done, how long it took, and what must be known about it."""
    height, width = answer.size
    work = "the image was read, once for all words" if answer.encoder_passes else "features kept, no encoder ran"
    head = f"<b>{escape(model)}</b> · <b>{escape(methods)}</b> · {width}×{height}"
    shown = list(notes)
    if answer.unknown:
        named = ", ".join(f"“{word}”" for word in answer.unknown[:6])
        shown.append(
            f"This model has never seen {named}: expect nothing of {'it' if len(answer.unknown) == 1 else 'them'}."
        )
    if answer.note:
        shown.append(answer.note)
    extra = "".join(f'<span class="cc-note">{escape(note)}</span>' for note in shown)
    return f'<div class="cc-status" role="status">{head} · {_seconds(answer.seconds)}, {work}{extra}</div>'


def _seconds(seconds: float) -> str:
    if seconds < 0.001:
        return "under 1 ms"
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def problem(message: str) -> str:
    """An error in the place of the status."""
    return f'<div class="cc-status cc-problem" role="alert">{escape(message)}</div>'


def sentence(message: str) -> str:
    """A plain sentence in the place of the status."""
    return f'<div class="cc-status" role="status">{escape(message)}</div>'


def hint(message: str) -> str:
    """A sentence where there is nothing to show yet."""
    return f'<p class="cc-hint">{escape(message)}</p>'


def ranking_list(result: Segmentation, *, x: int, y: int, rows: int = 12) -> str:
    """All labels at a pixel with their probabilities as bars."""
    colors = dict(zip(result.labels, map(hex_color, result.palette), strict=True))
    ranked = result.ranking(y, x)
    winner = result.labels[int(result.label_map[y, x])]
    best = ranked[0][1] or 1.0
    items = "".join(
        f'<li><i style="background:{colors[name]}"></i><span>{escape(name)}</span><b>{probability:.1%}</b>'
        f'<em style="width:{100 * probability / best:.1f}%;background:{colors[name]}"></em></li>'
        for name, probability in ranked[:rows]
    )
    more = f"<p>and {len(ranked) - rows} more below</p>" if len(ranked) > rows else ""
    why = "" if winner == ranked[0][0] else f"<p>Below the threshold, so it is {escape(winner)}.</p>"
    return (
        f'<div class="cc-ranking" role="status"><h4>At {x}, {y}: {escape(winner)}</h4>{why}<ol>{items}</ol>{more}</div>'
    )


def comparison(results: Mapping[str, Segmentation], *, opacity: float) -> str:
    """Several methods side by side, with one legend."""
    first = next(iter(results.values()))
    figures = [_figure(Image.fromarray(first.image), "the image")]
    totals = np.zeros(len(first.labels))
    for spelling, result in results.items():
        part = shares(result)
        totals += part
        largest = sorted(zip(part, result.labels, strict=True), reverse=True)[:3]
        caption = " · ".join(f"{name} {share:.0%}" for share, name in largest if share > 0)
        figures.append(_figure(result.overlay(opacity=opacity, legend=False), spelling, caption))
    order = [int(index) for index in np.argsort(-totals, kind="stable") if totals[index] > 0]
    legend = "".join(
        f'<li><i style="background:{hex_color(first.palette[index])}"></i>{escape(first.labels[index])}</li>'
        for index in order
    )
    return f'<div class="cc-grid">{"".join(figures)}</div><ul class="cc-key" aria-label="Legend">{legend}</ul>'


def heat_maps(result: Segmentation, *, names: Sequence[str], relative: bool) -> str:
    """Each label's probability at every pixel; `relative`: each map from its own lowest to its own highest value."""
    figures = []
    for name in names:
        values = result.probabilities(name)
        low, high = (float(values.min()), float(values.max())) if relative else (0.0, 1.0)
        caption = f"{values.min():.1%} to {values.max():.1%}, mean {values.mean():.1%}"
        figures.append(_figure(colored(values, low=low, high=high), name, caption))
    return f'<div class="cc-grid">{"".join(figures)}</div>{_scale(relative)}'


def _scale(relative: bool) -> str:
    colors = ",".join(f"rgb{color}" for color in _HEAT)
    ends = ("lowest of the map", "highest of the map") if relative else ("0 %", "100 %")
    return (
        f'<div class="cc-scale"><span>{ends[0]}</span><i style="background:linear-gradient(90deg,{colors})"></i>'
        f"<span>{ends[1]}</span></div>"
    )


def _figure(picture: Image.Image, title: str, caption: str = "") -> str:
    small = picture.copy()
    small.thumbnail((TILE_SIDE, TILE_SIDE))
    uri = data_uri(small, kind="JPEG", quality=88)
    below = f"<small>{escape(caption)}</small>" if caption else ""
    return (
        f'<figure><img src="{uri}" alt="{escape(title)}. {escape(caption)}">'
        f"<figcaption><b>{escape(title)}</b>{below}</figcaption></figure>"
    )


def inspection_maps(seen: Inspection, *, channel: int | None) -> str:
    """X_res, X_attn and X_sum of the last block: one channel of each, or for `None` each patch's norm."""
    height, width = seen.image.shape[:2]
    figures = [_figure(Image.fromarray(seen.image), "as the encoder sees it")]
    for part, values in seen.maps.items():
        if channel is None:
            drawn = np.linalg.norm(values, axis=-1)
            picture = colored(drawn, low=float(drawn.min()), high=float(drawn.max()))
            caption = f"L2 norm of each patch: {drawn.min():.2f} to {drawn.max():.2f}"
        else:
            drawn = values[..., channel]
            bound = float(np.abs(drawn).max())
            picture = colored(drawn, low=-bound, high=bound, signed=True)
            caption = f"channel {channel}: {drawn.min():.2f} to {drawn.max():.2f}, mean {drawn.mean():.2f}"
        figures.append(_figure(picture.resize((width, height), Image.Resampling.NEAREST), part, caption))
    return f'<div class="cc-grid cc-grid-parts">{"".join(figures)}</div>'


def inspection_numbers(seen: Inspection) -> list[list[Any]]:
    """Norms, peak channels and entropies of the last block: a row for each part, in the order of `NUMBER_HEADERS`."""
    return [
        [part, round(row.norm, 2), row.peak_channel, round(row.peak_to_mean, 1), round(row.entropy, 4),
         round(row.cosine, 3)]
        for part, row in seen.last.items()
    ]  # fmt: skip


NUMBER_HEADERS = ("part", "norm", "peak channel", "peak ÷ mean", "entropy", "cosine of two patches")


def channel_chart(seen: Inspection, *, channel: int | None) -> str:
    """Mean magnitude of every channel of the last block as SVG, the chosen one marked."""
    last = max(block for block, _ in seen.channel_means)
    rows = []
    for part in seen.maps:
        magnitudes = seen.channel_means[last, part][1]
        top, count = float(magnitudes.max()) or 1.0, len(magnitudes)
        points = " ".join(
            f"M{index + 0.5:.1f} 100V{100 - 96 * value / top:.2f}" for index, value in enumerate(magnitudes)
        )
        mark = "" if channel is None else f'<path class="cc-mark" d="M{channel + 0.5} 0V100"/>'
        rows.append(
            f"<figure><figcaption><b>{escape(part)}</b><small>mean magnitude of channels 0 to {count - 1}; highest "
            f'{top:.2f} at {int(magnitudes.argmax())}</small></figcaption><svg viewBox="0 0 {count} 100" '
            f'preserveAspectRatio="none" role="img" aria-label="{escape(part)}: mean magnitude of every channel">'
            f'{mark}<path d="{points}"/></svg></figure>'
        )
    return f'<div class="cc-chart">{"".join(rows)}</div>'
