import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.optim import freon, scale_by_freon, scale_by_muon


def applied(tx, g):
    return tx.update(g, tx.init(g))[0]


@pytest.mark.parametrize(
    ("c", "expected"), [(0.25, (2, 1)), (0.5, (1, 1)), (2 / 3, (0.629961, 1)), (0.75, (0.5, 1)), (1.0, (0.25, 1))]
)
def test_powers_of_a_diagonal_matrix(c, expected):
    tx = scale_by_freon(c, eps=1e-6, engine="eigh", normalize="none", shape_scale="none", beta=0.0)
    updates = applied(tx, {"w": jnp.diag(jnp.array([4.0, 1.0]))})
    np.testing.assert_allclose(jnp.diag(updates["w"]), expected, rtol=1e-5)


@pytest.mark.parametrize("normalize", ["rms", "dual", "spectral", "none"])
def test_exponent_one_half_without_floor_is_muon(random_tree, normalize):
    g = random_tree({"w": (4, 6), "v": (6, 4)})
    options = {"normalize": normalize, "shape_scale": "none", "engine": "svd"}
    ours, theirs = applied(scale_by_freon(0.5, eps=0.0, **options), g), applied(scale_by_muon(**options), g)
    for name in g:
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-6)


def test_exponent_zero_is_the_gradient_itself_up_to_size(random_tree):
    g = random_tree({"w": (4, 6)})
    updates = applied(scale_by_freon(0.0, shape_scale="none"), g)
    np.testing.assert_allclose(updates["w"], 2 * g["w"] / jnp.linalg.norm(g["w"]), rtol=1e-5)


def schatten(s, p):
    return np.sum(s**p) ** (1 / p) if np.isfinite(p) else s.max()


@pytest.mark.parametrize("c", [0.6, 0.75, 1.0])
def test_inverted_spectra_are_no_steepest_descent_of_an_invariant_norm(random_tree, c):
    g = random_tree({"w": (4, 6)})
    tx = scale_by_freon(c, eps=1e-6, engine="eigh", shape_scale="none")
    d = np.asarray(applied(tx, g)["w"], np.float64)
    u, _, vt = np.linalg.svd(np.asarray(g["w"], np.float64), full_matrices=False)
    values = np.diag(u.T @ d @ vt.T)
    better = (u * np.sort(values)[::-1]) @ vt
    for p in (1, 2, 3, np.inf):
        norms = [schatten(np.linalg.svd(x, compute_uv=False), p) for x in (d, better)]
        np.testing.assert_allclose(*norms, rtol=1e-5)
    assert np.sum(g["w"] * better) > 1.01 * np.sum(g["w"] * d) > 0


@pytest.mark.parametrize("c", [0.0, 0.25, 0.5])
def test_no_permutation_improves_a_schatten_direction(random_tree, c):
    g = random_tree({"w": (4, 6)})
    d = np.asarray(applied(scale_by_freon(c, engine="svd"), g)["w"], np.float64)
    u, _, vt = np.linalg.svd(np.asarray(g["w"], np.float64), full_matrices=False)
    values = np.diag(u.T @ d @ vt.T)
    assert np.all(np.diff(values) <= 1e-6)


def test_a_scheduled_exponent_follows_the_count(random_tree):
    g = random_tree({"w": (4, 6)})
    tx = scale_by_freon(lambda count: 0.25 * count, engine="svd", beta=0.0, normalize="dual")
    state = tx.init(g)
    update = jax.jit(tx.update)
    for c in (0.0, 0.25, 0.5):
        updates, state = update(g, state)
        expected = applied(scale_by_freon(c, engine="svd", beta=0.0, normalize="dual"), g)
        np.testing.assert_allclose(updates["w"], expected["w"], atol=1e-5)
    assert update._cache_size() == 1


def test_a_traced_exponent_needs_no_recompilation(random_tree):
    g = random_tree({"w": (4, 6)})
    step = jax.jit(lambda c: applied(scale_by_freon(c, engine="eigh"), g))
    for c in (0.5, 0.75):
        np.testing.assert_allclose(step(c)["w"], applied(scale_by_freon(c, engine="eigh"), g)["w"], atol=1e-4)
    assert step._cache_size() == 1


def test_matrix_product_engine_meets_its_tolerance(random_tree):
    g = random_tree({"w": (40, 60)})
    tx = scale_by_freon(0.75, eps=1e-2, tol=5e-2, engine="recombine", shape_scale="none", normalize="none")
    exact = scale_by_freon(0.75, eps=1e-2, engine="svd", shape_scale="none", normalize="none")
    u, _, vt = np.linalg.svd(np.asarray(g["w"], np.float64), full_matrices=False)
    found, expected = (np.diag(u.T @ np.asarray(applied(t, g)["w"], np.float64) @ vt.T) for t in (tx, exact))
    np.testing.assert_allclose(found, expected, rtol=6e-2)


def test_full_optimiser_takes_the_exponent_second(random_tree):
    params = random_tree({"w": (4, 6), "b": (6,)})
    tx = freon(0.1, 0.25)
    updates, _ = tx.update(params, tx.init(params), params)
    expected = applied(scale_by_freon(0.25), {"w": params["w"]})
    np.testing.assert_allclose(updates["w"], -0.1 * expected["w"], atol=1e-6)
