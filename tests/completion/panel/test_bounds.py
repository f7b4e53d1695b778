"""Row errors: the certificate holds on every row of every draw, the estimate is of the size of the error."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxspec.completion import row_scaled_spectral, rowwise_bound, rowwise_bound_shape, rowwise_error_estimate

SHAPES = ((5, 9), (12, 7))


@settings(max_examples=40)
@given(
    shape=st.sampled_from(SHAPES),
    rank=st.integers(1, 3),
    log_noise=st.floats(-6, 1),
    log_size=st.sampled_from([-20, 0, 15]),
    decay=st.floats(0.05, 1),
    seed=st.integers(0, 2**31),
)
def test_every_row_keeps_the_bound(x64_session, best_approximation, shape, rank, log_noise, log_size, decay, seed):
    rng = np.random.default_rng(seed)
    n, m = shape
    A = (rng.standard_normal((n, rank)) * decay ** np.arange(rank)) @ rng.standard_normal((rank, m)) * 10.0**log_size
    E = rng.standard_normal(shape) * 10.0 ** (log_noise + log_size) * rng.random((n, 1)) ** 2
    bound = rowwise_bound(A, E, rank)
    error = np.linalg.norm(best_approximation(A + E, rank) - A, axis=1)
    assert np.all(error <= np.asarray(bound.bound) * (1 + 1e-9) + 1e-12 * np.abs(A).max())
    assert error.max() <= float(bound.spectral) * (1 + 1e-9) + 1e-12 * np.abs(A).max()
    assert error.max() <= float(bound.wedin) * (1 + 1e-9) + 1e-12 * np.abs(A).max()


def test_the_parts_of_the_bound_in_numpy(x64):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((12, 2)) @ rng.standard_normal((2, 7))
    E = 0.1 * rng.standard_normal((12, 7))
    u, s, vt = np.linalg.svd(A, full_matrices=False)
    uh, sh, _ = np.linalg.svd(A + E, full_matrices=False)
    norm = lambda x: np.linalg.norm(x, 2)  # noqa: E731
    rows, through, share = (np.linalg.norm(x, axis=1) for x in (E, E @ vt[:2].T, u[:, :2]))
    expected = through + rows * min(1, norm(E.T @ uh[:, :2]) / sh[1]) + share * (sh[2] + norm(u[:, :2].T @ E))
    found = rowwise_bound(A, E, 2)
    np.testing.assert_allclose(found.bound, expected, rtol=1e-9)
    np.testing.assert_allclose(found.first_order, np.hypot(through, share * norm(u[:, :2].T @ E)), rtol=1e-9)
    np.testing.assert_allclose(found.spectral, 2 * norm(E), rtol=1e-9)
    np.testing.assert_allclose(found.wedin, norm(E) * (1 + 2 * s[0] / (s[1] - norm(E))), rtol=1e-9)
    assert np.isinf(rowwise_bound(A, 1e3 * E, 2).wedin)
    np.testing.assert_allclose(rowwise_bound(A, E, 0).bound, np.linalg.norm(E, axis=1) * 0, atol=1e-12)


def test_estimates_are_of_the_size_of_the_errors(x64, make_panel):
    calibration = {0: [], 2: []}
    for seed in range(4):
        Y, D, A0, A1 = make_panel(seed, 120, 100)
        for refine, ratios in calibration.items():
            fit = row_scaled_spectral(Y, D, rank=2, refine=refine)
            error = np.asarray(fit.effect) - (A1 - A0)
            ratios.append(np.sqrt((error**2).mean() / np.mean(np.asarray(fit.row_rmse) ** 2)))
            again = rowwise_error_estimate(fit, Y, D)
            np.testing.assert_allclose(again, fit.row_rmse, rtol=1e-6)
    # To first order: on panels of this size the one step exceeds its estimate by about a quarter.
    assert 0.8 < np.mean(calibration[0]) < 1.4
    assert 0.93 < np.mean(calibration[2]) < 1.07


def test_the_rate_for_plots():
    np.testing.assert_allclose(rowwise_bound_shape(jnp.array([100, 400]), 100), np.sqrt([0.02, 0.0425]), rtol=1e-6)
