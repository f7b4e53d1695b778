from functools import partial

import jax
import numpy as np
import optax
import pytest

from jaxspec.optim import MatrixDims, from_optax_muon_state, matrix_partition, muon, scale_by_muon

SHAPES = {
    "embedding": (12, 8),
    "block": {"up": (8, 12), "down": (12, 8), "square": (8, 8), "scale": (8,)},
    "bias": (3,),
}
JORDAN = {"engine": "newton_schulz", "schedule": "jordan"}
LIKE_OPTAX = JORDAN | {
    "adam_b2": 0.999,
    "adam_nesterov": True,
    "partition": partial(matrix_partition, exclude=()),
}


def largest_difference(a, b):
    return max(float(abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.as_users_compile
@pytest.mark.parametrize("nesterov", [True, False])
def test_jordan_muon_equals_optax_for_twenty_steps(random_tree, nesterov):
    theirs = optax.contrib.muon(0.02, weight_decay=0.1, nesterov=nesterov)
    ours = muon(0.02, weight_decay=0.1, nesterov=nesterov, **(LIKE_OPTAX | {"adam_nesterov": nesterov}))
    params = start = random_tree(SHAPES)
    states = [theirs.init(start), ours.init(start)]
    steps = [jax.jit(theirs.update), jax.jit(ours.update)]
    tracks = [params, params]
    for seed in range(1, 21):
        g = random_tree(SHAPES, seed)
        updates = []
        for i in range(2):
            update, states[i] = steps[i](g, states[i], tracks[i])
            updates.append(update)
        assert largest_difference(*updates) <= 0.02 * 1e-5
        tracks = [optax.apply_updates(p, u) for p, u in zip(tracks, updates, strict=True)]
    assert largest_difference(*tracks) <= 2e-5


def test_bare_transformation_and_shape_factor_equal_optax(random_tree):
    shapes = {"conv": (2, 2, 3, 16), "w": (8, 12)}
    g = random_tree(shapes)
    optax_dims = {"conv": optax.contrib.MuonDimensionNumbers((0, 1, 2), 3), "w": optax.contrib.MuonDimensionNumbers()}
    theirs = optax.contrib.scale_by_muon(weight_dimension_numbers=optax_dims)
    factors = {"conv": np.sqrt(16 / 12), "w": np.sqrt(12 / 8)}
    expected, _ = jax.jit(theirs.update)(g, theirs.init(g))
    for dims in (optax_dims, {"conv": MatrixDims((0, 1, 2), 3), "w": None}):
        ours = scale_by_muon(dimension_numbers=dims, **JORDAN)
        updates, _ = ours.update(g, ours.init(g))
        for name in shapes:
            np.testing.assert_allclose(updates[name], factors[name] * expected[name], atol=1e-5)


def test_default_muon_is_a_polar_factor_where_optax_is_not(random_tree):
    g = random_tree({"w": (8, 12)})
    tx = scale_by_muon(shape_scale="none")
    updates, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(np.linalg.svd(updates["w"], compute_uv=False), 1, atol=1e-2)


@pytest.mark.parametrize("learning_rate", [0.02, optax.linear_schedule(0.02, 0.0, 10)])
def test_an_optax_checkpoint_continues_in_ours(random_tree, learning_rate):
    theirs = optax.contrib.muon(learning_rate)
    ours = muon(learning_rate, **LIKE_OPTAX)
    params = random_tree(SHAPES)
    state = theirs.init(params)
    step = jax.jit(theirs.update)
    for seed in range(3):
        _, state = step(random_tree(SHAPES, seed), state, params)
    carried = from_optax_muon_state(state, ours.init(params))
    g = random_tree(SHAPES, 9)
    expected, _ = step(g, state, params)
    updates, _ = jax.jit(ours.update)(g, carried, params)
    assert largest_difference(expected, updates) <= 1e-6


def test_bare_optax_state_is_carried_too(random_tree):
    g = random_tree({"w": (4, 6)})
    dims = {"w": optax.contrib.MuonDimensionNumbers()}
    theirs = optax.contrib.scale_by_muon(weight_dimension_numbers=dims)
    _, state = jax.jit(theirs.update)(g, theirs.init(g))
    carried = from_optax_muon_state(state, scale_by_muon().init(g))
    assert int(carried.count) == 1
    np.testing.assert_array_equal(carried.mu["w"], state.mu["w"])


def test_checkpoints_that_do_not_fit_are_refused(random_tree):
    params = random_tree(SHAPES)
    with pytest.raises(ValueError, match="embedding"):
        from_optax_muon_state(optax.contrib.muon(0.1).init(params), muon(0.1).init(params))
    with pytest.raises(ValueError, match="holds 0"):
        from_optax_muon_state(optax.adam(0.1).init(params), muon(0.1).init(params))
    with pytest.raises(ValueError, match="holds 0 of: SpectralState"):
        from_optax_muon_state(optax.contrib.muon(0.1).init(params), optax.adam(0.1).init(params))
