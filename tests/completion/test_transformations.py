"""jit, vmap, scan and derivatives of a completion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.completion import complete_tensor
from jaxspec.solvers import Residual

SHAPE = (4, 4, 4)


@pytest.fixture(autouse=True)
def _double(x64):
    """Derivatives are compared with finite differences."""


def problem(seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(SHAPE), rng.random(SHAPE) < 0.75


def complete(tensor, mask, lam, **options):
    return complete_tensor(
        tensor, mask, lam=lam, **{"tol": 1e-7, "max_iter": 300, "certificate": True, "svt": "gram", **options}
    )


def seen(result):
    return result.tensor, result.duals, result.info, result.history


def test_vmap_over_tensor_mask_and_lam_is_a_loop():
    tensors, masks = map(np.stack, zip(*(problem(seed) for seed in range(4)), strict=True))
    lams = jnp.asarray([0.05, 0.1, 0.3, 0.6])
    together = seen(jax.vmap(complete)(tensors, masks, lams))
    assert len(set(together[2].iterations.tolist())) > 1
    for k in range(4):
        alone = seen(complete(tensors[k], masks[k], lams[k]))
        for (path, lane), single in zip(jax.tree.leaves_with_path(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(lane[k], single, atol=1e-10, err_msg=jax.tree_util.keystr(path))


def test_jit_changes_nothing_but_rounding():
    tensor, mask = problem(0)
    alone, jitted = seen(complete(tensor, mask, 0.2)), seen(jax.jit(complete)(tensor, mask, 0.2))
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_sweep_over_weights_relaxation_and_tolerance_is_a_vmap():
    tensor, mask = problem(1)

    def one(weights, over_relaxation, tol):
        return complete(
            tensor, mask, None, weights=weights, over_relaxation=over_relaxation, tol=tol, history=False
        ).tensor

    weights = jnp.asarray([[1.0, 1.0, 1.0], [3.0, 2.0, 1.0]])
    together = jax.vmap(one)(weights, jnp.asarray([1.0, 1.6]), jnp.asarray([1e-8, 1e-5]))
    for k, (kappa, tol) in enumerate([(1.0, 1e-8), (1.6, 1e-5)]):
        np.testing.assert_allclose(together[k], one(weights[k], kappa, tol), atol=1e-10)


def test_scan_is_while_to_rounding():
    tensor, mask = problem(2)
    options = {"tol": 1e-3, "max_iter": 40, "check_every": 7}
    runs = [seen(complete(tensor, mask, 0.2, loop=loop, **options)) for loop in ("while", "scan")]
    assert bool(runs[0][2].converged)
    for a, b in zip(*map(jax.tree.leaves, runs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def total(tensor, mask, lam, loop):
    stop = Residual(0.0, patience=None)
    options = {"stop": stop, "tol": None, "max_iter": 120, "history": False, "certificate": False, "validate": False}
    return jnp.sum(jnp.sin(complete(tensor, mask, lam, loop=loop, **options).tensor))


value = jax.jit(lambda tensor, mask, lam: total(tensor, mask, lam, "while"))
gradient = jax.jit(jax.grad(lambda tensor, mask, lam: total(tensor, mask, lam, "scan"), (0, 2)))


def test_derivatives_by_data_and_lam_match_finite_differences():
    tensor, mask = problem(3)
    tensor, lam = jnp.asarray(tensor), jnp.asarray(0.15)
    direction, h = jnp.asarray(np.random.default_rng(0).standard_normal(SHAPE)), 1e-5
    along_tensor = float(value(tensor + h * direction, mask, lam) - value(tensor - h * direction, mask, lam)) / (2 * h)
    along_lam = float(value(tensor, mask, lam + h) - value(tensor, mask, lam - h)) / (2 * h)
    by_tensor, by_lam = gradient(tensor, mask, lam)
    assert float(jnp.vdot(by_tensor, direction)) == pytest.approx(along_tensor, rel=1e-5, abs=1e-8)
    assert float(by_lam) == pytest.approx(along_lam, rel=1e-5)
    np.testing.assert_array_equal(np.asarray(by_tensor)[~mask], 0)
    _, forward = jax.jvp(lambda t, s: value(t, mask, s), (tensor, lam), (direction, jnp.asarray(1.0)))
    assert float(forward) == pytest.approx(along_tensor + along_lam, rel=1e-5)


def test_nan_in_unobserved_places_does_not_reach_the_gradient():
    tensor, mask = problem(4)
    clean, _ = gradient(jnp.where(mask, tensor, 0), mask, jnp.asarray(0.15))
    dirty, _ = gradient(jnp.where(mask, tensor, jnp.nan), mask, jnp.asarray(0.15))
    assert np.isfinite(np.asarray(dirty)).all()
    np.testing.assert_array_equal(clean, dirty)


def test_traced_lam_that_is_not_positive_raises_with_a_reason():
    tensor, mask = problem(5)
    with pytest.raises(Exception, match=r"lam (is|holds) .*; expected (a finite number|numbers) > 0"):
        jax.block_until_ready(jax.jit(lambda lam: complete(tensor, mask, lam).tensor)(0.0))


def test_data_that_are_not_finite_end_as_diverged_under_a_trace():
    tensor, mask = problem(6)
    tensor = np.where(mask, tensor, 0)
    first = tuple(np.argwhere(mask)[0])
    tensor[first] = np.inf
    run = jax.jit(lambda t: complete(t, mask, None, history=False, certificate=False))
    result = run(tensor)
    assert int(result.info.status) == 3
    assert not bool(result.info.converged)
    assert np.isfinite(np.asarray(result.tensor)[~mask]).all()
    assert int(run(np.where(mask, problem(6)[0], 0)).info.status) == 1
