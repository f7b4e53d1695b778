"""Problems whose solution is known by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.completion import complete_tensor
from jaxspec.completion.tensor import lambda_max

SHAPE = (5, 5, 5)


@pytest.fixture
def noisy(x64):
    """``noisy(tensor, mask, lam)`` to high accuracy; one compilation."""

    def run(tensor, mask, lam):
        return complete_tensor(tensor, mask, lam=lam, tol=1e-12, max_iter=2000, svt="gram", history=False)

    return run


@pytest.fixture
def exact(x64):
    """``exact(tensor, mask)`` to high accuracy; one compilation."""

    def run(tensor, mask, **options):
        return complete_tensor(tensor, mask, tol=1e-12, max_iter=2000, svt="gram", history=False, **options)

    return run


def orthonormal(rng, n, r):
    return np.linalg.qr(rng.standard_normal((n, r)))[0]


@pytest.mark.parametrize("shape", [(4, 7), (6, 3)])
def test_fully_observed_matrix_is_thresholded(x64, shape):
    tensor = np.random.default_rng(1).standard_normal(shape)
    u, s, vt = np.linalg.svd(tensor, full_matrices=False)
    result = complete_tensor(tensor, lam=0.8, tol=1e-12, max_iter=2000)
    np.testing.assert_allclose(result.tensor, (u * np.maximum(s - 0.8, 0)) @ vt, atol=1e-10)


def test_orthogonally_decomposable_tensor_is_thresholded_term_by_term(noisy):
    rng = np.random.default_rng(2)
    factors = [orthonormal(rng, n, 3) for n in SHAPE]
    s = np.array([3.0, 1.5, 0.4])
    combine = lambda weights: np.einsum("r,ir,jr,kr->ijk", weights, *factors)  # noqa: E731
    result = noisy(combine(s), np.ones(SHAPE, bool), 0.5)
    np.testing.assert_allclose(result.tensor, combine(np.maximum(s - 0.5, 0)), atol=1e-10)


def test_rank_one_tensor_is_shrunk_by_lam(noisy):
    u, v, w = (orthonormal(np.random.default_rng(3), n, 1)[:, 0] for n in SHAPE)
    result = noisy(2.0 * np.einsum("i,j,k->ijk", u, v, w), np.ones(SHAPE, bool), 0.75)
    np.testing.assert_allclose(result.tensor, 1.25 * np.einsum("i,j,k->ijk", u, v, w), atol=1e-10)


@pytest.mark.parametrize("factor", [1.0, 3.0, 1e6])
def test_solution_is_zero_from_lambda_max_on(noisy, factor):
    rng = np.random.default_rng(4)
    tensor, mask = rng.standard_normal(SHAPE), rng.random(SHAPE) < 0.6
    lam = float(lambda_max(tensor, mask))
    observed = np.where(mask, tensor, 0)
    assert lam == pytest.approx(max(np.linalg.norm(np.moveaxis(observed, m, 0).reshape(5, -1), 2) for m in range(3)))
    assert np.max(np.abs(noisy(tensor, mask, factor * lam).tensor)) <= 1e-12


def test_solution_is_not_zero_well_below_lambda_max(noisy):
    rng = np.random.default_rng(4)
    tensor, mask = rng.standard_normal(SHAPE), rng.random(SHAPE) < 0.6
    assert np.max(np.abs(noisy(tensor, mask, 0.3 * float(lambda_max(tensor, mask))).tensor)) > 1e-2


def test_complete_tensor_is_returned_bitwise_and_at_once(exact):
    tensor = np.random.default_rng(5).standard_normal(SHAPE)
    result = exact(tensor, np.ones(SHAPE, bool))
    np.testing.assert_array_equal(result.tensor, tensor)
    assert bool(result.info.converged)
    assert int(result.info.iterations) == 0


def test_what_is_solved_at_once_has_zero_residuals_and_no_objective_of_an_iteration(exact):
    tensor = np.random.default_rng(5).standard_normal(SHAPE)
    for data, objective in ((tensor, np.nan), (np.zeros(SHAPE), 0.0)):
        info = exact(data, np.ones(SHAPE, bool)).info
        assert float(info.primal_residual) == 0
        assert float(info.dual_residual) == 0
        np.testing.assert_equal(float(info.objective), objective)


@pytest.mark.parametrize("lam", [None, 0.2])
@pytest.mark.parametrize("mode", [0, 2])
def test_slice_without_an_observed_entry_is_zero_and_warned_of(exact, noisy, lam, mode):
    rng = np.random.default_rng(6)
    tensor, mask = rng.standard_normal(SHAPE), rng.random(SHAPE) < 0.7
    np.moveaxis(mask, mode, 0)[3] = False
    with pytest.warns(UserWarning, match=rf"mode {mode} has slices without an observed entry, at \[3\]"):
        result = exact(tensor, mask) if lam is None else noisy(tensor, mask, lam)
    assert bool(result.info.converged)
    assert np.max(np.abs(np.moveaxis(np.asarray(result.tensor), mode, 0)[3])) <= 1e-14


def test_constant_tubes_fill_a_missing_frontal_slice_under_the_tubal_norm(x64):
    mask = np.ones((3, 4, 5), bool)
    mask[:, :, 2] = False
    with pytest.warns(UserWarning, match="mode 2 has slices without an observed entry") as caught:
        result = complete_tensor(np.ones(mask.shape), mask, regularizer="tubal", tol=1e-10, max_iter=1000)
    np.testing.assert_allclose(result.tensor, 1, atol=1e-8)
    assert "zero" not in str(caught[0].message)


@pytest.mark.parametrize("lam", [None, 0.5])
def test_zero_data_give_zeros_at_once(exact, noisy, lam):
    mask = np.random.default_rng(7).random(SHAPE) < 0.7
    zeros = np.zeros(SHAPE)
    result = exact(zeros, mask) if lam is None else noisy(zeros, mask, lam)
    np.testing.assert_array_equal(result.tensor, 0)
    assert bool(result.info.converged)
    assert int(result.info.iterations) == 0
    assert bool(jnp.isfinite(result.rho).all())


@pytest.mark.parametrize("lam", [None, 0.5])
def test_nothing_observed_gives_zeros_status_empty_and_a_warning(exact, noisy, lam):
    nothing = np.zeros(SHAPE, bool)
    with pytest.warns(UserWarning, match="no entry is observed"):
        result = exact(np.ones(SHAPE), nothing) if lam is None else noisy(np.ones(SHAPE), nothing, lam)
    np.testing.assert_array_equal(result.tensor, 0)
    assert int(result.info.status) == 4
    assert int(result.info.iterations) == 0


def test_tubal_tensor_of_tubal_rank_one_is_recovered_where_the_plain_norm_fails(x64):
    rng = np.random.default_rng(8)
    left, right = np.fft.fft(rng.standard_normal((12, 1, 6))), np.fft.fft(rng.standard_normal((1, 12, 6)))
    tensor = np.fft.ifft(left * right).real
    mask = rng.random(tensor.shape) < 0.6
    tubal = complete_tensor(tensor, mask, regularizer="tubal", tol=1e-8, certificate=True)
    plain = complete_tensor(tensor, mask, tol=1e-6, svt="gram")
    error = lambda x: np.linalg.norm(np.asarray(x) - tensor) / np.linalg.norm(tensor)  # noqa: E731
    assert error(tubal.tensor) <= 1e-5
    assert float(tubal.info.gap) <= 1e-6
    assert error(plain.tensor) >= 0.1
