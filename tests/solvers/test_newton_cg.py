"""Newton-CG and the augmented Lagrangian on small convex problems, against scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize, nnls

from jaxspec.solvers import augmented_lagrangian, newton_cg


def hinges(A, b):
    """``1/2 sum (b - A x)_+^2 + 1e-3/2 |x|^2`` with its gradient and generalised Hessian."""

    def value_grad_hvp(x):
        r = jnp.maximum(b - A @ x, 0)
        active = (r > 0).astype(x.dtype)
        return (
            jnp.sum(r * r) / 2 + 5e-4 * jnp.sum(x * x),
            -A.T @ r + 1e-3 * x,
            lambda v: A.T @ (active * (A @ v)) + 1e-3 * v,
        )

    return value_grad_hvp


@jax.jit
def solve_hinges(A, b, x0, ridge, tol):
    return newton_cg(hinges(A, b), x0, ridge=ridge, tol=tol, max_newton=60, max_cg=100)


def instance(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((30, 8)) * scale, rng.standard_normal(30) + 0.5


@pytest.mark.parametrize("seed", range(6))
def test_squared_hinges_reach_the_minimum_of_scipy(x64, seed):
    A, b = instance(seed)
    got = solve_hinges(A, b, np.zeros(8), 1e-8, 1e-9)
    f = hinges(A, b)
    best = minimize(
        lambda x: tuple(np.asarray(part, float) for part in f(x)[:2]),
        np.zeros(8),
        jac=True,
        method="BFGS",
        options={"gtol": 1e-9},
    )
    assert bool(got.converged)
    assert int(got.status) == 1
    np.testing.assert_allclose(got.x, best.x, atol=1e-5)
    assert float(got.value) <= best.fun + 1e-10
    assert 0 < int(got.iterations) < 30
    assert int(got.cg_iterations) >= int(got.iterations)


def test_a_quadratic_takes_few_steps_and_starts_anywhere(x64):
    rng = np.random.default_rng(0)
    root, b = rng.standard_normal((6, 6)), rng.standard_normal(6)
    H = root @ root.T + np.eye(6)

    def quadratic(x):
        return x["a"] @ H @ x["a"] / 2 - b @ x["a"], {"a": H @ x["a"] - b}, lambda v: {"a": H @ v["a"]}

    for start in (np.zeros(6), 1e3 * b):
        got = newton_cg(quadratic, {"a": jnp.asarray(start)}, ridge=0.0, tol=1e-10)
        np.testing.assert_allclose(got.x["a"], np.linalg.solve(H, b), rtol=1e-6)
        assert bool(got.converged)
    exact = newton_cg(quadratic, {"a": jnp.asarray(np.linalg.solve(H, b))}, tol=1.0)
    assert int(exact.iterations) == 0


def test_an_exact_preconditioner_makes_every_step_one_product(x64):
    A, b = instance(3)
    f = hinges(A, b)

    def inverse(x):
        active = (b - A @ x > 0).astype(float)
        H = A.T @ (active[:, None] * A) + 1.001e-3 * np.eye(8)
        return lambda v: jnp.linalg.solve(H, v)

    got = newton_cg(f, jnp.zeros(8), ridge=1e-6, tol=1e-9, max_newton=60, max_cg=100, precondition=inverse)
    assert bool(got.converged)
    assert int(got.cg_iterations) == int(got.iterations)
    np.testing.assert_allclose(got.x, solve_hinges(A, b, np.zeros(8), 1e-8, 1e-9).x, atol=1e-6)
    useless = newton_cg(f, jnp.zeros(8), tol=1e-9, precondition=lambda x: lambda v: jnp.nan * v)
    assert np.all(np.isfinite(useless.x))


def test_rounding_does_not_choose_the_step():
    """Single precision, far below the rounding of the value: the full step is taken while it lowers the gradient."""

    def shifted(x):
        return 1e4 + jnp.sum(x * x) / 2, x, lambda v: v

    got = newton_cg(shifted, jnp.full(3, 1e-3), ridge=0.0, tol=1e-6)
    assert bool(got.converged)
    assert int(got.iterations) == 1


def test_the_line_search_saves_steps_that_overshoot(x64):
    """log cosh: the full Newton step diverges from |x| > 1.09."""

    def log_cosh(x):
        return jnp.sum(jnp.logaddexp(x, -x)), jnp.tanh(x), lambda v: v / jnp.cosh(x) ** 2

    start = jnp.array([2.0])
    got = newton_cg(log_cosh, start, ridge=0.0, tol=1e-10)
    np.testing.assert_allclose(got.x, 0, atol=1e-9)
    assert bool(got.converged)
    # The full step leads to -11.6, half of it to -4.8, a quarter to -1.4, the first that is lower.
    one = newton_cg(log_cosh, start, ridge=0.0, max_newton=1, line_search_steps=(1.0,))
    np.testing.assert_allclose(one.x, 2 - np.tanh(2) * np.cosh(2) ** 2 / 4, rtol=1e-3)


def test_no_descent_is_reported():
    """A gradient of the wrong sign: the value rises along every step."""
    uphill = newton_cg(lambda x: (jnp.sum(x), -jnp.ones(2), lambda v: v), jnp.zeros(2), tol=0.1)
    assert int(uphill.status) == 2
    assert not bool(uphill.converged)
    np.testing.assert_array_equal(uphill.x, 0)


def test_no_curvature_falls_back_on_the_gradient():
    got = newton_cg(lambda x: (jnp.sum(x), jnp.ones(2), jnp.zeros_like), jnp.zeros(2), ridge=0.0, max_newton=3)
    np.testing.assert_allclose(got.x, -3)
    assert int(got.status) == 0
    assert int(got.iterations) == 3


def test_a_stopping_rule_of_ones_own():
    def stop(x, value, grad):
        return jnp.where(value < 0.5, 7, 0)

    easy = newton_cg(lambda x: (jnp.sum(x**2), 2 * x, lambda v: 2 * v), jnp.ones(2), stop=stop)
    assert int(easy.status) == 7
    assert int(easy.iterations) == 1


def test_lanes_of_a_batch_are_the_single_runs_and_nothing_recompiles(x64):
    pairs = [instance(seed, 10.0 ** (seed - 1)) for seed in range(3)]
    batch = jax.jit(jax.vmap(solve_hinges, (0, 0, None, None, None)))
    A, b = (np.stack(part) for part in zip(*pairs, strict=True))
    together = batch(A, b, np.zeros(8), 1e-8, 1e-9)
    for lane, (matrix, vector) in enumerate(pairs):
        alone = solve_hinges(matrix, vector, np.zeros(8), 1e-8, 1e-9)
        np.testing.assert_allclose(together.x[lane], alone.x, rtol=1e-6, atol=1e-9)
    compiled = batch._cache_size()
    batch(2 * A, b + 1, np.ones(8), 1e-7, 1e-8)
    assert batch._cache_size() == compiled


def test_values_that_are_not_finite_end_the_run():
    got = newton_cg(lambda x: (jnp.sum(x) * jnp.nan, x, lambda v: v), jnp.ones(2))
    assert int(got.status) == 3
    assert not bool(got.converged)
    np.testing.assert_array_equal(got.x, 1)


@jax.jit
def project(point, A, b, rho, growth):
    """``min |x - point|^2 / 2`` subject to ``A x >= b``."""

    def inner(x, multipliers, rho):
        def value_grad_hvp(x):
            r = jnp.maximum(b - A @ x + multipliers / rho, 0)
            active = (r > 0).astype(x.dtype)
            return (
                jnp.sum((x - point) ** 2) / 2 + rho / 2 * jnp.sum(r * r),
                x - point - rho * A.T @ r,
                lambda v: v + rho * A.T @ (active * (A @ v)),
            )

        found = newton_cg(
            value_grad_hvp, x, ridge=0.0, max_newton=40, max_cg=50, stop=lambda x, f, g: jnp.linalg.norm(g) < 1e-10
        )
        return found.x, found.iterations

    start, multipliers = jnp.zeros_like(point), jnp.zeros_like(b)
    return augmented_lagrangian(
        inner, lambda x: b - A @ x, start, multipliers, rho=rho, growth=growth, max_outer=40, tol=1e-9
    )


@pytest.mark.parametrize(("seed", "rho", "growth"), [(0, 1.0, 2.0), (1, 1.0, 2.0), (2, 10.0, 1.0), (3, 0.1, 3.0)])
def test_projection_on_a_polyhedron_is_that_of_least_squares_duality(x64, seed, rho, growth):
    rng = np.random.default_rng(seed)
    A, inside, point = rng.standard_normal((12, 5)), rng.standard_normal(5), 3 * rng.standard_normal(5)
    b = A @ inside - rng.random(12) * 0.1
    got = project(point, A, b, rho, growth)
    # Least distance as non-negative least squares (Lawson, Hanson): min |u| with A u >= h.
    system = np.vstack([A.T, b - A @ point])
    target = np.eye(6)[5]
    residual = system @ nnls(system, target)[0] - target
    np.testing.assert_allclose(got.x, point - residual[:5] / residual[5], atol=1e-6)
    # Certificate: feasible, multipliers >= 0, complementary, stationary.
    assert bool(got.converged)
    assert np.all(np.asarray(A @ got.x) >= b - 1e-7)
    assert np.all(np.asarray(got.multipliers) >= 0)
    np.testing.assert_allclose(got.multipliers * (A @ got.x - b), 0, atol=1e-6)
    np.testing.assert_allclose(got.x - point, A.T @ got.multipliers, atol=1e-8)
    assert int(got.iterations) <= 40 < int(got.inner_iterations) + 40


def test_the_outer_loop_obeys_its_own_stopping_rule():
    def inner(x, multipliers, rho):
        return (multipliers + rho) / (1 + rho), jnp.int32(1)

    def stop(x, multipliers):
        return jnp.where(x > 0.9, 5, 0)

    got = augmented_lagrangian(inner, lambda x: 1 - x, jnp.array(0.0), jnp.array(0.0), stop=stop)
    assert int(got.status) == 5
    assert not bool(got.converged)
    short = augmented_lagrangian(inner, lambda x: 1 - x, jnp.array(0.0), jnp.array(0.0), max_outer=1)
    assert (int(short.status), int(short.iterations)) == (0, 1)
    assert float(short.violation) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"max_newton": -1}, "max_newton"),
        ({"max_cg": 0}, "max_cg"),
        ({"line_search_steps": ()}, "line_search"),
        ({"line_search_steps": (1.0, 0.0)}, "line_search"),
    ],
)
def test_bad_options_are_named(options, name):
    with pytest.raises(ValueError, match=name):
        newton_cg(lambda x: (x, x, lambda v: v), jnp.ones(()), **options)


def test_a_bad_number_of_outer_steps_is_named():
    with pytest.raises(ValueError, match="max_outer"):
        augmented_lagrangian(lambda *a: a, lambda x: x, jnp.ones(()), jnp.ones(()), max_outer=-1)
