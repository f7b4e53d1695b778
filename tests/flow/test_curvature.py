"""`local_lipschitz` against dense second derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxspec.flow import MeanFieldObjective, local_lipschitz, mean_field
from tests.flow.problems import particles, tanh_problem


def dense(objective, position, weights):
    """Largest absolute eigenvalue of ``w^(-1/2) (second derivative of J) w^(-1/2)``."""
    flat, unravel = ravel_pytree(position)

    def value(x):
        return objective.risk(mean_field(objective, unravel(x), jnp.asarray(weights)))

    hessian = jax.jit(jax.hessian(value))(flat)
    each = jax.tree.map(lambda x: np.broadcast_to(weights.reshape(-1, *(1,) * (x.ndim - 1)), x.shape), position)
    root = np.sqrt(np.concatenate([x.ravel() for x in jax.tree.leaves(each)]))
    kept = root > 0
    return np.abs(np.linalg.eigvalsh((hessian / np.outer(root, root))[np.ix_(kept, kept)])).max()


def saddle(z):
    return jnp.sum(jnp.cos(z["p"])) - 4 * jnp.sum(z["q"] ** 2)


def blocks(x):
    return {"p": x["a"] @ x["b"], "q": x["b"]}


@pytest.mark.parametrize("weights", [np.full(5, 0.2), np.array([0.4, 0.3, 0.2, 0.1, 0.0])])
@pytest.mark.parametrize("blockwise", [False, True])
def test_equals_the_dense_second_derivative(x64, weights, blockwise):
    x = jnp.asarray(particles(5, 2, 3))
    objective = tanh_problem(2, 3, 6)
    if blockwise:  # negative curvature dominates
        objective, x = MeanFieldObjective(blocks, saddle), {"a": x, "b": jnp.asarray(particles(5, 3, 2))}
    found = local_lipschitz(objective, x, jnp.asarray(weights), tol=1e-6, max_sweeps=200)
    np.testing.assert_allclose(found.value, dense(objective, x, weights), rtol=1e-6)
    assert bool(found.converged)
    rough = local_lipschitz(objective, x, jnp.asarray(weights))
    assert 0.97 * found.value <= rough.value <= found.value * (1 + 1e-9)
    if weights.min() == weights.max():
        np.testing.assert_allclose(local_lipschitz(objective, x).value, rough.value, rtol=1e-2)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_any_scale_in_single_precision(scale):
    objective = MeanFieldObjective(lambda x: x, lambda z: scale * jnp.sum(z**2) / 2)
    found = local_lipschitz(objective, jnp.asarray(particles(4, 2, 2), jnp.float32))
    np.testing.assert_allclose(found.value, scale, rtol=1e-3)


def test_no_curvature_and_bad_input():
    flat = MeanFieldObjective(lambda x: x, jnp.sum)
    found = local_lipschitz(flat, jnp.ones((3, 2, 2)))
    assert float(found.value) == 0
    assert bool(found.converged)
    with pytest.raises(ValueError, match="weights have length 2; expected 3"):
        local_lipschitz(flat, jnp.ones((3, 2, 2)), jnp.full(2, 0.5))
    with pytest.raises(ValueError, match=r"expected \(N, ..., m, n\)"):
        local_lipschitz(flat, jnp.ones((3, 2)))
