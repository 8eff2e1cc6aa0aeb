"""Figure 2: what flows through the blocks of a model, as a page of pictures and tables."""

from __future__ import annotations

from collections.abc import Sequence

from clearclip.benchmarks.state import file_name
from clearclip.benchmarks.tables import Table
from clearclip.errors import UsageError
from clearclip.inspection.features import Inspection, findings, mean_channel_table
from clearclip.inspection.maps import draw_channel_means, draw_feature_maps, draw_statistics
from clearclip.paper.page import Page, long_table
from clearclip.paper.rows import TARGETS

STATISTICS_COLUMNS = (
    "part", "norm", "peak channel", "peak-to-mean", "entropy", "cosine between patches", "cosine with X_res",
    "cosine with X_attn",
)  # fmt: skip


def last_block_table(inspection: Inspection) -> Table:
    """The last block's statistics for people."""
    return Table(
        STATISTICS_COLUMNS,
        tuple(
            (
                part,
                f"{row.norm:.1f}",
                row.peak_channel,
                f"{row.peak_to_mean:.1f}",
                f"{row.entropy:.4f}",
                f"{row.cosine:.3f}",
                f"{row.cosine_with_residual:.3f}",
                f"{row.cosine_with_attention:.3f}",
            )
            for part, row in inspection.last.items()
        ),
    )


def features_page(inspections: Sequence[Inspection], *, name: str = "figure2", title: str | None = None) -> Page:
    """The page of figure 2, or of `clearclip inspect`: an inspection for each image, of one model and method."""
    first = inspections[0]
    page = Page(name, title or TARGETS["figure2"].title, numbers=[row for seen in inspections for row in seen.rows()])
    page.lead = [
        f"{first.model}, attention and residual of `{first.method}`. X_res is the stream that enters a block, X_attn "
        "its attention's output, X_sum the two together. Each whole image went through as one input; numbers are over "
        "its patch tokens, the class token left out."
    ]
    for seen in inspections:
        stem = file_name(seen.name)
        if f"maps-{stem}.png" in page.pictures:
            raise UsageError(f"two images are called {stem}: rename one, or show them one by one")
        page.pictures[f"maps-{stem}.png"] = (
            draw_feature_maps(seen),
            f"{seen.name}: magnitudes in the last block by patch and channel, and the peak channel as a map. Each row "
            "has its own colour scale; the triangle marks the peak channel",
        )
        page.pictures[f"channels-{stem}.svg"] = (
            draw_channel_means(seen),
            f"{seen.name}: mean magnitude of every channel of the last block",
        )
        page.tables[f"{seen.name}: the last block"] = last_block_table(seen)
        page.findings += findings(seen)
    page.pictures["statistics.svg"] = (
        draw_statistics(inspections),
        f"Statistics of every block, mean over {len(inspections)} image{'s' if len(inspections) > 1 else ''}",
    )
    page.extra_tables["channel-means"] = long_table(mean_channel_table(inspections))
    page.notes = [
        "Entropy: of a softmax over all values of a part, divided by its largest possible value (ClearCLIP, section "
        "3.2). Peak-to-mean: the strongest channel's mean magnitude divided by the mean over all channels. numbers.csv "
        "has every block, channel-means.csv every channel of every block."
    ]
    return page
