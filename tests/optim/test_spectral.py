import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxspec.linalg import spectral_map
from jaxspec.optim import MatrixDims, SpectralState, scale_by_spectral

SHAPES = {"a": (4, 6), "b": (6, 4), "c": (4, 6), "d": (3, 3)}


def orthogonal(x):
    return spectral_map(x, jnp.ones_like)


def same(x):
    return x


def run(tx, gradients):
    state, found = tx.init(gradients[0]), []
    for g in gradients:
        updates, state = tx.update(g, state)
        found.append(updates)
    return found, state


def bare(map_fn=same, **options):
    return scale_by_spectral(map_fn, **({"normalize": "none", "shape_scale": "none"} | options))


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("bias_correction", [True, False])
def test_momentum_follows_its_definition(random_tree, nesterov, bias_correction):
    gradients = [random_tree({"w": (3, 4)}, seed) for seed in range(4)]
    updates, state = run(bare(beta=0.9, nesterov=nesterov, bias_correction=bias_correction), gradients)
    mu = 0.0
    for t, (g, update) in enumerate(zip(gradients, updates, strict=True), start=1):
        g = np.asarray(g["w"], np.float64)
        mu = 0.9 * mu + 0.1 * g
        ahead, now = (1 - 0.9 ** (t + 1), 1 - 0.9**t) if bias_correction else (1, 1)
        expected = 0.9 * mu / ahead + 0.1 * g / now if nesterov else mu / now
        np.testing.assert_allclose(update["w"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.mu["w"], mu, rtol=1e-5, atol=1e-6)
    assert int(state.count) == 4


def test_equal_shapes_share_one_call_and_equal_one_leaf_at_a_time(random_tree):
    calls = []

    def recorded(x):
        calls.append(x.shape)
        return orthogonal(x)

    gradients = random_tree(SHAPES)
    (together,), _ = run(scale_by_spectral(recorded), [gradients])
    assert sorted(calls) == [(1, 3, 3), (3, 4, 6)]
    for name, g in gradients.items():
        (alone,), _ = run(scale_by_spectral(orthogonal), [{name: g}])
        np.testing.assert_allclose(together[name], alone[name], atol=1e-6)


def test_batched_leaves_are_mapped_matrix_by_matrix(random_tree):
    dims = {"stack": MatrixDims(-2, -1), "conv": MatrixDims((0, 1, 2), 3)}
    gradients = random_tree({"stack": (5, 4, 6), "conv": (2, 2, 1, 6)})
    (updates,), _ = run(bare(orthogonal, dimension_numbers=dims), [gradients])
    for k in range(5):
        np.testing.assert_allclose(updates["stack"][k], orthogonal(gradients["stack"][k]), atol=1e-6)
    flat = orthogonal(gradients["conv"].reshape(4, 6))
    np.testing.assert_allclose(updates["conv"].reshape(4, 6), flat, atol=1e-6)


@pytest.mark.parametrize(
    ("shape_scale", "dims", "factor"),
    [
        ("keller", MatrixDims(0, 1), np.sqrt(3)),
        ("keller", MatrixDims(1, 0), 1),
        ("rms", MatrixDims(1, 0), 0.2 * np.sqrt(12)),
        ("mup", MatrixDims(0, 1), np.sqrt(3)),
        ("mup", MatrixDims(1, 0), np.sqrt(1 / 3)),
        ("none", MatrixDims(0, 1), 1),
        (lambda fan_in, fan_out: fan_in + 10 * fan_out, MatrixDims(0, 1), 124),
    ],
)
def test_shape_factor_of_fan_in_and_fan_out(random_tree, shape_scale, dims, factor):
    gradients = random_tree({"w": (4, 12)})
    tx = scale_by_spectral(same, beta=0.0, normalize="none", shape_scale=shape_scale, dimension_numbers=dims)
    (updates,), _ = run(tx, [gradients])
    np.testing.assert_allclose(updates["w"], factor * gradients["w"], rtol=1e-6)


def test_half_precision_is_computed_in_float32_and_returned_as_it_came(random_tree):
    seen = []

    def recorded(x):
        seen.append(x.dtype)
        return orthogonal(x)

    gradients = random_tree({"w": (4, 6), "v": (4, 6)}) | random_tree({"h": (4, 6)}, 1, dtype=jnp.bfloat16)
    (updates,), state = run(scale_by_spectral(recorded), [gradients])
    assert seen == [jnp.float32]
    assert {k: v.dtype for k, v in updates.items()} == {k: v.dtype for k, v in gradients.items()}
    assert state.mu["h"].dtype == jnp.bfloat16
    assert state.mu["w"].dtype == jnp.float32


def test_mu_dtype_changes_the_store_only(random_tree):
    gradients = [random_tree({"w": (4, 6)}, seed) for seed in range(5)]
    exact, _ = run(scale_by_spectral(orthogonal), gradients)
    coarse, state = run(scale_by_spectral(orthogonal, mu_dtype=jnp.bfloat16), gradients)
    assert state.mu["w"].dtype == jnp.bfloat16
    assert coarse[-1]["w"].dtype == jnp.float32
    np.testing.assert_allclose(coarse[-1]["w"], exact[-1]["w"], atol=0.05)


def test_double_precision_is_kept(x64, random_tree):
    gradients = random_tree({"w": (4, 6)}, dtype=jnp.float64)
    (updates,), state = run(bare(orthogonal, beta=jnp.float32(0.5)), [gradients])
    assert updates["w"].dtype == state.mu["w"].dtype == jnp.float64
    np.testing.assert_allclose(updates["w"] @ updates["w"].T, np.eye(4), atol=1e-13)


def test_complex_matrices_reach_the_map(random_tree):
    g = {"w": random_tree({"w": (3, 5)})["w"] + 1j * random_tree({"w": (3, 5)}, 1)["w"]}
    (updates,), state = run(scale_by_spectral(orthogonal, mu_dtype=jnp.bfloat16, shape_scale="none"), [g])
    np.testing.assert_allclose(updates["w"] @ updates["w"].conj().T, np.eye(3), atol=1e-5)
    assert state.mu["w"].dtype == jnp.complex64


def test_missing_masked_and_empty_leaves_pass_through(random_tree):
    gradients = {"w": random_tree({"w": (3, 4)})["w"], "none": None, "masked": optax.MaskedNode()}
    gradients["empty"] = jnp.zeros((0, 4))
    tx = scale_by_spectral(orthogonal)
    updates, state = tx.update(gradients, tx.init(gradients))
    assert jax.tree.structure(updates) == jax.tree.structure(gradients) == jax.tree.structure(state.mu)
    assert updates["empty"].shape == (0, 4)


def test_a_tree_without_leaves_is_fine():
    tx = scale_by_spectral(orthogonal)
    assert tx.update({}, tx.init({}))[0] == {}


def test_non_finite_gradient_stays_in_its_matrix(random_tree):
    gradients = random_tree(SHAPES)
    clean, _ = run(scale_by_spectral(orthogonal), [gradients])
    spoilt, _ = run(scale_by_spectral(orthogonal), [gradients | {"a": gradients["a"].at[0, 0].set(jnp.nan)}])
    assert bool(jnp.isnan(spoilt[0]["a"]).any())
    for name in "bcd":
        np.testing.assert_allclose(spoilt[0][name], clean[0][name], atol=1e-6)


def test_zero_gradient_gives_zero_update():
    for normalize in ("rms", "spectral", "none"):
        (updates,), _ = run(scale_by_spectral(orthogonal, normalize=normalize), [{"w": jnp.zeros((3, 4))}])
        np.testing.assert_array_equal(updates["w"], 0)


def test_state_has_one_structure_under_jit_and_scan(random_tree):
    gradients = random_tree({"w": (3, 4)}) | random_tree({"h": (4, 4)}, dtype=jnp.bfloat16)
    tx = scale_by_spectral(lambda x, keys: orthogonal(x), key=jax.random.key(0), mu_dtype=jnp.bfloat16)
    state = tx.init(gradients)
    _, after = jax.jit(tx.update)(gradients, state)
    assert isinstance(after, SpectralState)
    described = [jax.tree.map(lambda x: (x.shape, x.dtype), s) for s in (state, after)]
    assert described[0] == described[1]
    final, _ = jax.lax.scan(lambda s, _: (tx.update(gradients, s)[1], None), state, length=3)
    assert int(final.count) == 3


def test_jitted_update_equals_the_eager_one_and_compiles_once(random_tree):
    tx = scale_by_spectral(orthogonal)
    update = jax.jit(tx.update)
    state = eager = tx.init(random_tree(SHAPES))
    for seed in range(3):
        g = random_tree(SHAPES, seed)
        fast, state = update(g, state)
        slow, eager = tx.update(g, eager)
        for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(slow), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)
    assert update._cache_size() == 1


def test_transformation_vmaps_over_runs(random_tree):
    tx = scale_by_spectral(orthogonal)
    g = random_tree({"w": (3, 4, 6)})
    many, _ = jax.vmap(lambda g: tx.update(g, tx.init(g)))(g)
    one, _ = tx.update({"w": g["w"][1]}, tx.init({"w": g["w"][1]}))
    np.testing.assert_allclose(many["w"][1], one["w"], atol=2e-6)
