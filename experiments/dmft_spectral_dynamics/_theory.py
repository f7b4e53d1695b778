"""What several parts share: trajectories of outliers, and how theory and simulation are compared."""

from typing import Any

import jax
import numpy as np

from jaxspec.dmft import SpikeFields, outliers

PAPER = "arXiv:2605.07870, abstract"
SPEC = "specification, section 6"


@jax.jit
def trajectory(fields: SpikeFields, times: Any) -> tuple[Any, Any]:
    """Largest singular value (NaN inside the bulk) and escape margin after each number of updates.

    Args:
        fields: of one matrix (``fields.independent()`` for spikes independent of the bulk).
        times: numbers of updates, (K,).

    Returns:
        ``(values, margins)``, each (K,).
    """
    found = jax.vmap(lambda t: outliers(fields, t, 1))(times)
    return found.values[:, 0], found.margin[:, 0]


def settled(values: Any, margins: Any, *, margin: float = 0.3, step: float = 0.04) -> np.ndarray:
    """Where an outlier is well outside and no longer steep: the margin, and the relative move since the time before.

    Args:
        values: one per update, last axis.
        margins: the same.
        margin: least margin.
        step: largest relative move per update.

    Returns:
        Booleans of the same shape; the first entry is never settled.
    """
    values, margins = np.asarray(values), np.asarray(margins)
    moved = np.abs(np.diff(values, axis=-1)) / values[..., 1:]
    quiet = np.concatenate([np.zeros_like(values[..., :1], bool), moved < step], axis=-1)
    return quiet & (margins > margin)


def deviation(theory: Any, simulated: Any) -> np.ndarray:
    """Mean over seeds (first axis) of ``|theory - simulation| / theory``."""
    return np.mean(np.abs(np.asarray(simulated) - theory), axis=0) / theory


def spread(values: Any) -> float:
    """Largest minus smallest over the mean."""
    values = np.asarray(values)
    return float(np.ptp(values) / np.mean(values))


def single(function: Any, keys: Any) -> Any:
    """``function`` at every key, in single precision, as NumPy arrays: one call a network, so programs are shared.

    Args:
        function: of a key.
        keys: stacked.

    Returns:
        Results with seeds in front.
    """
    with jax.enable_x64(False):
        runs = [jax.tree.map(np.asarray, function(key)) for key in keys]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *runs)
