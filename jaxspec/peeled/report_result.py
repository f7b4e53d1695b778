"""What a symmetry report holds, and how it is written: JSON, and a figure."""

import json
import math
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxspec.optional import require
from jaxspec.tensor_files import replacing


class Score(NamedTuple):
    """A statistic with what chance makes of it.

    Attributes:
        value: measured.
        low: 2.5% quantile over resampled coordinates.
        high: 97.5% quantile.
        p_value: share of orders of the same rows with at least this value; for an order that was found in the data:
            `CyclicOrder.p_value` (harmonic), or ``control_p_value``.
        exact: whether all orders were tried.
        control_p_value: share of random token sets with at least this value; each in its own best order where the
            order of the words was searched.
        null_mean: mean over the orders; NaN for an order that was found.
        null_std: standard deviation over the orders; NaN likewise.
    """

    value: float
    low: float
    high: float
    p_value: float
    exact: bool
    control_p_value: float
    null_mean: float
    null_std: float


class Simplex(NamedTuple):
    """Distance from a simplex, never without what random rows have.

    Attributes:
        defect: of the centred rows, in [0, 2]; 0: a simplex.
        gaussian_mean: mean defect of Gaussian rows of the same shape, about ``sqrt(n / d)``.
        gaussian_p_value: share of those with at most this defect.
        control_p_value: share of random token sets with at most this defect.
    """

    defect: float
    gaussian_mean: float
    gaussian_p_value: float
    control_p_value: float


class Concept(NamedTuple):
    """What a list of words looks like.

    Attributes:
        name: of the list.
        words: in the order that was judged.
        tokens: of each word.
        variants: how each word was spelt.
        equivalent_orders: orders, as indices into ``words``, that the same circulant matrix has, the first of them the
            judged one.
        harmonic: the leading test: ``sum_ij G[i, j] cos(2 pi (i - j) / n)``, which tells equivalent orders apart.
        circulant_r2: share of the Gram matrix that depends on the cyclic distance alone.
        simplex: distance from a simplex.
        mode_power: share of every frequency 1 .. n // 2.
        adjusted_p_value: of ``harmonic`` (of the discovered order where one was searched), times Holm's factor for the
            number of lists.
        gram: cosines of the centred rows, (n, n).
        coordinates: of the rows in their two leading directions, (n, 2).
    """

    name: str
    words: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]
    variants: tuple[str, ...]
    equivalent_orders: tuple[tuple[int, ...], ...]
    harmonic: Score
    circulant_r2: Score
    simplex: Simplex
    mode_power: tuple[float, ...]
    adjusted_p_value: float
    gram: np.ndarray
    coordinates: np.ndarray


class SymmetryReport(NamedTuple):
    """Geometry of lists of words in one matrix of a checkpoint.

    Attributes:
        checkpoint: path that was given.
        tensor: name of the matrix.
        shape: of the matrix.
        dtype: of the matrix in the file.
        tied: whether it is the input embedding, for want of an output embedding.
        order: ``"given"`` or ``"discover"``.
        center: what was subtracted from the rows.
        controls: number of random token sets.
        concepts: one entry a list.
    """

    checkpoint: str
    tensor: str
    shape: tuple[int, int]
    dtype: str
    tied: bool
    order: str
    center: str
    controls: int
    concepts: tuple[Concept, ...]

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """The report as JSON.

        Args:
            path: file to write, whole or not at all; None: none.

        Returns:
            The text.
        """
        content = self._asdict() | {"concepts": [_plain(concept) for concept in self.concepts]}
        text = json.dumps(content, indent=2, allow_nan=False)
        if path is not None:
            with replacing(path) as file:
                file.write(text.encode())
        return text

    def plot(self, path: str | PathLike[str] | None = None) -> Any:
        """Gram matrix, power of the modes, and the rows in a plane, a row of panels a list.

        Args:
            path: file to write, whole or not at all; its suffix is the format. None: none.

        Returns:
            The matplotlib figure.

        Raises:
            ImportError: without matplotlib.
        """
        figure = _figure(self)
        if path is not None:
            with replacing(path) as file:
                figure.savefig(file, format=Path(path).suffix.removeprefix(".") or "png", dpi=150)
        return figure


def _plain(value: Any) -> Any:
    """What JSON can hold: NaN becomes null."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(field) for name, field in value._asdict().items()}
    if isinstance(value, np.ndarray | tuple | list):
        return [_plain(entry) for entry in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return None if isinstance(value, float) and math.isnan(value) else value


def _figure(report: SymmetryReport) -> Any:
    figure = require("matplotlib.figure", "SymmetryReport.plot").Figure(figsize=(11, 3.4 * len(report.concepts)))
    axes = figure.subplots(len(report.concepts), 3, squeeze=False)
    for (left, middle, right), concept in zip(axes, report.concepts, strict=True):
        n = len(concept.words)
        left.imshow(concept.gram, vmin=-1, vmax=1, cmap="RdBu_r")
        left.set(xticks=[], yticks=range(n), yticklabels=concept.words, title=f"{concept.name}: cosines")
        middle.bar(range(1, len(concept.mode_power) + 1), concept.mode_power)
        score = concept.harmonic
        middle.set(xlabel="frequency", ylabel="share of power", ylim=(0, 1))
        middle.set_title(
            f"harmonic {score.value:.2f}, p = {score.p_value:.2g}, adjusted {concept.adjusted_p_value:.2g}"
        )
        path = concept.coordinates[[*range(n), 0]]
        right.plot(*path.T, "-", lw=0.7, color="grey")
        right.plot(*concept.coordinates.T, "o")
        for word, place in zip(concept.words, concept.coordinates, strict=True):
            right.annotate(word, place, xytext=(3, 3), textcoords="offset points", fontsize=8)
        r2 = concept.circulant_r2
        right.set(title=f"two leading directions; circulant share {r2.value:.2f} ({r2.low:.2f} to {r2.high:.2f})")
        right.set_aspect("equal", "datalim")
    figure.tight_layout()
    return figure
