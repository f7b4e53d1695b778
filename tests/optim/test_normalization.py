import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.linalg import spectral_map
from jaxspec.optim import scale_by_freon, scale_by_kaon, scale_by_muon
from jaxspec.optim.normalization import Dual, adaptive, rms, spectral

EXTREMES = [1e-30, 1e-12, 1e20, 1e30]


def spectrum(x):
    return np.linalg.svd(np.asarray(x, np.float64), compute_uv=False)


def test_rms_gives_the_size_of_a_polar_factor_per_matrix(random_tree):
    y = random_tree({"y": (3, 4, 6)})["y"] * jnp.array([1e-30, 1.0, 1e30])[:, None, None]
    np.testing.assert_allclose(np.linalg.norm(rms(y, y), axis=(1, 2)), 2.0, rtol=1e-6)


def test_spectral_gives_largest_singular_value_one(random_tree):
    y = random_tree({"y": (3, 8, 12)})["y"] * jnp.array([1e-30, 1.0, 1e30])[:, None, None]
    np.testing.assert_allclose(spectrum(spectral(y, y))[:, 0], 1.0, rtol=0.03)
    rank_one = jnp.outer(jnp.arange(1.0, 4.0), jnp.ones(5))
    np.testing.assert_allclose(spectrum(spectral(rank_one, rank_one))[0], 1.0, rtol=1e-6)


@pytest.mark.parametrize("normalize", [rms, spectral, adaptive, Dual(0.5)])
def test_zero_stays_zero(normalize):
    np.testing.assert_array_equal(normalize(jnp.zeros((2, 3)), jnp.zeros((2, 3))), 0)


@pytest.mark.parametrize(
    ("q", "expected"), [(1.5, (0.961500, 0.480750)), (2 / 3, (1.181884, 1.876124)), (0.5, (1.5, 3))]
)
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_dual_is_the_gradient_of_the_schatten_norm(q, expected, scale):
    x = scale * jnp.diag(jnp.array([4.0, 1.0]))
    y = spectral_map(x, lambda s: s ** (q - 1))
    np.testing.assert_allclose(jnp.diag(Dual(q)(x, y)), expected, rtol=2e-6)


def test_dual_pairs_to_the_norm(x64, random_tree):
    x = random_tree({"x": (4, 6)}, dtype=jnp.float64)["x"]
    for q in (0.5, 2 / 3, 1.0, 1.5, 2.0):
        out = Dual(q)(x, spectral_map(x, lambda s, q=q: s ** (q - 1)))
        np.testing.assert_allclose(jnp.sum(x * out), np.sum(spectrum(x) ** q) ** (1 / q), rtol=1e-12)


@pytest.mark.parametrize(
    ("c", "expected"), [(0.25, (0.961500, 0.480750)), (2 / 3, (1.181884, 1.876124)), (0.75, (1.5, 3))]
)
def test_freon_knows_its_dual_exponent(c, expected):
    tx = scale_by_freon(c, eps=1e-6, engine="eigh", normalize="dual", shape_scale="none")
    g = {"w": jnp.diag(jnp.array([4.0, 1.0]))}
    updates, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(jnp.diag(updates["w"]), expected, rtol=1e-5)


def test_adaptive_muon_multiplies_by_the_nuclear_norm_of_each_matrix(random_tree):
    g = {"a": random_tree({"a": (4, 6)})["a"], "b": 100 * random_tree({"b": (4, 6)}, 1)["b"]}
    options = {"shape_scale": "none", "engine": "svd", "beta": 0.0}
    updates, _ = scale_by_muon(normalize=adaptive, **options).update(g, scale_by_muon().init(g))
    dual, _ = scale_by_muon(normalize="dual", **options).update(g, scale_by_muon().init(g))
    for name in g:
        np.testing.assert_allclose(spectrum(updates[name]), spectrum(g[name]).sum(), rtol=1e-5)
        np.testing.assert_allclose(spectrum(dual[name]), 1.0, rtol=1e-5)


@pytest.mark.parametrize("scale", EXTREMES)
@pytest.mark.parametrize(
    "tx",
    [
        scale_by_muon(),
        scale_by_muon(regularization=1e-2),
        scale_by_muon(engine="newton_schulz", schedule="jordan"),
        scale_by_freon(0.0),
        scale_by_freon(0.25, normalize="spectral"),
        scale_by_freon(0.75),
        scale_by_freon(0.75, normalize="dual"),
        scale_by_freon(1.0),
        scale_by_kaon(),
    ],
)
def test_updates_do_not_depend_on_the_scale_of_the_gradient(random_tree, tx, scale):
    g = random_tree({"w": (4, 6), "v": (8, 5)})
    expected, _ = tx.update(g, tx.init(g))
    scaled = {k: x * jnp.float32(scale) for k, x in g.items()}
    updates, _ = tx.update(scaled, tx.init(g))
    for name in g:
        np.testing.assert_allclose(updates[name], expected[name], rtol=1e-4, atol=1e-5)
