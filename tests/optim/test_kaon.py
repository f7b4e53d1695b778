import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from jaxspec.optim import MatrixDims, kaon, scale_by_kaon

SHAPES = {"a": (6, 6), "b": (6, 6)}


def iid(key=0, **options):
    options = {"normalize": "none", "shape_scale": "none", "beta": 0.0} | options
    return scale_by_kaon(jax.random.key(key), method="iid", **options)


def spectra(updates):
    return {k: np.linalg.svd(np.asarray(v, np.float64), compute_uv=False) for k, v in updates.items()}


def differ(a, b):
    return float(np.abs(a - b).min()) > 1e-6


def test_draws_differ_per_leaf_slice_and_step(random_tree):
    g = {"w": random_tree({"w": (6, 6)})["w"]}
    g = {"a": g["w"], "b": g["w"], "stack": jnp.stack([g["w"]] * 3)}
    tx = iid(dimension_numbers={"a": None, "b": None, "stack": MatrixDims(-2, -1)})
    state = tx.init(g)
    first, state = tx.update(g, state)
    second, _ = tx.update(g, state)
    found = [first["a"], first["b"], *first["stack"], second["a"], second["b"], *second["stack"]]
    found = [np.linalg.svd(x, compute_uv=False) for x in found]
    assert all(differ(found[i], found[j]) for i in range(len(found)) for j in range(i))


def test_the_same_key_gives_the_same_stream_and_another_key_another(random_tree):
    g = random_tree(SHAPES)
    once, again, other = (spectra(tx.update(g, tx.init(g))[0])["a"] for tx in (iid(0), iid(0), iid(1)))
    np.testing.assert_array_equal(once, again)
    assert differ(once, other)


def test_stream_follows_its_definition(random_tree):
    g = random_tree(SHAPES)

    updates, _ = iid(sampler=jax.random.uniform).update(g, iid().init(g))
    leaf_key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 1)
    drawn = jax.random.uniform(jax.random.split(leaf_key, 1)[0], (6,))
    np.testing.assert_allclose(spectra(updates)["b"], np.sort(drawn)[::-1], atol=1e-5)


@pytest.mark.parametrize("form", ["numpy", "msgpack"])
def test_stream_survives_a_checkpoint(random_tree, form):
    params = random_tree(SHAPES | {"bias": (3,)})
    tx = kaon(0.1, jax.random.key(5), method="iid")
    _, state = tx.update(params, tx.init(params), params)
    expected, _ = tx.update(params, state, params)
    tx = kaon(0.1, jax.random.key(99), method="iid")  # the stream is the checkpoint's, not the new object's
    fresh = tx.init(params)
    if form == "numpy":
        file = io.BytesIO()
        np.savez(file, *[np.asarray(x) for x in jax.tree.leaves(state)])
        file.seek(0)
        stored = np.load(file)
        restored = jax.tree.unflatten(jax.tree.structure(fresh), [jnp.asarray(stored[k]) for k in stored.files])
    else:
        restored = serialization.from_bytes(fresh, serialization.to_bytes(state))
    updates, _ = tx.update(params, restored, params)
    for name in SHAPES:
        np.testing.assert_array_equal(updates[name], expected[name])


@pytest.mark.parametrize("tx", [scale_by_kaon(), iid()])
def test_every_update_descends(random_tree, tx):
    g = random_tree({"w": (5, 8), "v": (8, 8)})
    state = tx.init(g)
    for _ in range(3):
        updates, state = tx.update(g, state)
        assert all(float(jnp.sum(updates[k] * g[k])) > 0 for k in g)


@pytest.mark.parametrize(("dtype", "normalize"), [(jnp.float32, "none"), (jnp.bfloat16, "rms")])
def test_rank_one_matrices_never_get_a_zero_update(random_tree, dtype, normalize):
    g = {"w": jnp.outer(random_tree({"u": (6,)})["u"], random_tree({"v": (9,)}, 1)["v"]).astype(dtype)}
    for steps in (1, 2, 3, 4, 5, 8, 13, 20):
        tx = scale_by_kaon(steps=steps, normalize=normalize, shape_scale="none")
        updates, _ = tx.update(g, tx.init(g))
        assert float(jnp.linalg.norm(updates["w"].astype(jnp.float32))) > 0.04


def test_orbit_of_one_singular_value():
    g = {"w": jnp.diag(jnp.array([3.0, 0.0]))}
    for steps, value in enumerate([0.425, 1.170, 0.652, 0.884, 0.174], start=1):
        tx = scale_by_kaon(steps=steps, normalize="none", shape_scale="none")
        updates, _ = tx.update(g, tx.init(g))
        np.testing.assert_allclose(1.175 * updates["w"][0, 0], value, atol=6e-4)


def test_singular_vectors_are_kept(random_tree):
    g = random_tree({"w": (6, 9)})
    u, _, vt = np.linalg.svd(np.asarray(g["w"], np.float64), full_matrices=False)
    for tx, tolerance in ((scale_by_kaon(), 5e-3), (iid(), 1e-4)):
        inner = u.T @ np.asarray(tx.update(g, tx.init(g))[0]["w"], np.float64) @ vt.T
        assert np.abs(inner - np.diag(np.diag(inner))).max() < tolerance
