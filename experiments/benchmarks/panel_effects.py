"""Panel completion against dense SVDs and hand-written NumPy, and its growth with the number of units."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.frame import Contestant, Row, at_most, faster, time_at_most
from experiments.panel_effects._panels import Design, Panel, draw, row_errors
from jaxspec.completion.panel import panel_effects, row_scaled_spectral

RANK, LOW, HIGH = 2, 0.15, 0.85


def one_step_row(shape: tuple[int, int]) -> Row:
    """The one-step estimator of both arms, by the leading triplets and by whole decompositions."""
    panel = _panel(shape)
    Y, D = (np.asarray(part) for part in (panel.Y, panel.D))
    ours = Contestant(
        partial(row_scaled_spectral, panel.Y, panel.D, rank=RANK),
        "row_scaled_spectral, rank 2, input checks included",
        quality=lambda fit: _quality(fit.effect, panel),
    )
    peers = {
        "jax_svd": Contestant(
            partial(jax.jit(_dense), panel.Y, panel.D),
            "row shares, jax.numpy.linalg.svd of both arms, truncated",
            quality=lambda effect: _quality(effect, panel),
        ),
        "numpy_svd": Contestant(
            partial(_dense_numpy, Y, D),
            "row shares, numpy.linalg.svd of both arms, truncated",
            quality=lambda effect: _quality(effect, panel),
        ),
    }
    measured = f"One-step estimate of both arms, {_text(shape)} float32, rank {RANK}"
    return Row(measured, ours, peers, aims=(faster("jax_svd", 10), faster("numpy_svd", 10)))


def refined_row(shape: tuple[int, int]) -> Row:
    """The fit with two sweeps; the peers of the same accuracy are in ``panel-peers.md``."""
    panel = _panel(shape)
    ours = Contestant(
        partial(row_scaled_spectral, panel.Y, panel.D, rank=RANK, refine=2),
        "row_scaled_spectral, rank 2, 2 sweeps",
        quality=lambda fit: _quality(fit.effect, panel),
    )
    with_intervals = Contestant(
        partial(panel_effects, panel.Y, panel.D, rank=RANK, refine=2),
        "panel_effects, rank 2, 2 sweeps: intervals, ATE, ATT and event study, too",
        quality=lambda found: _quality(found.fit.effect, panel),
    )
    measured = f"Fit of both arms with two sweeps, {_text(shape)} float32, rank {RANK}"
    return Row(measured, ours, {"with_intervals": with_intervals}, aims=(time_at_most(1.0),))


def growth_row(units: int, periods: int, times: int) -> Row:
    """A panel of so many times the units, per unit."""
    large, small = _panel((units * times, periods)), _panel((units, periods))

    def fit(panel: Panel, count: int) -> Contestant:
        call = partial(row_scaled_spectral, panel.Y, panel.D, rank=RANK, refine=2)
        return Contestant(call, f"row_scaled_spectral, {count} units, 2 sweeps", work=count)

    measured = f"Fit with two sweeps of {units * times}×{periods} against {units}×{periods}, float32, time per unit"
    ours, peers = fit(large, units * times), {"fewer_units": fit(small, units)}
    return Row(measured, ours, peers, "unit", (at_most("fewer_units", 1.5),))


def _panel(shape: tuple[int, int]) -> Panel:
    return jax.block_until_ready(draw(jax.random.key(0), Design(shape, RANK, low=LOW, high=HIGH)))


def _dense(Y: jax.Array, D: jax.Array) -> jax.Array:
    def arm(W: jax.Array) -> jax.Array:
        X = jnp.where(W, Y, 0) / jnp.mean(W, axis=1, keepdims=True)
        u, s, vt = jnp.linalg.svd(X, full_matrices=False)
        return (u[:, :RANK] * s[:RANK]) @ vt[:RANK]

    untreated = arm(~D)
    # One factorisation after the other: two at once can stall a CPU.
    return arm(D & (untreated[:1, :1] < jnp.inf)) - untreated


def _dense_numpy(Y: np.ndarray, D: np.ndarray) -> np.ndarray:
    arms = []
    for W in (~D, D):
        u, s, vt = np.linalg.svd(np.where(W, Y, 0) / W.mean(axis=1, keepdims=True), full_matrices=False)
        arms.append((u[:, :RANK] * s[:RANK]) @ vt[:RANK])
    return arms[1] - arms[0]


def _quality(effect: Any, panel: Panel) -> dict[str, float]:
    rows = row_errors(jnp.asarray(effect), panel)
    return {"largest row error": float(rows.max()), "rms": float(jnp.sqrt(jnp.mean(rows**2)))}


def _text(shape: tuple[int, int]) -> str:
    return "×".join(map(str, shape))


ROWS: dict[str, Callable[[], Row]] = {
    "one_step_2000x1000": partial(one_step_row, (2000, 1000)),
    "refined_200x200": partial(refined_row, (200, 200)),
    "growth_20000x200": partial(growth_row, 2500, 200, 8),
}
