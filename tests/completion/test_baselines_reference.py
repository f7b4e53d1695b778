"""The baselines step by step against NumPy loops written from the papers, and the optima that they end at."""

import numpy as np
import pytest

from jaxspec.completion import blocks, falrtc, halrtc, mixture_nn_mf, silrtc, tmac
from jaxspec.completion.tensor import duality_gap

# Modes 0 and 2 share a block, mode 1 has its own.
SHAPE, WEIGHTS = (6, 5, 6), (0.5, 0.3, 0.2)


@pytest.fixture
def problem(x64):
    """Rank (2, 2, 2), Gaussian, six in ten entries observed."""
    rng = np.random.default_rng(7)
    tensor = rng.standard_normal((2, 2, 2))
    for mode, n in enumerate(SHAPE):
        tensor = np.moveaxis(np.tensordot(rng.standard_normal((n, 2)), tensor, (1, mode)), 0, mode)
    return tensor, rng.random(SHAPE) < 0.6


def unfold(x, mode):
    return np.moveaxis(x, mode, 0).reshape(x.shape[mode], -1)


def fold(matrix, mode):
    rest = [n for other, n in enumerate(SHAPE) if other != mode]
    return np.moveaxis(matrix.reshape([SHAPE[mode], *rest]), 0, mode)


def shrink(x, mode, threshold):
    """Singular-value thresholding of one unfolding."""
    u, s, vt = np.linalg.svd(unfold(x, mode), full_matrices=False)
    return fold((u * np.maximum(s - threshold, 0)) @ vt, mode)


def error(x, truth):
    return np.sum((x - truth) ** 2) / np.sum(truth**2)


def by_mode(duals):
    """Duals as tensors, in the order of the modes."""
    tensors = {}
    for block, dual in zip(blocks.unfoldings(SHAPE), duals, strict=True):
        for mode, matrix in zip(block.gather.modes, np.asarray(dual), strict=True):
            tensors[mode] = fold(matrix, mode)
    return [tensors[mode] for mode in range(3)]


def numpy_halrtc(tensor, mask, rho, growth, iterations):
    """Algorithm 4 of Liu et al. in their variables: M_i the tensors, Y_i the multipliers."""
    x, y = np.where(mask, tensor, 0), [np.zeros_like(tensor)] * 3
    for _ in range(iterations):
        m = [shrink(x + y[i] / rho, i, WEIGHTS[i] / rho) for i in range(3)]
        x = np.where(mask, tensor, (sum(m) - sum(y) / rho) / 3)
        y = [y[i] - rho * (m[i] - x) for i in range(3)]
        rho = rho * growth
        yield x, y


@pytest.mark.parametrize("growth", [1.0, 1.05])
def test_halrtc_is_the_published_iteration(problem, growth):
    tensor, mask = problem
    result = None
    for x, y in numpy_halrtc(tensor, mask, 0.2, growth, 40):
        # Resumed one iteration at a time, so that every iterate is seen.
        result = halrtc(tensor, mask, weights=WEIGHTS, rho=0.2, growth=growth, init=result, tol=0.0, max_iter=1)
        np.testing.assert_allclose(result.tensor, x, atol=1e-10)
        np.testing.assert_allclose(by_mode(result.duals), y, atol=1e-10)


def test_halrtc_waits_until_its_first_threshold_bites_and_respects_the_largest_penalty(problem):
    tensor, mask = problem
    result = halrtc(tensor, mask, rho=1e-4, max_rho=0.25, tol=1e-6, max_iter=5000, truth=tensor)
    curve, rho = result.history.trim()["nmse"], result.history.trim()["rho"]
    assert np.all(curve[:40] == curve[0])
    assert bool(result.info.converged)
    assert curve[-1] < 0.2 * curve[0]
    np.testing.assert_allclose(rho[:, 0], np.minimum(1e-4 * 1.05 ** np.arange(1, len(rho) + 1), 0.25), rtol=1e-9)


def test_halrtc_with_a_fixed_penalty_reaches_the_certified_optimum(problem):
    tensor, mask = problem
    result = halrtc(tensor, mask, rho=0.1, growth=1.0, tol=1e-12, max_iter=5000, truth=tensor)
    gap = duality_gap(result, tensor, mask)
    assert bool(result.info.converged)
    assert -1e-13 <= float(gap.relative) <= 1e-8


