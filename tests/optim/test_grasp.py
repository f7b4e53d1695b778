"""`grasp`: the leak after many steps of real optimisers, what the two projections do, and how the state travels."""

from functools import partial

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxspec.optim import grasp, project_updates, scale_by_muon

OUT, RANK, IN, K = 64, 8, 32, 2
ADAMW = partial(optax.adamw, 1e-2, weight_decay=0.1)


@pytest.fixture(scope="module")
def problem():
    """Fit ``b a`` to a matrix whose largest part lies along the directions: the leak has every reason to grow."""
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.normal(size=(OUT, K)))[0]
    target = rng.normal(size=(OUT, IN)) + 20 * u @ rng.normal(size=(K, IN))
    a = rng.normal(size=(RANK, IN)) / np.sqrt(IN)
    as_float = partial(jnp.asarray, dtype=jnp.float32)
    return as_float(u), as_float(target), {"a": as_float(a), "b": jnp.zeros((OUT, RANK))}


def train(tx, problem, *, steps, dtype=jnp.float32, full=False):
    """Parameters after gradient steps, for an adapter, or for a whole weight that starts at a share of the target."""
    _, target, params = problem
    params = {"w": 0.3 * target} if full else params
    params = jax.tree.map(lambda x: x.astype(dtype), params)

    def loss(p):
        p = jax.tree.map(lambda x: x.astype(jnp.float32), p)
        return jnp.sum(((p["w"] if full else p["b"] @ p["a"]) - target) ** 2) / 2

    def step(carry, _):
        p, state = carry
        updates, state = tx.update(jax.grad(loss)(p), state, p)
        return (optax.apply_updates(p, updates), state), None

    end = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), None, length=steps)[0][0])(params)
    return jax.tree.map(lambda x: np.asarray(x, np.float64), (params, end))


def leak(u, b):
    return np.linalg.norm(np.asarray(u, np.float64).T @ b) / np.linalg.norm(b)


ROLES = {"a": "none", "b": "writes"}


def gradients_only(inner, u, roles):
    return optax.chain(project_updates(u, roles), inner)


@pytest.mark.parametrize("retract", [False, True])
def test_an_adapter_does_not_leak_in_1000_steps(problem, retract):
    u = problem[0]
    _, end = train(grasp(ADAMW(), u, ROLES, retract=retract), problem, steps=1000)
    assert np.linalg.norm(end["b"]) > 1
    assert leak(u, end["b"]) <= 2e-6


def test_projecting_gradients_alone_leaks(problem):
    u = problem[0]
    _, end = train(gradients_only(ADAMW(), u, ROLES), problem, steps=1000)
    assert leak(u, end["b"]) > 1e-2


def test_bfloat16_is_retracted_by_default(problem):
    u = problem[0]
    run = partial(train, problem=problem, steps=1000, dtype=jnp.bfloat16)
    assert leak(u, run(grasp(ADAMW(), u, ROLES))[1]["b"]) <= 2e-3
    assert leak(u, run(grasp(ADAMW(), u, ROLES, retract=False))[1]["b"]) > 4e-3


@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-3)])
def test_a_whole_weight_keeps_what_it_did_along_the_directions(problem, dtype, bound):
    u = problem[0]
    start, end = train(grasp(ADAMW(), u, "writes"), problem, steps=300, dtype=dtype, full=True)
    assert leak(u, start["w"]) > 0.3  # something to preserve
    moved = end["w"] - start["w"]
    assert np.linalg.norm(moved) > 0.2 * np.linalg.norm(start["w"])
    assert np.linalg.norm(np.asarray(u, float).T @ moved) <= bound * np.linalg.norm(end["w"])


def test_weight_decay_after_the_projection_shrinks_what_should_stay(problem):
    u = problem[0]
    early = optax.chain(optax.scale_by_adam(), project_updates(u, "writes"))
    decay = optax.chain(early, optax.add_decayed_weights(0.1), optax.scale_by_learning_rate(1e-2))
    start, end = train(decay, problem, steps=300, full=True)
    assert np.linalg.norm(np.asarray(u, float).T @ (end["w"] - start["w"])) > 1e-2 * np.linalg.norm(end["w"])


