"""Samples, scores and margins, against NumPy loops and the laws of the embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from jaxspec.memory import Associations, hebbian, margins, sample_associations, scores

LAWS = [(model, embedding) for model in ("original", "decoupled") for embedding in ("gaussian", "sphere")]


@pytest.fixture(scope="module", params=LAWS, ids="-".join)
def drawn(request):
    model, embedding = request.param
    return sample_associations(jax.random.key(3), 9, 4, model=model, embedding=embedding)


@pytest.fixture(scope="module")
def memory():
    return jax.random.normal(jax.random.key(7), (4, 4))


def loops(W, a):
    """Scores by definition, float64."""
    W, x, y = (np.asarray(v, float) for v in (W, a.x, a.y))
    p = len(x)
    others = np.full((p, p), -np.inf)
    for mu in range(p):
        for nu in range(p):
            if mu != nu:
                value = y[nu] if a.competitors is None else np.asarray(a.competitors[mu, nu], float)
                others[mu, nu] = value @ W @ x[mu]
    return np.array([y[mu] @ W @ x[mu] for mu in range(p)]), others


def test_scores_are_those_of_the_definition(drawn, memory):
    correct, others = scores(memory, drawn)
    expected = loops(memory, drawn)
    np.testing.assert_allclose(correct, expected[0], atol=2e-6)
    np.testing.assert_allclose(others, expected[1], atol=2e-6)


@pytest.mark.parametrize("block", [None, 1, 4, 50])
def test_margins_in_blocks_are_those_of_the_definition(drawn, memory, block):
    correct, others = loops(memory, drawn)
    expected = 4 / np.linalg.norm(memory) * (correct - others.max(1))
    np.testing.assert_allclose(margins(memory, drawn, block), expected, atol=5e-6)


def test_margins_do_not_depend_on_the_scale_of_the_memory(drawn, memory):
    expected = margins(memory, drawn)
    for scale in (1e-30, 1e-20, 1e20, 1e30):
        np.testing.assert_allclose(margins(memory * scale, drawn), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(margins(0 * memory, drawn), 0)


def test_a_longer_draw_starts_with_the_shorter_one():
    for model, embedding in LAWS:
        short, long = (sample_associations(jax.random.key(3), p, 4, model=model, embedding=embedding) for p in (9, 13))
        np.testing.assert_array_equal(long.x[:9], short.x)
        np.testing.assert_array_equal(long.y[:9], short.y)
        if model == "decoupled":
            np.testing.assert_array_equal(long.competitors[:9, :9], short.competitors)


def test_embeddings_have_their_laws():
    gaussian = sample_associations(jax.random.key(0), 40, 6, model="decoupled")
    for values in gaussian[:3]:
        assert kstest(np.sqrt(6) * np.asarray(values).ravel(), "norm").pvalue > 1e-3
    sphere = sample_associations(jax.random.key(0), 40, 3, model="decoupled", embedding="sphere")
    for values in sphere[:3]:
        np.testing.assert_allclose(np.linalg.norm(values, axis=-1), 1, rtol=1e-6)
        # Archimedes: a coordinate of a uniform point of the sphere in three dimensions is uniform.
        assert kstest(np.asarray(values)[..., 0].ravel(), "uniform", (-1, 2)).pvalue > 1e-3


def test_competitors_are_fresh():
    a = sample_associations(jax.random.key(5), 12, 5, model="decoupled")
    everything = np.concatenate([np.asarray(v).reshape(-1, 5) for v in a[:3]])
    assert len(np.unique(everything, axis=0)) == 12 + 12 + 144
    assert sample_associations(jax.random.key(5), 12, 5).competitors is None


def test_rotations_of_keys_and_values_keep_scores(drawn, memory):
    u, v = (np.linalg.qr(np.random.default_rng(i).standard_normal((4, 4)))[0].astype(np.float32) for i in (0, 1))
    turned = Associations(drawn.x @ v.T, drawn.y @ u.T, None if drawn.competitors is None else drawn.competitors @ u.T)
    for got, expected in zip(scores(u @ memory @ v.T, turned), scores(memory, drawn), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_double_precision_and_integers_are_promoted(x64):
    x = jnp.arange(6).reshape(3, 2)
    assert scores(jnp.eye(2), Associations(x, x))[0].dtype == jnp.float64
    assert (
        margins(jnp.eye(2, dtype=jnp.float32), Associations(x.astype(jnp.bfloat16), x.astype(jnp.bfloat16))).dtype
        == jnp.float32
    )
    np.testing.assert_array_equal(scores(jnp.eye(2, dtype=int), Associations(x, x))[0], [1, 13, 41])


def test_transformations(drawn, memory):
    expected = margins(memory, drawn)
    np.testing.assert_allclose(jax.jit(margins)(memory, drawn), expected, atol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(margins, (0, None))(jnp.stack([memory, -memory]), drawn)[0], expected, atol=1e-6
    )
    slope = jax.grad(lambda W: margins(W, drawn).sum())(memory)
    assert abs(float(jnp.vdot(slope, memory))) < 1e-4  # homogeneous of degree 0
    assert float(jnp.linalg.norm(slope)) > 0.1


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: sample_associations(jax.random.key(0), 1, 3), "p is 1"),
        (lambda: sample_associations(jax.random.key(0), 3, 0), "d is 0"),
        (lambda: sample_associations(jax.random.key(0), 3, 3, model="paper"), "model"),
        (lambda: sample_associations(jax.random.key(0), 3, 3, embedding="cube"), "embedding"),
        (lambda: margins(jnp.eye(2), Associations(jnp.eye(2), jnp.eye(2)), 0), "block"),
        (lambda: hebbian(Associations(jnp.ones((1, 2)), jnp.ones((1, 2)))), "x has shape"),
        (lambda: hebbian(Associations(jnp.ones((3, 2)), jnp.ones((2, 2)))), "y has shape"),
        (lambda: hebbian(Associations(jnp.eye(2), jnp.eye(2), jnp.ones((2, 2, 3)))), "competitors has shape"),
        (lambda: scores(jnp.eye(3), Associations(jnp.eye(2), jnp.eye(2))), "W has shape"),
        (lambda: scores(jnp.eye(2) * jnp.nan, Associations(jnp.eye(2), jnp.eye(2))), "W holds"),
        (lambda: scores(jnp.eye(2), Associations(jnp.eye(2), jnp.eye(2) * jnp.inf)), "y holds"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()


def test_numbers_that_are_not_finite_stop_a_compiled_call(memory, drawn):
    with pytest.raises(Exception, match="x holds"):
        jax.block_until_ready(jax.jit(margins)(memory, drawn._replace(x=drawn.x.at[0, 0].set(jnp.nan))))
