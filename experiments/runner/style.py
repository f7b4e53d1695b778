"""One look for all figures: colours that colour-blind readers can tell apart, quiet axes, letters readable on a phone.

The runner calls every ``figures(result)`` inside `context`, so a plain matplotlib figure already has the look.
"""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

# Okabe and Ito (2008), ordered so that the first ones differ most in lightness too; black and yellow left out.
BLUE, ORANGE, GREEN, RED, SKY, PINK, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#6B6B6B"
COLORS = (BLUE, ORANGE, GREEN, RED, SKY, PINK, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")

SETTINGS: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.labelcolor": "#222222",
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": matplotlib.cycler(color=COLORS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10.5,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "image.cmap": "viridis",
    "image.interpolation": "nearest",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "savefig.dpi": 150,
    "svg.hashsalt": "jaxspec",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


def context() -> Any:
    """The look, as a context manager that leaves matplotlib's own settings as they were."""
    return matplotlib.rc_context(SETTINGS)


def subplots(rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (4.2, 3.1), **options: Any):
    """Make a figure without pyplot's global state.

    Args:
        rows: Rows of panels.
        columns: Columns of panels.
        size: Width and height of one panel, inches.
        **options: Passed to `matplotlib.figure.Figure.subplots` (``sharex``, ``sharey``, ``width_ratios``, ...).

    Returns:
        The figure, and an array of axes of shape (rows, columns).
    """
    with context():
        figure = Figure(figsize=(size[0] * columns, size[1] * rows))
        axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, axes


def image(axes: Axes, pixels: ArrayLike, title: str = "") -> None:
    """Show a picture: values clipped to [0, 1], no axes, its title above it.

    Args:
        axes: Where.
        pixels: Array of shape (height, width) or (height, width, 3).
        title: Text above the picture.
    """
    axes.imshow(np.clip(pixels, 0.0, 1.0), cmap="gray", vmin=0.0, vmax=1.0)
    axes.set_axis_off()
    axes.set_title(title)


def band(axes: Axes, x: ArrayLike, samples: ArrayLike, *, label: str, color: str, **options: Any) -> None:
    """Draw the median over the first axis of `samples` and the band from its smallest to its largest value.

    Args:
        axes: Where.
        x: Abscissae, shape (points,).
        samples: One row a seed, shape (seeds, points).
        label: Legend text.
        color: Line and band colour.
        **options: Passed to `matplotlib.axes.Axes.plot`.
    """
    samples = np.asarray(samples)
    axes.plot(x, np.median(samples, axis=0), label=label, color=color, **options)
    if len(samples) > 1:
        axes.fill_between(x, samples.min(axis=0), samples.max(axis=0), color=color, alpha=0.18, linewidth=0)