def test_both_projections_descend_where_the_last_alone_may_ascend():
    """``<g, P D^-1 P g> >= 0`` for every positive D; ``<g, P D^-1 g>`` can be negative."""
    rng = np.random.default_rng(0)
    cases, d = 2000, 6
    u = np.linalg.qr(rng.normal(size=(cases, d, K)))[0].astype(np.float32)
    g = rng.normal(size=(cases, d, 1)).astype(np.float32)
    scale = np.exp(2 * rng.normal(size=(cases, d, 1))).astype(np.float32)

    def slope(project_gradients):
        def one(u, g, scale):
            inner = optax.stateless(lambda updates, params: jax.tree.map(lambda x: x / scale, updates))
            tx = grasp(inner, u, "writes", project_gradients=project_gradients)
            return jnp.vdot(g, tx.update(g, tx.init(g))[0]) / jnp.vdot(g, g / scale)

        return jax.jit(jax.vmap(one))(u, g, scale)

    assert float(slope(True).min()) > -1e-5
    assert float(slope(False).min()) < -1e-3


@pytest.mark.parametrize("name", ["sgd", "muon"])
def test_equivariant_optimisers_need_one_projection_only(problem, name):
    """Muon's step is a polynomial in ``G G^T`` times ``G``, so it keeps the range of a projected gradient."""
    u = problem[0]
    inner = {
        "sgd": lambda: optax.sgd(1e-3, momentum=0.9),
        "muon": lambda: optax.chain(scale_by_muon(), optax.scale(-1e-2)),
    }[name]
    builds = {"both": grasp(inner(), u, ROLES), "gradients": gradients_only(inner(), u, ROLES)}
    if name == "sgd":
        # Linear, so that the order does not matter; a polar factor of the whole gradient is another one.
        builds["updates"] = grasp(inner(), u, ROLES, project_gradients=False)
    ends = {key: train(tx, problem, steps=20)[1]["b"] for key, tx in builds.items()}
    for end in ends.values():
        assert leak(u, end) <= 2e-6
        np.testing.assert_allclose(end, ends["both"], atol=1e-5 * np.abs(ends["both"]).max())


def test_an_adapter_that_reads_must_start_projected(problem):
    u = jnp.asarray(np.linalg.qr(np.random.default_rng(5).normal(size=(IN, K)))[0], jnp.float32)
    roles = {"a": "reads", "b": "none"}
    with pytest.warns(UserWarning, match="read from the stream"):
        _, end = train(grasp(ADAMW(), u, roles), problem, steps=5)
    read = np.linalg.norm(end["b"] @ end["a"] @ np.asarray(u, float))
    assert read > 1e-2 * np.linalg.norm(end["b"] @ end["a"])
    target, params = problem[1:]
    blocked = params | {"a": params["a"] - (params["a"] @ u) @ u.T}
    with pytest.warns(UserWarning, match="read from the stream"):
        _, end = train(grasp(ADAMW(), u, roles), (problem[0], target, blocked), steps=5)
    assert np.linalg.norm(end["a"] @ np.asarray(u, float)) <= 2e-6 * np.linalg.norm(end["a"])


def test_no_directions_are_the_inner_optimiser_bit_for_bit(problem):
    _, target, params = problem
    plain, none = ADAMW(), grasp(ADAMW(), jnp.zeros((OUT, 0)), ROLES, retract=True)
    grads = {"a": params["a"], "b": target[:, :RANK]}
    wanted, _ = plain.update(grads, plain.init(params), params)
    updates, _ = none.update(grads, none.init(params), params)
    for name in params:
        np.testing.assert_array_equal(updates[name], wanted[name])


