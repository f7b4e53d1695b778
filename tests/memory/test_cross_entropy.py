"""Training by softmax cross-entropy: its first step in closed form, its loss and accuracy by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from jaxspec.memory import Associations, fit_cross_entropy, margins, sample_associations

LAWS = [(model, embedding) for model in ("original", "decoupled") for embedding in ("gaussian", "sphere")]


def first_gradient(a):
    """Of the cross-entropy at W = 0, by definition."""
    x, y = (np.asarray(v, float) for v in (a.x, a.y))
    p = len(x)
    total = np.zeros((x.shape[1],) * 2)
    for mu in range(p):
        rows = y.copy() if a.competitors is None else np.asarray(a.competitors[mu], float).copy()
        rows[mu] = y[mu]
        total -= np.outer(y[mu] - rows.mean(axis=0), x[mu])
    return total / p


@pytest.mark.parametrize(("model", "embedding"), LAWS)
def test_the_first_step_is_the_sign_of_the_gradient(model, embedding):
    a = sample_associations(jax.random.key(1), 7, 4, model=model, embedding=embedding)
    found = fit_cross_entropy(a, steps=1)
    np.testing.assert_allclose(found.W, -np.sign(first_gradient(a)), atol=1e-4)


def test_loss_accuracy_and_margin_are_those_of_numpy():
    a = sample_associations(jax.random.key(2), 30, 5, embedding="sphere")
    found = fit_cross_entropy(a, steps=1, learning_rate=0.3)
    recalled = np.asarray(margins(found.W, a)) > 0
    assert 0 < recalled.mean() < 1
    assert float(found.accuracy) == pytest.approx(recalled.mean())
    assert float(found.margin) == pytest.approx(float(margins(found.W, a).min()), abs=1e-5)
    S = np.asarray(a.x, float) @ (0.3 * np.asarray(found.W, float)).T @ np.asarray(a.y, float).T
    assert float(found.loss) == pytest.approx(np.mean(logsumexp(S, axis=1) - np.diagonal(S)), rel=1e-4)


def test_training_recalls_what_is_easy_and_lowers_the_loss():
    a = sample_associations(jax.random.key(3), 8, 8, embedding="sphere")
    found = [fit_cross_entropy(a, steps=steps) for steps in (1, 200)]
    assert float(found[1].loss) < 0.1 * float(found[0].loss)
    assert float(found[1].accuracy) == 1
    assert float(found[1].margin) > 0
    assert float(jnp.linalg.norm(found[1].W)) == pytest.approx(8, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scales_do_not_matter(scale):
    a = sample_associations(jax.random.key(3), 8, 8, embedding="sphere")
    powers = 2.0 ** np.round(np.log2(scale))
    expected, got = (fit_cross_entropy(one, steps=20) for one in (a, a._replace(x=a.x * powers, y=a.y * powers)))
    np.testing.assert_allclose(got.W, expected.W, atol=1e-5)
    assert float(got.loss) == pytest.approx(float(expected.loss), rel=1e-5)
    assert float(got.margin) == pytest.approx(float(expected.margin) * powers**2, rel=1e-4)


def test_leading_pairs_count_alone():
    a = sample_associations(jax.random.key(4), 12, 5)
    short = Associations(a.x[:7], a.y[:7])
    for got, expected in zip(fit_cross_entropy(a, n=7, steps=20), fit_cross_entropy(short, steps=20), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_numbers_that_are_not_finite():
    a = Associations(jnp.eye(3).at[0, 0].set(jnp.nan), jnp.eye(3))
    with pytest.raises(ValueError, match="x holds"):
        fit_cross_entropy(a)
    found = jax.jit(lambda a: fit_cross_entropy(a, steps=3))(a)
    assert (float(found.accuracy), float(found.loss), float(found.margin)) == (0, np.inf, -np.inf)
    np.testing.assert_array_equal(found.W, 0)


@pytest.mark.parametrize(
    ("options", "name"), [({"steps": 0}, "steps"), ({"learning_rate": -1.0}, "learning_rate"), ({"n": 1}, "n is 1")]
)
def test_bad_input_is_named(options, name):
    with pytest.raises(ValueError, match=name):
        fit_cross_entropy(Associations(jnp.eye(3), jnp.eye(3)), **options)
