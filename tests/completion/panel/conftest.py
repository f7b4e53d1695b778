"""The specification's generator of panels, and independent versions of the estimators in NumPy."""

import jax
import numpy as np
import pytest


def draw(seed, n, m, rank=2, sigma=0.5, design="row", low=0.35, high=0.65):
    """``Y, D, A0, A1``: factors uniform on [-1, 1], the first time factor 1, effects through the first unit factor."""
    rng = np.random.default_rng(seed)
    X, Z = rng.uniform(-1, 1, (n, rank)), rng.uniform(-1, 1, (m, rank))
    Z[:, 0] = 1
    treated = X.copy()
    treated[:, 0] = 2 * X[:, 0] + 0.5
    A0, A1 = X @ Z.T, treated @ Z.T
    position = X[:, :1] * np.ones(m) if design == "row" else X[:, 1:2] * Z[:, 1]
    D = rng.random((n, m)) < low + (high - low) * (position + 1) / 2
    return np.where(D, A1, A0) + sigma * rng.standard_normal((n, m)), D, A0, A1


def two_way(Y, W):
    """Fixed effects of units and periods by dense least squares, at all cells."""
    n, m = Y.shape
    i, j = np.nonzero(W)
    design = np.zeros((i.size, n + m))
    design[np.arange(i.size), i] = design[np.arange(i.size), n + j] = 1
    effects = np.linalg.lstsq(design, Y[i, j], rcond=None)[0]
    return effects[:n, None] + effects[n:]


def truncated(X, rank):
    """Best approximation of a rank."""
    u, s, vt = np.linalg.svd(X, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


@pytest.fixture(scope="session")
def make_panel():
    """``make_panel(seed, n, m, ...)``: outcomes, treatment and both true matrices."""
    return draw


@pytest.fixture(scope="session")
def two_way_fit():
    """``two_way_fit(Y, W)``."""
    return two_way


@pytest.fixture(scope="session")
def best_approximation():
    """``best_approximation(X, rank)``."""
    return truncated


@pytest.fixture(scope="module")
def x64_session():
    """Double precision for the tests of a module that hypothesis repeats."""
    with jax.enable_x64(True):
        yield
