"""Accelerated proximal gradient against closed forms, scipy, and the tensor solver."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxspec.completion import blocks, complete_tensor
from jaxspec.linalg import singular_values
from jaxspec.prox import svt
from jaxspec.solvers import accelerated_proximal_gradient
from jaxspec.solvers.loop import RUNNING, STALLED

RESTARTS = ["gradient", "none", "always"]


@pytest.fixture(autouse=True)
def _double(x64):
    """Closed forms are compared in double precision."""


class LeastSquares(eqx.Module):
    """``1/2 ||A x - b||^2`` and its gradient."""

    a: jax.Array
    b: jax.Array

    def __call__(self, x):
        residual = self.a @ x - self.b
        return 0.5 * residual @ residual, self.a.T @ residual


class Soft(eqx.Module):
    """Prox of ``lam ||x||_1``."""

    lam: jax.Array

    def __call__(self, v, step):
        return jnp.sign(v) * jnp.maximum(jnp.abs(v) - self.lam * step, 0)


class Clip(eqx.Module):
    """Projection onto a box."""

    lower: jax.Array
    upper: jax.Array

    def __call__(self, v, step):
        return jnp.clip(v, self.lower, self.upper)


def regression(condition=30.0, m=20, n=8, seed=0):
    rng = np.random.default_rng(seed)
    u, v = np.linalg.qr(rng.standard_normal((m, n)))[0], np.linalg.qr(rng.standard_normal((n, n)))[0]
    return (u * np.geomspace(1, 1 / condition, n)) @ v.T, rng.standard_normal(m)


def test_lasso_with_orthonormal_columns_is_soft_thresholding():
    a, b = regression(condition=1.0)
    found = accelerated_proximal_gradient(
        LeastSquares(jnp.asarray(a), jnp.asarray(b)), Soft(jnp.asarray(0.3)), jnp.zeros(8), step=0.5, tol=1e-12
    )
    projected = a.T @ b
    assert bool(found.converged)
    np.testing.assert_allclose(found.x, np.sign(projected) * np.maximum(np.abs(projected) - 0.3, 0), atol=1e-10)
    assert float(found.value) == pytest.approx(0.5 * np.sum((a @ np.asarray(found.x) - b) ** 2), rel=1e-12)


@pytest.mark.parametrize("restart", RESTARTS)
def test_least_squares_on_a_box_is_that_of_scipy(restart):
    a, b = regression()
    expected = scipy.optimize.lsq_linear(a, b, (-0.2, 0.3), tol=1e-14, method="bvls").x
    found = accelerated_proximal_gradient(
        LeastSquares(jnp.asarray(a), jnp.asarray(b)),
        Clip(jnp.asarray(-0.2), jnp.asarray(0.3)),
        jnp.zeros(8),
        step=1.0,
        tol=1e-11,
        max_iter=20_000,
        restart=restart,
    )
    assert bool(found.converged)
    np.testing.assert_allclose(found.x, expected, atol=1e-7)


def test_momentum_with_restart_needs_fewer_iterations_than_none_at_all():
    a, b = regression(condition=100.0)
    problem = LeastSquares(jnp.asarray(a), jnp.asarray(b)), Soft(jnp.asarray(1e-3)), jnp.zeros(8)
    counts = {
        restart: int(
            accelerated_proximal_gradient(*problem, step=1.0, tol=1e-9, max_iter=100_000, restart=restart).iterations
        )
        for restart in RESTARTS
    }
    assert 4 * counts["gradient"] < counts["always"]
    assert counts["gradient"] < counts["none"]


class Completion(eqx.Module):
    """``1/2 ||P(X - T)||^2`` and its gradient."""

    target: jax.Array
    mask: jax.Array

    def __call__(self, x):
        residual = jnp.where(self.mask, x - self.target, 0)
        return 0.5 * jnp.sum(residual**2), residual


class Threshold(eqx.Module):
    """Prox of ``lam ||X||_*``."""

    lam: jax.Array

    def __call__(self, v, step):
        return svt(v, self.lam * step)


class CompletionGap(eqx.Module):
    """Duality gap of the completion at ``(X, gradient)``: the dual point is the scaled residual."""

    target: jax.Array
    lam: jax.Array

    def __call__(self, x, grad):
        theta = jnp.minimum(1, self.lam / singular_values(grad)[0])
        primal = 0.5 * jnp.sum(grad**2) + self.lam * jnp.sum(singular_values(x))
        return primal + jnp.vdot(theta * grad, self.target) + 0.5 * jnp.sum((theta * grad) ** 2)


def test_nuclear_norm_completion_is_certified_and_agrees_with_the_tensor_solver():
    rng = np.random.default_rng(1)
    target, mask, lam = rng.standard_normal((8, 6)), rng.random((8, 6)) < 0.7, 0.6
    target = np.where(mask, target, 0)
    found = accelerated_proximal_gradient(
        Completion(jnp.asarray(target), jnp.asarray(mask)),
        Threshold(jnp.asarray(lam)),
        jnp.zeros((8, 6)),
        step=1.0,
        certificate=CompletionGap(jnp.asarray(target), jnp.asarray(lam)),
        tol=1e-10,
        max_iter=5000,
        history=True,
    )
    assert bool(found.converged)
    assert -1e-13 <= float(found.gap) <= 1e-10
    value = lambda x: 0.5 * np.sum((x - target)[mask] ** 2) + lam * np.linalg.norm(x, "nuc")  # noqa: E731
    other = complete_tensor(
        target, mask, lam=lam, regularizer=blocks.unfoldings((8, 6), [1.0], [(0,)]), tol=1e-11, max_iter=3000
    )
    assert abs(value(np.asarray(found.x)) - value(np.asarray(other.tensor))) <= 1e-9
    np.testing.assert_allclose(found.x, other.tensor, atol=1e-5)
    gaps = found.history.trim()["gap"]
    checked = (np.arange(len(gaps)) + 1) % 10 == 0
    assert np.isfinite(gaps[checked]).all()
    assert np.isnan(gaps[~checked]).all()
    assert (gaps[checked] >= -1e-13).all()


def no_gap(x, grad):
    return jnp.asarray(1.0)


def test_certificate_is_looked_at_before_a_state_from_elsewhere_counts_as_converged():
    rough = solve(None, 2000, tol=1e-2)
    assert bool(rough.converged)
    assert not bool(solve(rough.state, 10, tol=1e-2, certificate=no_gap).converged)


def solve(state, max_iter, **options):
    a, b = regression()
    problem = LeastSquares(jnp.asarray(a), jnp.asarray(b)), Soft(jnp.asarray(0.01))
    options = {"step": 1.0, "tol": 0.0, "check_every": 5, **options}
    return accelerated_proximal_gradient(
        *problem, jnp.zeros(8) if state is None else state, max_iter=max_iter, **options
    )


@pytest.mark.parametrize("restart", ["gradient", "none"])
def test_two_runs_are_one_run(restart):
    whole = solve(None, 40, restart=restart).state
    pieces = solve(solve(None, 20, restart=restart).state, 20, restart=restart).state
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(pieces), strict=True):
        np.testing.assert_array_equal(a, b)


def test_converged_state_stops_at_once_and_goes_on_for_a_tighter_tolerance():
    rough = solve(None, 2000, tol=1e-4)
    again = solve(rough.state, 2000, tol=1e-4)
    fine = solve(rough.state, 2000, tol=1e-9)
    assert int(again.iterations) == int(rough.iterations)
    assert bool(again.converged)
    assert int(fine.iterations) > int(rough.iterations)
    np.testing.assert_array_equal(fine.x, solve(None, 2000, tol=1e-9).x)


def test_scan_is_while_bit_for_bit_and_history_is_that_of_the_iterates():
    runs = [solve(None, 63, loop=loop, history=True, tol=1e-4) for loop in ("while", "scan")]
    for a, b in zip(*map(jax.tree.leaves, runs), strict=True):
        np.testing.assert_array_equal(a, b)
    history = runs[0].history.trim()
    assert set(history) == {"value", "change"}
    assert len(history["change"]) == int(runs[0].iterations)
    assert history["change"][-1] == float(runs[0].state.change)


def test_no_iterations_return_the_start():
    found = solve(None, 0, history=True)
    np.testing.assert_array_equal(found.x, 0)
    assert not bool(found.converged)
    assert int(found.iterations) == 0


def test_derivatives_match_finite_differences():
    a, b = regression(condition=3.0)

    def total(b, lam, loop):
        found = accelerated_proximal_gradient(
            LeastSquares(jnp.asarray(a), b), Soft(lam), jnp.zeros(8), step=1.0, tol=0.0, max_iter=150, loop=loop
        )
        return jnp.sum(jnp.sin(found.x))

    b, lam = jnp.asarray(b), jnp.asarray(0.05)
    direction = jnp.asarray(np.random.default_rng(2).standard_normal(20))
    plus, minus = (total(b + h * direction, lam + 0.5 * h, "while") for h in (1e-6, -1e-6))
    numeric = float((plus - minus) / 2e-6)
    by_b, by_lam = jax.grad(total, (0, 1))(b, lam, "scan")
    assert float(by_b @ direction + 0.5 * by_lam) == pytest.approx(numeric, rel=1e-6)
    _, forward = jax.jvp(lambda b, lam: total(b, lam, "while"), (b, lam), (direction, jnp.asarray(0.5)))
    assert float(forward) == pytest.approx(numeric, rel=1e-6)


def weighted_inner(x, y):
    return 9.0 * jnp.vdot(x["big"], y["big"]) + jnp.vdot(x["small"], y["small"])


def quadratic_of_a_pytree(x):
    value = 0.5 * jnp.sum((x["big"] - 3.0) ** 2) + 0.05 * jnp.sum((x["small"] + 1.0) ** 2)
    return value, {"big": x["big"] - 3.0, "small": 0.1 * (x["small"] + 1.0)}


def nonnegative(x, step):
    return jax.tree.map(lambda leaf: jnp.maximum(leaf, -0.5), x)


def test_pytrees_are_solved_and_the_metric_measures_the_change():
    start = {"big": jnp.zeros((2, 3)), "small": jnp.zeros(4)}
    options = {"step": 0.5, "tol": 1e-10, "inner": weighted_inner, "check_every": 1}
    found = accelerated_proximal_gradient(quadratic_of_a_pytree, nonnegative, start, **options)
    assert bool(found.converged)
    np.testing.assert_allclose(found.x["big"], 3.0, atol=1e-8)
    np.testing.assert_allclose(found.x["small"], -0.5, atol=1e-8)
    first = accelerated_proximal_gradient(quadratic_of_a_pytree, nonnegative, start, max_iter=1, **options)
    # x = (1.5, -0.05) after one step from z = 0, where the change is |x - z| / |x| = 1 in any metric.
    np.testing.assert_allclose(first.x["small"], -0.05, rtol=1e-12)
    assert float(first.state.change) == pytest.approx(1.0)
    second = accelerated_proximal_gradient(quadratic_of_a_pytree, nonnegative, first.state, max_iter=1, **options)
    moved = 9 * np.sum((second.x["big"] - first.state.z["big"]) ** 2) + np.sum(
        (second.x["small"] - first.state.z["small"]) ** 2
    )
    size = 9 * np.sum(second.x["big"] ** 2) + np.sum(second.x["small"] ** 2)
    assert float(second.state.change) == pytest.approx(float(np.sqrt(moved / size)), rel=1e-12)


def test_vmap_over_data_is_a_loop():
    a, _ = regression()
    many = jnp.asarray(np.random.default_rng(3).standard_normal((3, 20)))

    def one(b):
        found = accelerated_proximal_gradient(
            LeastSquares(jnp.asarray(a), b), Soft(jnp.asarray(0.1)), jnp.zeros(8), step=1.0, tol=1e-8
        )
        return found.x, found.iterations, found.converged

    together = jax.vmap(one)(many)
    for k in range(3):
        for lane, alone in zip(together, one(many[k]), strict=True):
            np.testing.assert_allclose(lane[k], alone, atol=1e-12)


def test_divergence_is_said_and_the_last_iterate_is_finite():
    found = solve(None, 5000, step=1e3, restart="none")
    assert not bool(found.converged)
    assert int(found.state.status) == 3
    assert np.isfinite(np.asarray(found.x)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"restart": "speed"}, "restart is 'speed'; expected one of"),
        ({"step": 0.0}, "step is 0.0; expected a finite number > 0"),
        ({"step": -1}, "step is -1; expected a finite number > 0"),
        ({"step": jnp.float32(-1)}, "step is -1.0; expected a finite number > 0"),
        ({"step": float("inf")}, "step is inf; expected a finite number > 0"),
        ({"max_iter": -1}, "max_iter is -1; expected an integer >= 0"),
        ({"check_every": 0}, "check_every is 0; expected an integer >= 1"),
        ({"loop": "for"}, "loop is 'for'; expected one of"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(options, message):
    options = {"max_iter": 5, **options}
    with pytest.raises(ValueError, match=message):
        solve(None, options.pop("max_iter"), **options)


def test_integer_starts_are_refused():
    a, b = regression()
    with pytest.raises(TypeError, match=r"x0 has dtype int.*; expected real floating arrays"):
        accelerated_proximal_gradient(
            LeastSquares(jnp.asarray(a), jnp.asarray(b)), Soft(jnp.asarray(0.1)), jnp.zeros(8, int), step=1.0
        )


def test_a_run_at_rounding_ends_as_stalled_and_one_far_from_it_goes_on():
    x0 = jnp.zeros(2, jnp.float32)
    quadratic = lambda x: (0.5 * jnp.sum((x - 3) ** 2), x - 3)  # noqa: E731
    options = {"step": 1.0, "tol": 1e-9, "max_iter": 1000, "patience": 50}
    for floor, status, iterations in ((1e-5, STALLED, 60), (1e-3, RUNNING, 1000)):
        gap = lambda x, g, at=floor: at + 0 * x[0]  # noqa: E731
        found = accelerated_proximal_gradient(quadratic, lambda v, step: v, x0, certificate=gap, **options)
        assert (found.state.status, found.iterations, found.converged) == (status, iterations, False)
    resumed = accelerated_proximal_gradient(quadratic, lambda v, step: v, found.state, step=1.0, max_iter=10)
    assert resumed.converged
    assert resumed.state.best is None
