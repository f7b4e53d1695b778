"""Budgets at which frequencies enter, and leave."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.peeled import active_modes, geometric_kernel, mode_onsets, solve_cyclic
from tests.peeled.oracles import ASYM7

pytestmark = pytest.mark.usefixtures("x64")
GRID = np.linspace(0.1, 3.0, 30)


def test_onsets_of_the_oracles():
    np.testing.assert_allclose(mode_onsets(geometric_kernel(7, 1.0), GRID), (0, 0.853156, 0.923656), atol=1e-5)
    # The third frequency enters before the second.
    np.testing.assert_allclose(mode_onsets(jnp.asarray(ASYM7), GRID), (0, 0.423617, 0.373881), atol=1e-5)
    expected = (0, 0.745541, 1.406149, 1.648413, 1.704739, 1.81347)
    np.testing.assert_allclose(mode_onsets(geometric_kernel(12, 1.0), GRID), expected, atol=1e-5)
    wide = np.asarray(mode_onsets(geometric_kernel(12, 2.0), GRID))
    np.testing.assert_allclose(wide[2], 0.952511, atol=1e-5)
    assert np.all((wide[[1, 4]] > 1.1) & (wide[[1, 4]] < 1.2))
    assert np.all(np.isinf(wide[[3, 5]]))


def test_the_first_onset_is_a_scalar_root():
    """One frequency, z = b cos: the second enters where its gradient is as large as that of the first."""
    p = np.asarray(geometric_kernel(7, 1.0))

    def excess(b):
        z = b * np.cos(2 * np.pi * (np.arange(7) - 1) / 7)
        g = np.abs(np.fft.fft(np.exp(z) / np.exp(z).sum() - p))
        return g[2] - g[1]

    low, high = 0.1, 1.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    np.testing.assert_allclose(mode_onsets(p, GRID)[1], low, atol=2e-6)


def test_a_frequency_can_leave_again():
    """The logarithm of a geometric kernel is a triangle wave, without even frequencies: it is reached at E = 3."""
    p = geometric_kernel(12, 1.0)
    assert active_modes(solve_cyclic(p, 2.0).logits).tolist() == [True] * 6
    beyond = solve_cyclic(p, 3.001)
    assert not bool(beyond.active)
    assert active_modes(beyond.logits).tolist() == [True, False, True, False, True, False]


def test_frequencies_without_power_never_enter():
    assert np.all(np.isinf(mode_onsets(jnp.full(7, 1 / 7), GRID)))
    assert mode_onsets(jnp.ones(1), GRID).shape == (0,)
    assert active_modes(jnp.zeros(5)).tolist() == [False, False]
