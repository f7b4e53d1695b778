"""Every engine against the float64 definition, within its stated error and rounding."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.linalg import polar, spectral_power
from jaxspec.linalg.dispatch import Request, plan
from tests.linalg.spectra import definition, errors, factors, geometric, matrix, split

RANK = 24
ENGINES = {
    0.25: ("svd", "recombine", "rational_gram", "rational_qr", "rational_polar", "auto"),
    0.5: ("svd", "newton_schulz", "recombine", "qdwh", "rational_gram", "auto"),
    0.75: ("svd", "recombine", "rational_gram", "rational_qr", "rational_polar", "rational_roots", "auto"),
    1.0: ("svd", "rational_polar"),
    1.3: ("svd", "rational_polar"),
    -0.3: ("svd", "rational_polar"),
}


def run(x, c, engine, **keywords):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxspec.linalg.dispatch._SMALL_RANK", 0)
        plan.cache_clear()
        return spectral_power(x, c, engine=engine, **keywords)


@pytest.mark.filterwarnings("ignore:c = .* inverts the spectrum")
@pytest.mark.parametrize("spectrum", [geometric, split])
@pytest.mark.parametrize("kappa", [1e1, 1e2, 1e3])
@pytest.mark.parametrize("c", ENGINES)
def test_engines_meet_their_tolerance_in_float32(c, kappa, spectrum):
    u, s, v = factors((RANK, 2 * RANK), spectrum(RANK, kappa))
    x = jnp.asarray(matrix(u, s, v) * 3, jnp.float32)
    for engine in ENGINES[c]:
        if kappa > 1e2 and engine in ("rational_gram", "rational_qr"):
            continue
        tol = 1e-2
        out = run(x, c, engine, tol=tol, lower=0.95 / kappa, scale="spectral")
        relative, leak = errors(out, u, s, v, definition(3 * s, c))
        rounding = 1e-7 * kappa ** max(1, 2 * c)
        assert relative < tol + (10 * rounding if engine == "svd" else 0), engine
        assert leak < 100 * rounding + 1e-5, (engine, leak)


@pytest.mark.filterwarnings("ignore:c = .* inverts the spectrum")
@pytest.mark.parametrize("c", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("kappa", [1e2, 1e5])
def test_factorising_engines_reach_full_precision_in_float64(x64, c, kappa):
    u, s, v = factors((RANK, 40), geometric(RANK, kappa))
    x = jnp.asarray(matrix(u, s, v))
    for engine in ("svd", "qdwh" if c == 0.5 else "rational_polar"):
        out = run(x, c, engine, tol=1e-8, lower=0.9 / kappa, scale="spectral")
        relative, leak = errors(out, u, s, v, definition(s, c))
        assert max(relative, leak) < 1e-8


@pytest.mark.parametrize("eps", [1e-1, 1e-2])
@pytest.mark.parametrize("c", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("shape", [(RANK, 60), (60, RANK), (RANK, RANK)])
def test_engines_compute_the_regularised_definition_also_at_deficient_rank(c, eps, shape):
    spectrum = np.where(np.arange(RANK) < 20, geometric(RANK, 1e3), 0)
    u, s, v = factors(shape, spectrum)
    x = jnp.asarray(matrix(u, s, v), jnp.float32)
    sigma = np.linalg.norm(s)
    expected = definition(s, c, eps * sigma)
    engines = ["svd", "rational_gram", "rational_polar", "recombine"]
    if c == 0.5:
        engines += ["newton_schulz", "qdwh"]
    for engine in engines:
        out = run(x, c, engine, eps=eps, tol=2e-2, lower=1e-3)
        relative, leak = errors(out, u, s, v, expected)
        assert relative < 2e-2, engine
        assert leak < 1e-3, engine


def test_regularised_map_is_a_block_of_the_augmented_one():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(RANK, 40)), jnp.float32)
    eps = 0.3
    augmented = jnp.concatenate([x, eps * jnp.eye(RANK)], axis=1)
    for c in (0.25, 0.5, 0.75):
        whole = run(augmented, c, "svd", eps=1e-6)
        part = run(x, c, "svd", eps=eps, scale=1.0)
        np.testing.assert_allclose(whole[:, :40], part, atol=3e-5)


@pytest.mark.parametrize("scale", ["frobenius", "gram", "spectral"])
@pytest.mark.parametrize("engine", ["svd", "recombine", "rational_gram", "newton_schulz", "qdwh"])
def test_floor_is_relative_to_the_chosen_scale(scale, engine):
    u, s, v = factors((RANK, 40), geometric(RANK, 1e2))
    x = jnp.asarray(matrix(u, s, v), jnp.float32)
    sigma = {"frobenius": np.linalg.norm(s), "gram": np.sum(s**4) ** 0.25, "spectral": 1.05}[scale]
    out = run(x, 0.5, engine, eps=0.05, scale=scale, tol=1e-2)
    relative, _ = errors(out, u, s, v, definition(s, 0.5, 0.05 * sigma))
    assert relative < 1e-2


@pytest.mark.parametrize("engine", ["svd", "qdwh", "newton_schulz"])
def test_a_number_for_scale_makes_the_floor_absolute(engine):
    u, s, v = factors((2, RANK, 40), geometric(RANK, 1e2))
    size = np.array([1e3, 1e-2])
    x = jnp.asarray(matrix(u, s, v) * size[:, None, None], jnp.float32)
    out = run(x, 0.5, engine, eps=0.5, scale=1.0, lower=1e-4)
    for k in range(2):
        relative, _ = errors(out[k], u[k], s[k], v[k], definition(s[k] * size[k], 0.5, 0.5))
        assert relative < 1e-3


@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("c", [0.5, 0.75])
def test_gram_iteration_equals_the_plain_one(c, gram):
    u, s, v = factors((RANK, 96), split(RANK, 1e2))
    x = jnp.asarray(matrix(u, s, v), jnp.float32)
    engine = "newton_schulz" if c == 0.5 else "recombine"
    out = run(x, c, engine, tol=2e-2, lower=9e-3, scale="spectral", gram=gram)
    relative, leak = errors(out, u, s, v, definition(s, c))
    assert relative < 2e-2
    assert leak < 5e-3


def test_planner_restarts_the_gram_iteration_where_squaring_would_show():
    request = Request(0.5, 0.0, 1e-3, 1e-2, 256, 2048, "float32", None, None, False)
    found = plan("newton_schulz", request)
    assert found.gram
    assert found.restart is not None
    u, s, v = factors((48, 384), split(48, 900))
    out = polar(jnp.asarray(matrix(u, s, v), jnp.float32), engine="newton_schulz", tol=1e-2, scale="spectral")
    relative, leak = errors(out, u, s, v, np.ones(48))
    assert max(relative, leak) < 1e-2


@pytest.mark.parametrize("c", [0.5, 0.75])
def test_bfloat16_iterations_stay_within_their_stated_error(c):
    u, s, v = factors((RANK, 40), geometric(RANK, 30))
    x = jnp.asarray(matrix(u, s, v), jnp.float32)
    engine = "newton_schulz" if c == 0.5 else "recombine"
    out = run(x, c, engine, tol=5e-2, lower=0.03, scale="spectral", dtype=jnp.bfloat16)
    relative, leak = errors(out, u, s, v, definition(s, c))
    assert relative < 5e-2
    assert leak < 5e-2
    assert out.dtype == x.dtype


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("engine", ["newton_schulz", "qdwh", "svd"])
def test_short_floats_are_promoted_and_cast_back(dtype, engine):
    u, s, v = factors((RANK, 40), geometric(RANK, 5))
    x = jnp.asarray(matrix(u, s, v), dtype)
    out = run(x, 0.5, engine, lower=1e-2)
    assert out.dtype == dtype
    reference = run(x.astype(jnp.float32), 0.5, engine, lower=1e-2)
    np.testing.assert_array_equal(out.astype(jnp.float32), reference.astype(dtype).astype(jnp.float32))


def test_oracles():
    x = jnp.diag(jnp.array([4.0, 1.0]))
    for c, value in ((0.25, 2), (2 / 3, 0.629961), (0.75, 0.5)):
        out = spectral_power(x, c, eps=1e-9)
        np.testing.assert_allclose(jnp.diagonal(out), (value, 1), rtol=1e-6)