def test_state_round_trips_and_directions_are_swapped_without_compiling(problem):
    u, _, params = problem
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    grads = jax.tree.map(lambda x: (x + 1).astype(jnp.bfloat16), params)
    tx = grasp(ADAMW(), u, ROLES)
    traces = []

    @jax.jit
    def step(g, state, p):
        traces.append(0)
        return tx.update(g, state, p)

    _, state = step(grads, tx.init(params), params)
    stored = flax.serialization.from_bytes(tx.init(params), flax.serialization.to_bytes(state))
    assert jax.tree.structure(stored) == jax.tree.structure(state)
    wanted, given = step(grads, state, params)[0], step(grads, stored, params)[0]
    for name in params:
        np.testing.assert_array_equal(given[name], wanted[name])
    other = jnp.asarray(np.linalg.qr(np.random.default_rng(9).normal(size=(OUT, K)))[0], jnp.float32)
    swapped = state._replace(projection=grasp(ADAMW(), other, ROLES).init(params).projection)
    moved = params | {"b": params["b"] + step(grads, swapped, params)[0]["b"]}
    assert leak(other, np.asarray(moved["b"], float)) < 2e-3 < leak(u, np.asarray(moved["b"], float))
    assert len(traces) == 1


def test_a_donated_state_leaves_the_directions_alive(problem):
    u, _, params = problem
    tx = grasp(ADAMW(), u, ROLES)
    step = jax.jit(tx.update, donate_argnums=1)
    step(params, tx.init(params), params)
    updates, _ = step(params, tx.init(params), params)
    assert np.isfinite(np.asarray(u)).all()
    assert leak(u, np.asarray(updates["b"], float) + 1e-30) <= 1


def test_extra_arguments_reach_the_inner_optimiser(problem):
    u, _, params = problem
    tx = grasp(optax.chain(optax.sgd(1.0), optax.contrib.reduce_on_plateau()), u, ROLES)
    updates, _ = tx.update(params, tx.init(params), params, value=jnp.float32(1.0))
    np.testing.assert_allclose(updates["a"], -params["a"], rtol=1e-6)


def test_the_inner_loss_of_a_stack_of_seeds_is_vmapped(problem):
    u, target, params = problem
    tx = grasp(optax.adam(1e-2), u, ROLES)
    seeds = jax.tree.map(lambda x: jnp.stack([x, x + 0.01]), params)

    def step(p):
        grads = jax.grad(lambda p: jnp.sum((p["b"] @ p["a"] - target) ** 2))(p)
        return tx.update(grads, tx.init(p), p)[0]

    together = jax.jit(jax.vmap(step))(seeds)
    alone = step(jax.tree.map(lambda x: x[1], seeds))
    np.testing.assert_allclose(together["b"][1], alone["b"], atol=1e-6)


def test_divided_over_eight_devices(run_python):
    snippet = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxspec.optim import grasp
rng = np.random.default_rng(0)
u = np.linalg.qr(rng.normal(size=(64, 2)))[0].astype(np.float32)
host = {"b": rng.normal(size=(64, 8)), "a": rng.normal(size=(8, 32)), "stack": rng.normal(size=(8, 4, 64))}
roles = {"b": "writes", "a": "none", "stack": "reads"}
for dtype in (jnp.float32, jnp.bfloat16):
    plain = {k: jnp.asarray(v, dtype) for k, v in host.items()}
    tx = grasp(optax.adamw(1e-2), u, roles)
    wanted, _ = jax.jit(tx.update)(plain, tx.init(plain), plain)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
        for specs in ({"b": P("data"), "stack": P(None, None, "data")}, {"b": P(None, "data"), "stack": P("data")})[
            : 1 if dtype == jnp.bfloat16 else 2
        ]:
            lies = {k: NamedSharding(mesh, specs.get(k, P())) for k in host}
            placed = {k: jax.device_put(v, lies[k]) for k, v in plain.items()}
            with jax.set_mesh(mesh):
                step = jax.jit(lambda g, s, p: tx.update(g, s, p)[0], out_shardings=lies)
                updates = step(placed, tx.init(placed), placed)
            for k in host:
                a, b = np.asarray(updates[k], float), np.asarray(wanted[k], float)
                # A sum in another order may round a bfloat16 to its neighbour.
                bound = 1e-7 if dtype == jnp.float32 else 2.0**-7 * (np.abs(host[k]) + np.abs(b))
                np.testing.assert_array_less(np.abs(a - b), bound)
            if kind == AxisType.Auto and specs["b"] == P("data"):
                text = step.lower(placed, tx.init(placed), placed).compile().as_text()
                assert "all-gather" not in text, "a leaf is gathered"
                assert "all-reduce" in text
print("finished")
"""
    assert run_python(snippet, devices=8, timeout=300.0).stdout.strip() == "finished"
