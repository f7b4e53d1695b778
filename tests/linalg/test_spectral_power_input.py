import warnings

import jax.numpy as jnp
import pytest

from jaxspec.linalg import polar, spectral_power

X = jnp.eye(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spectral_power(X, float("nan")), "c is nan"),
        (lambda: spectral_power(X, float("inf")), "c is inf"),
        (lambda: spectral_power(X, 0.5, eps=-0.1), "eps is -0.1"),
        (lambda: spectral_power(X, 0.5, tol=0.0), "tol is 0.0"),
        (lambda: spectral_power(X, 0.5, lower=0.0), "lower is 0.0"),
        (lambda: spectral_power(X, 0.5, engine="qr"), "engine is 'qr'"),
        (lambda: spectral_power(X, 0.5, scale="nuclear"), "scale is 'nuclear'"),
        (lambda: spectral_power(X, 0.5, scale=-1.0), "scale is -1.0"),
        (lambda: spectral_power(X, 0.7, engine="qdwh"), "qdwh computes the polar factor only"),
        (lambda: spectral_power(X, 0.7, engine="newton_schulz"), "newton_schulz computes the polar factor only"),
        (lambda: spectral_power(X, 1.3, engine="recombine"), r"recombine needs c in \[0, 1\]"),
        (lambda: spectral_power(X, 0.7, engine="rational_roots"), "rational_roots needs"),
        (lambda: spectral_power(X, 0.7, engine="recombine", eps=jnp.array(0.1)), "recombine needs eps as a Python"),
        (lambda: spectral_power(X, 0.7, engine="recombine", eps=0.1, scale=2.0), "recombine needs singular values"),
        (lambda: spectral_power(X, jnp.array(0.7), engine="qdwh"), "c is an array"),
        (lambda: polar(X, engine="newton_schulz", schedule="fast"), "schedule is 'fast'"),
        (lambda: polar(X, engine="newton_schulz", schedule=()), "schedule is"),
        (lambda: polar(X, engine="newton_schulz", tol=1e-7), "it attains"),
        (lambda: polar(X, engine="qdwh", tol=1e-8), "it attains"),
        (lambda: spectral_power(X, 0.75, engine="rational_gram", lower=1e-5), "it attains"),
        (lambda: spectral_power(jnp.eye(40), 0.75, tol=1e-3, lower=1e-5), "no engine meets the request"),
        (lambda: polar(X, engine="newton_schulz", tol=1e-3, dtype=jnp.bfloat16), "it attains"),
        (lambda: polar(X, engine="qdwh", dtype=jnp.bfloat16), "expected float32"),
        (
            lambda: polar(jnp.ones((2, 6)), engine="newton_schulz", tol=1e-2, lower=1e-4, gram=True),
            "gram=True would add",
        ),
    ],
)
def test_bad_values(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spectral_power(jnp.eye(3, dtype=jnp.complex64), 0.7, engine="rational"), "real floating"),
        (lambda: spectral_power(jnp.eye(3, dtype=jnp.complex64), 0.7, engine="eigh", eps=0.1), "real floating"),
    ],
)
def test_complex_where_real_is_needed(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("x", [jnp.eye(3, dtype=jnp.int32), jnp.ones(3)])
def test_integers_and_vectors_are_refused(x):
    with pytest.raises((TypeError, ValueError)):
        spectral_power(x, 0.5)


@pytest.mark.parametrize("engine", ["svd", "eigh", "auto"])
def test_inverting_without_a_floor_warns(engine):
    with pytest.warns(UserWarning, match="inverts the spectrum"):
        spectral_power(X, 0.75, engine=engine)


def test_inverting_with_a_floor_is_silent():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        spectral_power(X, 0.75, eps=1e-3)
        spectral_power(X, 0.75, engine="recombine", tol=5e-2, lower=1e-2)
        spectral_power(X, 0.5)
    assert caught == []
