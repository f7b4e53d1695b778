import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxspec.linalg import chaotic_map, random_spectrum
from tests.linalg.spectra import factors, matrix

ORBIT = {0.01: 0.152582, 0.1: 0.154316, 0.3: 0.395834, 0.5: 1.170383, 0.9: 1.088228, 1.0: 0.0}


def orbit(s, steps, lam=4.1):
    for _ in range(steps):
        s = lam * s * (1 - s**2) ** 2
    return s


@pytest.mark.parametrize("value", ORBIT)
def test_orbit_oracles(x64, value):
    rest = np.sqrt(1 - value**2)
    out = chaotic_map(jnp.diag(jnp.array([value, rest])), out_scale=1.0)
    np.testing.assert_allclose(out[0, 0], ORBIT[value], atol=1e-6)


@given(
    st.sampled_from([(6, 9), (9, 6), (2, 5, 5)]), st.integers(1, 6), st.sampled_from([1.0, 1.25]), st.integers(-30, 30)
)
def test_singular_values_follow_the_orbit_at_every_scale(shape, steps, in_scale, exponent):
    u, s, v = factors(shape, np.geomspace(1, 0.1, min(shape[-2:])))
    x = jnp.asarray(matrix(u, s, v) * 10.0**exponent, jnp.float32)
    out = chaotic_map(x, steps=steps, in_scale=in_scale)
    start = s / np.linalg.norm(s, axis=-1, keepdims=True) / in_scale
    np.testing.assert_allclose(out, matrix(u, orbit(start, steps) / 1.175, v), atol=1e-6 * 4.1**steps + 1e-5)


@pytest.mark.parametrize(("steps", "bound"), [(5, 2e-5), (10, 2e-4)])
def test_float32_keeps_the_singular_vectors(steps, bound):
    u, s, v = factors((48, 96), np.geomspace(1, 1e-2, 48))
    core = u.T @ np.asarray(chaotic_map(jnp.asarray(matrix(u, s, v), jnp.float32), steps=steps), np.float64) @ v
    off = core - np.diag(np.diagonal(core))
    assert np.linalg.norm(off) / np.linalg.norm(core) < bound


def test_long_run_law():
    s = orbit(np.random.default_rng(0).uniform(0.01, 0.99, 200_000), 40) / 1.175
    np.testing.assert_allclose([s.mean(), s.std(), np.sqrt((s**2).mean())], [0.469, 0.339, 0.579], atol=4e-3)
    np.testing.assert_allclose(np.quantile(s, [0.25, 0.5, 0.75]), [0.141, 0.450, 0.782], atol=6e-3)


def test_result_is_a_descent_direction():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 9)), jnp.float32)
    assert np.all(jnp.sum(chaotic_map(x) * x, axis=(-2, -1)) > 0)
    assert np.all(jnp.sum(random_spectrum(x, jax.random.key(0)) * x, axis=(-2, -1)) > 0)


def test_rank_one_dies_without_and_survives_with_input_scale():
    one = jnp.outer(jnp.arange(1.0, 5.0), jnp.ones(6))
    assert np.abs(chaotic_map(one)).max() < 1e-3
    values = [
        float(jnp.linalg.norm(chaotic_map(one, steps=t, in_scale=1.25, out_scale=1.0))) for t in range(1, 16)
    ]  # float32 follows the orbit to about 18
    np.testing.assert_allclose(values[:5], (0.425, 1.170, 0.652, 0.884, 0.174), atol=2e-3)
    assert min(values) > 0.06
    vector = chaotic_map(jnp.ones((1, 6)), in_scale=1.25)
    assert np.all(np.isfinite(vector))
    assert np.any(vector)


def test_zero_empty_and_non_finite():
    assert not np.any(chaotic_map(jnp.zeros((3, 4))))
    assert not np.any(random_spectrum(jnp.zeros((3, 4)), jax.random.key(0)))
    assert chaotic_map(jnp.zeros((0, 4))).shape == (0, 4)
    assert random_spectrum(jnp.zeros((4, 0)), jax.random.key(0)).shape == (4, 0)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32).at[0, 0, 0].set(jnp.nan)
    for out in (chaotic_map(x), random_spectrum(x, jax.random.key(0))):
        assert not np.all(np.isfinite(out[0]))
        assert np.all(np.isfinite(out[1]))


def test_gradient_of_the_map_is_finite():
    for x in (jnp.eye(3, 4), jnp.zeros((3, 4))):
        assert np.all(np.isfinite(jax.grad(lambda y: jnp.sum(chaotic_map(y) ** 2))(x)))


@pytest.mark.parametrize("engine", ["svd", "gram"])
def test_random_values_replace_the_singular_values(engine):
    u, s, v = factors((2, 5, 8), np.linspace(1, 0.3, 5))
    x = jnp.asarray(matrix(u, s, v), jnp.float32)
    out = random_spectrum(x, jax.random.key(3), engine=engine)
    drawn = jax.random.uniform(jax.random.key(3), (2, 5))
    np.testing.assert_allclose(out, matrix(u, np.asarray(drawn), v), atol=2e-5)
    other = random_spectrum(x, jax.random.key(4), engine=engine)
    assert np.abs(out - other).max() > 0.05


def test_sampler_and_vmap_over_keys():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 6)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 3)
    out = jax.vmap(random_spectrum)(x, keys)
    for k in range(3):
        np.testing.assert_allclose(out[k], random_spectrum(x[k], keys[k]), atol=1e-5)
    signed = random_spectrum(x, keys[0], sampler=jax.random.normal)
    assert signed.shape == x.shape


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"lam": 4.3}, "lam is 4.3"),
        ({"lam": 0.0}, "lam is 0.0"),
        ({"steps": 0}, "steps is 0"),
        ({"in_scale": 0.9}, "in_scale is 0.9"),
        ({"out_scale": 0.0}, "out_scale is 0.0"),
    ],
)
def test_bad_arguments(keywords, message):
    with pytest.raises(ValueError, match=message):
        chaotic_map(jnp.eye(3), **keywords)


def test_vectors_are_refused_without_input_scale():
    with pytest.raises(ValueError, match="rank one"):
        chaotic_map(jnp.ones((1, 4)))


@pytest.mark.parametrize("x", [jnp.eye(3, dtype=jnp.int32), jnp.eye(3, dtype=jnp.complex64)])
def test_integers_and_complex_are_refused(x):
    with pytest.raises(TypeError):
        chaotic_map(x)
    with pytest.raises(TypeError):
        random_spectrum(x, jax.random.key(0))
