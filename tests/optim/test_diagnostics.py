import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxspec.optim import scale_by_muon
from jaxspec.optim.diagnostics import descent_quantities, roughness, step_optimality, with_diagnostics


@pytest.fixture
def quadratic(x64, random_tree):
    """Loss ``<W, H W> / 2 + <B, W>`` of two blocks with a cross term, and its gradient and Hessian in closed form."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(10, 10))
    hessian, linear = jnp.asarray(root @ root.T), jnp.asarray(rng.normal(size=10))

    def flat(tree):
        return jnp.concatenate([tree["a"].ravel(), tree["b"].ravel()])

    def loss(tree):
        w = flat(tree)
        return w @ hessian @ w / 2 + linear @ w

    return loss, flat, hessian, linear


SHAPES = {"a": (2, 3), "b": (2, 2)}


def test_quantities_are_exact_on_a_quadratic(quadratic, random_tree):
    loss, flat, hessian, linear = quadratic
    w, d, noise = (random_tree(SHAPES, seed, dtype=jnp.float64) for seed in range(3))
    g = hessian @ flat(w) + linear
    batch = g + flat(noise)
    batch_tree = {"a": batch[:6].reshape(2, 3), "b": batch[6:].reshape(2, 2)}
    found = descent_quantities(loss, w, d, batch_grad=batch_tree)
    slope, batch_slope, curvature = g @ flat(d), batch @ flat(d), flat(d) @ hessian @ flat(d)
    expected = {
        "slope": slope,
        "batch_slope": batch_slope,
        "curvature": curvature,
        "alignment": slope / batch_slope,
        "potential": batch_slope**2 / curvature,
        "optimal_step": slope / curvature,
        "predicted_decrease": slope**2 / curvature / 2,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-12)
    assert not bool(found.negative_curvature)
    moved = jax.tree.map(lambda p, q: p - found.optimal_step * q, w, d)
    np.testing.assert_allclose(loss(w) - loss(moved), found.predicted_decrease, rtol=1e-10)


def test_loss_change_at_any_step_follows_alignment_and_potential(quadratic, random_tree):
    loss, _, _, _ = quadratic
    w, d, batch = (random_tree(SHAPES, seed, dtype=jnp.float64) for seed in range(3))
    found = descent_quantities(loss, w, d, batch_grad=batch)
    for tau in (0.3, 1.0, 2.0):
        eta = tau * found.batch_slope / found.curvature
        moved = jax.tree.map(lambda p, q, eta=eta: p - eta * q, w, d)
        predicted = -found.potential * (found.alignment * tau - tau**2 / 2)
        np.testing.assert_allclose(loss(moved) - loss(w), predicted, rtol=1e-9)
        gained = step_optimality(eta, found.optimal_step) * found.predicted_decrease
        np.testing.assert_allclose(loss(w) - loss(moved), gained, rtol=1e-9)


def test_blocks_add_up_to_the_whole(quadratic, random_tree):
    loss, _, _, _ = quadratic
    w, d = (random_tree(SHAPES, seed, dtype=jnp.float64) for seed in range(2))
    whole, blocks = (descent_quantities(loss, w, d, per_leaf=flag) for flag in (False, True))
    for name in ("slope", "batch_slope", "curvature"):
        np.testing.assert_allclose(sum(getattr(blocks, name).values()), getattr(whole, name), rtol=1e-12)
    np.testing.assert_allclose(blocks.optimal_step["a"], blocks.slope["a"] / blocks.curvature["a"], rtol=1e-12)


def test_given_gradient_is_used(quadratic, random_tree):
    loss, flat, _, _ = quadratic
    w, d, g = (random_tree(SHAPES, seed, dtype=jnp.float64) for seed in range(3))
    found = descent_quantities(loss, w, d, grad=g)
    np.testing.assert_allclose([found.slope, found.batch_slope], [flat(g) @ flat(d)] * 2, rtol=1e-12)


@pytest.mark.parametrize("per_leaf", [False, True])
def test_directions_at_one_point_share_a_linearisation(quadratic, random_tree, per_leaf):
    loss, _, _, _ = quadratic
    w, batch, *directions = (random_tree(SHAPES, seed, dtype=jnp.float64) for seed in range(5))

    @jax.jit
    def shared(w, directions):
        grad, hvp = jax.linearize(jax.grad(loss), w)
        given = {"grad": grad, "batch_grad": batch, "hvp": hvp, "per_leaf": per_leaf}
        return jax.lax.map(lambda d: descent_quantities(loss, w, d, **given), directions)

    found = shared(w, jax.tree.map(lambda *each: jnp.stack(each), *directions))
    for number, direction in enumerate(directions):
        alone = descent_quantities(loss, w, direction, batch_grad=batch, per_leaf=per_leaf)
        one = jax.tree.map(lambda leaf, number=number: leaf[number], found)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), one, alone)
    with pytest.raises(ValueError, match=r"grad is None and hvp is given; expected both"):
        descent_quantities(loss, w, directions[0], hvp=lambda v: v)


def test_one_hessian_product_is_traced(random_tree):
    calls = []

    def loss(w):
        calls.append(None)
        return jnp.sum(w**4)

    descent_quantities(loss, jnp.ones((2, 2)), jnp.ones((2, 2)), batch_grad=jnp.ones((2, 2)))
    assert len(calls) == 1


def test_negative_curvature_and_vanishing_slope_say_so():
    w, d = jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0])
    found = descent_quantities(lambda w: -jnp.sum(w**2), w, d)
    assert bool(found.negative_curvature)
    assert np.isinf([found.potential, found.optimal_step, found.predicted_decrease]).all()
    found = descent_quantities(lambda w: jnp.sum(w**2), w, jnp.array([0.0, 1.0]))
    assert np.isnan(found.alignment)
    assert float(step_optimality(0.1, jnp.inf)) == 0


def test_half_precision_inner_products_are_in_float32():
    w = jnp.ones(4096, jnp.bfloat16)
    found = descent_quantities(lambda w: jnp.sum(w.astype(jnp.float32) ** 2) / 2, w, w)
    assert found.slope.dtype == jnp.float32
    assert float(found.slope) == 4096


def test_roughness_of_known_sequences():
    steps = jnp.array([[1.0, 1.0, 1.0, 1.0], [1.0, jnp.e, 1.0, jnp.e], [1.0, jnp.inf, jnp.e, 1.0]])
    np.testing.assert_allclose(roughness(steps), [0.0, 1.0, 1.0], atol=1e-6)
    assert np.isnan(roughness(jnp.array([1.0, -1.0])))


def loss(p, scale=1.0):
    return scale * jnp.sum(jnp.sin(p["w"]) ** 2) + jnp.sum(p["b"] ** 2)


@pytest.mark.parametrize("per_leaf", [False, True])
def test_wrapper_records_and_leaves_the_updates_alone(random_tree, per_leaf):
    params = random_tree({"w": (3, 4), "b": (4,)})
    tx = optax.chain(
        optax.partition({"m": scale_by_muon(), "a": optax.scale_by_adam()}, {"w": "m", "b": "a"}), optax.scale(-0.1)
    )
    wrapped = with_diagnostics(tx, per_leaf=per_leaf)
    g = jax.grad(loss)(params)
    update = jax.jit(lambda g, s, p: wrapped.update(g, s, p, value_fn=loss))
    start = wrapped.init(params)
    updates, state = update(g, start, params)
    expected, _ = tx.update(g, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], expected["w"], atol=1e-6)
    direct = descent_quantities(loss, params, jax.tree.map(jnp.negative, updates), per_leaf=per_leaf)
    for a, b in zip(jax.tree.leaves(state.descent), jax.tree.leaves(direct), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)
    assert jax.tree.structure(start) == jax.tree.structure(state)
    assert [x.dtype for x in jax.tree.leaves(start)] == [x.dtype for x in jax.tree.leaves(state)]


def test_wrapper_keeps_the_last_record_in_between(random_tree):
    params = random_tree({"w": (3, 4), "b": (4,)})
    tx = with_diagnostics(optax.sgd(0.1), every=3)
    update = jax.jit(lambda s, p, scale: tx.update(jax.grad(loss)(p), s, p, value_fn=lambda q: loss(q, scale)))
    state, seen = tx.init(params), []
    assert np.isnan(state.descent.slope)
    for scale in (1.0, 2.0, 3.0, 4.0):
        _, state = update(state, params, scale)
        seen.append(float(state.descent.curvature))
    assert seen[0] == seen[1] == seen[2] != seen[3]
    assert update._cache_size() == 1


def test_wrapper_says_what_it_needs(random_tree):
    params = random_tree({"w": (3, 4), "b": (4,)})
    with pytest.raises(ValueError, match="every is"):
        with_diagnostics(optax.sgd(0.1), every=0)
    tx = with_diagnostics(optax.sgd(0.1))
    with pytest.raises(ValueError, match="params is None"):
        tx.update(params, tx.init(params), value_fn=loss)
