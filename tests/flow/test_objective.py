"""Forces and fields: the particle-count scaling, weights, chunks, and one all-reduce on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.flow import force, gauss_hermite_particles, integrate, mean_field
from jaxspec.flow.measure import Measure
from jaxspec.flow.objective import evaluate
from tests.flow.problems import particles, quick_flow, tanh_problem


@pytest.fixture
def objective(x64):
    return tanh_problem()


def test_the_force_is_the_gradient_over_the_weight(objective):
    x = jnp.asarray(particles(5))
    weights = jnp.array([0.1, 0.2, 0.3, 0.25, 0.15])

    def loss(x, w):
        return objective.risk(jnp.tensordot(w, jax.vmap(objective.feature)(x), 1))

    expected = jax.grad(loss)(x, weights) / weights[:, None, None]
    np.testing.assert_allclose(force(objective, x, weights), expected, atol=1e-14)
    np.testing.assert_allclose(force(objective, x), 5 * jax.grad(loss)(x, jnp.full(5, 0.2)), atol=1e-14)
    np.testing.assert_allclose(
        mean_field(objective, x, weights)[0, 0], weights @ jax.vmap(objective.feature)(x)[:, 0, 0]
    )


def test_duplicates_permutations_and_merged_particles(objective):
    x = jnp.asarray(particles(4))
    twice = jnp.concatenate([x, x])
    np.testing.assert_allclose(mean_field(objective, twice), mean_field(objective, x), atol=1e-15)
    np.testing.assert_allclose(force(objective, twice)[:4], force(objective, x), atol=1e-15)
    order = jnp.array([2, 0, 3, 1])
    np.testing.assert_allclose(force(objective, x[order]), force(objective, x)[order], atol=1e-15)
    heavy = jnp.array([0.5, 0.25, 0.25])
    merged = quick_flow(objective, weights=heavy)
    equal = quick_flow(objective)
    last, _ = integrate(merged, merged.init(x[:3]), dt=0.1, num_steps=10)
    other, _ = integrate(equal, equal.init(x[jnp.array([0, 0, 1, 2])]), dt=0.1, num_steps=10)
    np.testing.assert_allclose(other.position[1:], last.position, atol=1e-13)


@pytest.mark.parametrize("weights", [None, np.array([0.1, 0.2, 0.3, 0.25, 0.1, 0.03, 0.02])])
def test_chunks_give_the_same_force(objective, weights):
    x = jnp.asarray(particles(7))
    measure = Measure(None if weights is None else jnp.asarray(weights))
    whole = evaluate(objective, x, measure)
    for size in (3, 7):
        parts = evaluate(objective, x, measure, size)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), parts, whole)


def test_quadrature_moments(x64):
    x, w = gauss_hermite_particles((1, 2), order=4, scale=0.5)
    assert x.shape == (16, 1, 2)
    a, b = x[:, 0, 0], x[:, 0, 1]
    for values, moment in ((a, 0), (a**2, 0.25), (a**2 * b**2, 0.0625), (a**6, 15 / 64), (a * b, 0)):
        np.testing.assert_allclose(jnp.sum(w * values), moment, atol=1e-14)


SHARDED = """
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxspec.flow import force, hamiltonian_flow, integrate, mean_field, moe

jax.config.update("jax_enable_x64", True)
COLLECTIVES = r"\\b(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\\("
block = moe.SmoothMoEBlock(4, 2, 4)
tokens = jax.random.normal(jax.random.key(0), (2, 3, 4))
objective = moe.moe_objective(block, tokens, jnp.sin(tokens))
x = block.init(jax.random.key(1), 16)
mesh = jax.make_mesh((8,), ("experts",), axis_types=(AxisType.Explicit,))
lies = NamedSharding(mesh, P("experts"))
divided = jax.device_put(x, lies)

def same(a, b, tolerance):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(np.asarray(p), np.asarray(q), atol=tolerance), a, b)

for weights in (None, jnp.arange(1.0, 17) / 136):
    program = jax.jit(lambda x: force(objective, x, weights)).lower(divided).compile()
    found = re.findall(COLLECTIVES, program.as_text())
    assert found == ["all-reduce"], found
    forces = program(divided)
    assert all(g.sharding.is_equivalent_to(lies, g.ndim) for g in jax.tree.leaves(forces))
    same(forces, jax.jit(lambda x: force(objective, x, weights))(x), 1e-14)
    fields = jax.jit(lambda x: mean_field(objective, x, weights))
    same(fields(divided), fields(x), 1e-15)

flow = hamiltonian_flow(objective, eps=0.05)
# In a step z alone; the sums of the diagnostics and of the ledger stand before and after the loop.
state = flow.init(divided)
text = jax.jit(lambda s: integrate(flow, s, dt=0.05, num_steps=6, save_every=6)).lower(state).compile().as_text()
assert set(re.findall(COLLECTIVES, text)) == {"all-reduce"}
loops = [part for part in text.split("\\n\\n") if "ENTRY" not in part]
assert [name for part in loops for name in re.findall(COLLECTIVES, part)] == ["all-reduce"], "more than z in a step"
one, seen_one = integrate(flow, flow.init(x), dt=0.05, num_steps=6, save_every=2)
many, seen_many = integrate(flow, state, dt=0.05, num_steps=6, save_every=2)
same(many, one, 1e-13)
same(seen_many, seen_one, 1e-13)
step = jax.jit(lambda state, dt: flow.step(state, dt))
stepped = step(state, 0.05)
same(stepped, step(flow.init(x), 0.05), 1e-13)
assert stepped.position["wq"].sharding.is_equivalent_to(lies, 3)
try:
    implicit = hamiltonian_flow(objective, method="discrete_gradient")
    implicit.step(implicit.init(divided), 0.1)
except ValueError as error:
    assert "cannot be divided" in str(error)
else:
    raise AssertionError("the implicit method ran on divided particles")
print("done")
"""


def test_experts_on_eight_devices(run_python):
    assert "done" in run_python(SHARDED, devices=8, timeout=240).stdout
