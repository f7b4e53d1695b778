"""The two models and the two embeddings, how they are drawn and shown, and the kinematic estimate of their capacity."""

import jax
import numpy as np

from experiments.runner.style import BLUE, GREEN, ORANGE, RED
from jaxspec.memory import theory

PAPER = "arXiv 2605.10795, abstract"
OURS = "specification, reconstructed theory"
MODELS = ("original", "decoupled")
EMBEDDINGS = ("gaussian", "sphere")
LAWS = tuple((model, embedding) for model in MODELS for embedding in EMBEDDINGS)
NAMES = tuple(f"{model}, {embedding}" for model, embedding in LAWS)
LAW_COLORS = (BLUE, ORANGE, GREEN, RED)


def kinematic_p(seed: int, d: int, embedding: str, samples: int) -> tuple[float, float]:
    """Capacity by the kinematic formula, ``p D_d(p) = d^2`` with D of `theory.kinematic_cost`, and its standard error.

    A line through ``log(p D_d(p))`` at three p around the capacity of the theory.

    Args:
        seed: of the draws.
        d: dimension.
        embedding: its law.
        samples: draws at each p.

    Returns:
        ``(p, standard error)``.
    """
    near = np.rint(theory.critical_p(d) * np.array([0.95, 1.05, 1.15])).astype(int)
    keys = jax.random.split(jax.random.key(seed), len(near))
    costs = [theory.kinematic_cost(k, int(p), d, embedding, samples) for k, p in zip(keys, near, strict=True)]
    mean, error = np.transpose(costs)
    slope, intercept = np.polyfit(np.log(near), np.log(near * mean) - 2 * np.log(d), 1)
    p = np.exp(-intercept / slope)
    return float(p), float(p * np.mean(error / mean) / np.sqrt(len(near)) / slope)


def standard_error(samples: np.ndarray) -> np.ndarray | np.floating:
    """Of the mean over the last axis."""
    return np.std(samples, axis=-1, ddof=1) / np.sqrt(samples.shape[-1])