def test_silrtc_is_the_published_iteration(problem):
    tensor, mask = problem
    gamma, x = (0.3, 0.45, 0.3), np.where(mask, tensor, 0)
    for _ in range(40):
        result = silrtc(tensor, mask, weights=WEIGHTS, gamma=gamma[:2], init=x, tol=0.0, max_iter=1)
        x = np.where(mask, tensor, sum(gamma[i] * shrink(x, i, WEIGHTS[i] / gamma[i]) for i in range(3)) / sum(gamma))
        np.testing.assert_allclose(result.tensor, x, atol=1e-10)
    np.testing.assert_allclose(result.rho, gamma[:2], rtol=1e-14)


def assert_smoothed_optimum(result, mask, gamma):
    """X is optimal: W_i are the gradients of the envelopes at X, and their sum vanishes where X is free."""
    x, duals = np.asarray(result.tensor), by_mode(result.duals)
    for mode in range(3):
        np.testing.assert_allclose(duals[mode], gamma * (x - shrink(x, mode, WEIGHTS[mode] / gamma)), atol=1e-10)
        assert np.linalg.norm(unfold(duals[mode], mode), 2) <= WEIGHTS[mode] * (1 + 1e-12)
    residual = np.linalg.norm(np.where(mask, 0, sum(duals))) / np.linalg.norm(duals)
    assert residual <= 1e-7
    np.testing.assert_allclose(result.info.dual_residual, residual, rtol=1e-6, atol=1e-14)
    m = [shrink(x, mode, WEIGHTS[mode] / gamma) for mode in range(3)]
    nuclear = [np.linalg.norm(unfold(part, mode), "nuc") for mode, part in enumerate(m)]
    np.testing.assert_allclose(result.info.objective, np.dot(WEIGHTS, nuclear), rtol=1e-10)
    sizes = np.sqrt(3) * np.linalg.norm(x), np.linalg.norm(m)
    np.testing.assert_allclose(result.info.primal_residual, np.linalg.norm(m - x) / max(sizes), rtol=1e-8)


def test_silrtc_ends_at_the_optimum_of_its_objective(problem):
    tensor, mask = problem
    result = silrtc(tensor, mask, weights=WEIGHTS, gamma=0.3, tol=1e-10, max_iter=3000)
    assert bool(result.info.converged)
    assert_smoothed_optimum(result, mask, 0.3)
    gap = duality_gap(result, tensor, mask, weights=WEIGHTS)
    assert 0 <= float(gap.relative) < 1


def test_falrtc_ends_at_the_optimum_of_the_final_smoothing(problem):
    tensor, mask = problem
    result = falrtc(tensor, mask, weights=WEIGHTS, mu=0.5, mu_start=5.0, tol=1e-10, max_iter=3000, truth=tensor)
    assert bool(result.info.converged)
    np.testing.assert_allclose(result.rho, 2.0, rtol=1e-14)
    assert_smoothed_optimum(result, mask, 2.0)


def test_falrtc_is_the_accelerated_method_with_a_falling_smoothing(problem):
    tensor, mask = problem
    mu, mu_start, decay, momentum, curve = 0.4, 6.0, 1.3, 1.0, []
    x = z = np.where(mask, tensor, 0)
    for k in range(1, 61):
        gamma = 1 / max(mu, mu_start / k**decay)
        gradient = sum(gamma * (z - shrink(z, i, WEIGHTS[i] / gamma)) for i in range(3))
        new = np.where(mask, tensor, z - gradient / (3 * gamma))
        momentum = 1.0 if np.sum((z - new) * (new - x)) > 0 else momentum
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        z = new + (momentum - 1) / following * (new - x)
        x, momentum = new, following
        curve.append(error(x, tensor))
    options = {"weights": WEIGHTS, "mu": mu, "mu_start": mu_start, "decay": decay}
    result = falrtc(tensor, mask, **options, tol=0.0, max_iter=3000, truth=tensor)
    np.testing.assert_allclose(result.history["nmse"][:60], curve, rtol=1e-10)
    rho = 1 / np.maximum(mu, mu_start / np.arange(1, 61) ** decay)
    np.testing.assert_allclose(result.history["rho"][:60], np.stack([rho, rho], axis=1), rtol=1e-12)


