"""Draw the ratios of a benchmark as bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ws_det.bench.tables import Outcome
from ws_det.files import write_png

OURS, PEER, BASELINE = "#1f77b4", "#bbbbbb", "#555555"


def draw_bars(outcomes: Sequence[Outcome], path: str | Path) -> None:
    """Draw a panel for each comparison, a bar for each arm, as long as its ratio.

    Args:
        outcomes: What was measured.
        path: PNG to write.
    """
    longest = max(len(timings) for _, timings in outcomes)
    size = (8.5, (0.34 * longest + 0.9) * len(outcomes))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)  # no display, and pyplot's state stays the user's
    panels = figure.subplots(len(outcomes), 1, squeeze=False)[:, 0]
    for ax, (comparison, timings) in zip(panels, outcomes):
        colors = [
            BASELINE if name == comparison.baseline else OURS if "ws_det" in name else PEER
            for name in timings
        ]
        bars = ax.barh(list(timings), [t.ratio for t in timings.values()], color=colors)
        ax.bar_label(bars, fmt="%.2f", padding=3)
        ax.axvline(1, color=BASELINE, linewidth=0.8)
        ax.invert_yaxis()
        ax.set_title(comparison.title, fontsize=10)
        ax.set_xlabel(f"time, x {comparison.baseline}")
        ax.margins(x=0.1)
        ax.spines[["top", "right"]].set_visible(False)
    write_png(figure, path, dpi=120)
