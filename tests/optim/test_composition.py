import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxspec.optim import freon, kaon, muon, scale_by_freon, scale_by_kaon, scale_by_muon, truncated_sgd

SHAPES = {"up": (4, 6), "down": (6, 4), "bias": (6,)}
MATRICES = {"up": (4, 6), "down": (6, 4)}
OPTIMISERS = {
    "freon": lambda: freon(0.1),
    "kaon": lambda: kaon(0.1),
    "iid": lambda: kaon(0.1, jax.random.key(0), method="iid"),
    "muon": lambda: muon(0.1),
    "truncated": lambda: truncated_sgd(0.1),
}


def assert_same_trees(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **({"atol": 2e-6} | tolerance))


def test_chain_clips_before_and_scales_after(random_tree):
    g = random_tree(MATRICES)
    bare = scale_by_muon()
    chained = optax.chain(optax.clip_by_global_norm(1.0), scale_by_muon(), optax.scale(-0.5))
    expected, _ = bare.update(g, bare.init(g))
    updates, _ = chained.update(g, chained.init(g))
    assert_same_trees(updates, jax.tree.map(lambda x: -0.5 * x, expected))


def test_masked_leaves_are_untouched(random_tree):
    g = random_tree(SHAPES)
    tx = optax.masked(scale_by_freon(), {"up": True, "down": True, "bias": False})
    updates, _ = tx.update(g, tx.init(g))
    np.testing.assert_array_equal(updates["bias"], g["bias"])
    assert float(abs(updates["up"] - g["up"]).max()) > 0.1


def test_partition_gives_each_part_its_own_map(random_tree):
    g = random_tree(MATRICES)
    labels = {"up": "a", "down": "b"}
    tx = optax.partition({"a": scale_by_muon(), "b": scale_by_kaon(jax.random.key(0), method="iid")}, labels)
    updates, _ = jax.jit(tx.update)(g, tx.init(g))
    alone = scale_by_muon()
    expected, _ = alone.update({"up": g["up"]}, alone.init({"up": g["up"]}))
    np.testing.assert_allclose(updates["up"], expected["up"], atol=2e-6)


@pytest.mark.parametrize(
    ("build", "static", "options"),
    [
        (muon, ("tol",), {}),
        (freon, ("c", "eps", "tol"), {}),
        (freon, ("tol",), {"engine": "svd"}),
        (kaon, ("key", "steps", "lam", "in_scale", "sampler"), {"key": jax.random.key(0), "method": "iid"}),
    ],
)
def test_injected_hyper_parameters_act(random_tree, build, static, options):
    params = random_tree(SHAPES)
    tx = optax.inject_hyperparams(build, static_args=static)(learning_rate=0.1, **options)
    update = jax.jit(tx.update)
    state = tx.init(params)
    once, _ = update(params, state, params)
    state.hyperparams["learning_rate"] = jnp.float32(0.2)
    twice, _ = update(params, state, params)
    assert_same_trees(twice, jax.tree.map(lambda x: 2 * x, once))
    plain = build(0.1, **options)
    expected, _ = plain.update(params, plain.init(params), params)
    assert_same_trees(once, expected)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_multi_steps_updates_with_the_mean_gradient(random_tree, name):
    tx = OPTIMISERS[name]()
    params = random_tree(SHAPES)
    first, second = random_tree(SHAPES, 1), random_tree(SHAPES, 2)
    several = optax.MultiSteps(OPTIMISERS[name](), 2)
    state = several.init(params)
    update = jax.jit(several.update)
    nothing, state = update(first, state, params)
    updates, _ = update(second, state, params)
    assert_same_trees(nothing, jax.tree.map(jnp.zeros_like, params))
    expected, _ = tx.update(jax.tree.map(lambda a, b: (a + b) / 2, first, second), tx.init(params), params)
    assert_same_trees(updates, expected, atol=1e-4)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_apply_if_finite_skips_a_bad_gradient(random_tree, name):
    params = random_tree(SHAPES)
    tx = optax.apply_if_finite(OPTIMISERS[name](), 3)
    bad = params | {"up": params["up"].at[0, 0].set(jnp.inf)}
    update = jax.jit(tx.update)
    updates, state = update(bad, tx.init(params), params)
    assert_same_trees(updates, jax.tree.map(jnp.zeros_like, params))
    updates, _ = update(params, state, params)
    plain = OPTIMISERS[name]()
    expected, _ = plain.update(params, plain.init(params), params)
    assert_same_trees(updates, expected)


def test_weight_decay_is_decoupled_and_masked(random_tree):
    params, g = random_tree(SHAPES), random_tree(SHAPES, 1)
    mask = {"up": True, "down": False, "bias": True}
    plain, decayed = muon(0.1), muon(0.1, weight_decay=0.5, weight_decay_mask=mask, adam_weight_decay=0.25)
    expected, _ = plain.update(g, plain.init(params), params)
    updates, _ = decayed.update(g, decayed.init(params), params)
    np.testing.assert_allclose(updates["up"], expected["up"] - 0.05 * params["up"], atol=1e-6)
    np.testing.assert_allclose(updates["down"], expected["down"], atol=1e-6)
    np.testing.assert_allclose(updates["bias"], expected["bias"] - 0.025 * params["bias"], atol=1e-6)


def test_rest_is_adamw(random_tree):
    params, g = random_tree(SHAPES), random_tree(SHAPES, 1)
    tx, adam = freon(0.1, adam_learning_rate=0.01), optax.adamw(0.01, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0)
    updates, _ = tx.update(g, tx.init(params), params)
    expected, _ = adam.update(g, adam.init(params), params)
    np.testing.assert_allclose(updates["bias"], expected["bias"], atol=1e-7)