def test_falrtc_approaches_the_unsmoothed_optimum(problem):
    tensor, mask = problem
    gaps = []
    for mu in (1.0, 0.1, 0.01):
        result = falrtc(tensor, mask, mu=mu, mu_start=5.0, tol=1e-9, max_iter=3000, truth=tensor)
        gaps.append(float(duality_gap(result, tensor, mask).relative))
    assert gaps == sorted(gaps, reverse=True)
    assert 0 <= gaps[-1] < 1e-2


def numpy_factors(x, y, ranks):
    """One update of every factor pair: products as tensors; y is replaced."""
    products = {}
    for mode in y:
        a = unfold(x, mode)
        start = np.linalg.svd(a, full_matrices=False)[2][: ranks[mode]] if y[mode] is None else y[mode]
        basis = np.linalg.qr(a @ start.T)[0]
        y[mode] = basis.T @ a
        products[mode] = fold(basis @ y[mode], mode)
    return products


@pytest.mark.parametrize(("ranks", "weights"), [((2, 3, 2), None), ((3, 2, 2), WEIGHTS)])
def test_tmac_is_the_published_iteration(problem, ranks, weights):
    tensor, mask = problem
    x, y, rows, curve = np.where(mask, tensor, 0), dict.fromkeys(range(3)), [], []
    beta = np.full(3, 1 / 3) if weights is None else np.asarray(weights)
    for _ in range(30):
        products = numpy_factors(x, y, ranks)
        x = np.where(mask, tensor, sum(beta[n] * products[n] for n in range(3)))
        rows.append(beta)
        if weights is None:
            inverse = 1 / np.array([np.sum((products[n] - tensor)[mask] ** 2) for n in range(3)])
            beta = inverse / inverse.sum()
        curve.append(error(x, tensor))
    result = tmac(tensor, mask, ranks, weights=weights, init=0.0, tol=0.0, max_iter=30, truth=tensor)
    np.testing.assert_allclose(result.tensor, x, atol=1e-9)
    np.testing.assert_allclose(result.history["rho"], rows, rtol=1e-7)
    np.testing.assert_allclose(result.history["nmse"], curve, rtol=1e-7)


def test_mixture_is_the_published_iteration(problem):
    tensor, mask = problem
    gamma, theta, ranks = 0.4, 3.0, (2, 0, 3)
    x, y, objectives = np.where(mask, tensor, 0), dict.fromkeys((0, 2)), []
    for _ in range(30):
        products = numpy_factors(x, y, ranks)
        low = shrink(x, 1, WEIGHTS[1] / gamma)
        value = WEIGHTS[1] * np.linalg.norm(unfold(low, 1), "nuc") + gamma / 2 * np.sum((low - x) ** 2)
        objectives.append(value + sum(theta * WEIGHTS[n] / 2 * np.sum((products[n] - x) ** 2) for n in (0, 2)))
        total = gamma * low + sum(theta * WEIGHTS[n] * products[n] for n in (0, 2))
        x = np.where(mask, tensor, total / (gamma + theta * (WEIGHTS[0] + WEIGHTS[2])))
    options = {"weights": WEIGHTS, "gamma": gamma, "theta": theta, "init": 0.0, "tol": 0.0, "max_iter": 30}
    result = mixture_nn_mf(tensor, mask, ranks, (2, 0), **options)
    np.testing.assert_allclose(result.tensor, x, atol=1e-9)
    np.testing.assert_allclose(result.history["objective"], objectives, rtol=1e-9)
    np.testing.assert_allclose(result.rho, [theta * WEIGHTS[0], gamma, theta * WEIGHTS[2]], rtol=1e-14)
    assert np.all(np.diff(objectives) <= 1e-12)


def test_tmac_finds_data_of_its_ranks_from_a_random_start(problem):
    tensor, mask = problem
    result = tmac(tensor, mask, (2, 2, 2), weights=(1, 1, 1), tol=1e-9, max_iter=3000)
    assert bool(result.info.converged)
    assert float(result.info.primal_residual) < 1e-6
    assert result.duals == ()
    np.testing.assert_allclose(result.tensor, tensor, atol=1e-5)
