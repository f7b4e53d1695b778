import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.linalg import eigh, ordered
from jaxspec.linalg.decompositions import short_triangle

ALMOST_EVERYTHING = np.array([1.0, -0.0, 0.0, -3e38, 2e-38, np.inf], np.float32)


@pytest.mark.parametrize("after", [0.0, -0.0, 1.5, -2.0, np.inf, -np.inf, np.nan, 3e38])
def test_ordered_returns_the_same_bits_whatever_it_waits_for(after):
    out = jax.jit(ordered)(jnp.asarray(ALMOST_EVERYTHING), jnp.full((2, 2), after))
    np.testing.assert_array_equal(np.asarray(out).view(np.int32), ALMOST_EVERYTHING.view(np.int32))


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.complex64, jnp.bfloat16, jnp.uint8])
def test_ordered_waits_for_any_dtype_and_keeps_its_own(dtype):
    out = ordered(jnp.ones(3, jnp.bfloat16), {"a": jnp.ones((2,), dtype), "empty": jnp.zeros((0,)), "none": None})
    assert out.dtype == jnp.bfloat16
    assert bool(jnp.all(out == 1))


def test_ordered_survives_the_compiler():
    compiled = jax.jit(ordered).lower(jnp.ones(3), jnp.ones(2)).compile().as_text()
    entry = compiled[compiled.index("ENTRY") :]
    used = [line for line in entry.splitlines() if "fusion(" in line or "call(" in line or "add(" in line]
    assert any("x." in line and "after." in line for line in used), entry


def test_no_derivative_flows_into_after():
    value, tangent = jax.jvp(ordered, (jnp.ones(2), jnp.ones(3)), (jnp.full(2, 5.0), jnp.ones(3)))
    assert value.tolist() == [1.0, 1.0]
    assert tangent.tolist() == [5.0, 5.0]
    assert jax.grad(lambda a: ordered(jnp.ones(2), a).sum())(jnp.ones(3)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 5, 5), (3, 1, 1)])
def test_eigh_factors_the_symmetric_part(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    symmetric = (x + np.swapaxes(x, -1, -2)) / 2
    w, v = eigh(jnp.asarray(x), after=jnp.array(np.nan))
    np.testing.assert_allclose(np.asarray(v) * np.asarray(w)[..., None, :] @ np.asarray(v.mT), symmetric, atol=1e-5)
    np.testing.assert_allclose(w, np.linalg.eigvalsh(symmetric.astype(np.float64)), atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (2, 4, 4)])
def test_short_triangle_has_the_gram_matrix_of_the_short_side(shape):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    r = np.asarray(short_triangle(jnp.asarray(x)))
    xt = np.swapaxes(x, -1, -2)
    gram = xt @ x if shape[-2] > shape[-1] else x @ xt
    np.testing.assert_allclose(np.swapaxes(r, -1, -2) @ r, gram, atol=1e-5)


def test_matrices_that_are_not_finite_end_as_nan_and_leave_their_batch_alone(run_python):
    """LAPACK's divide and conquer loops for ever on some of them: low rank with one infinity."""
    run_python(
        """
import jax
import jax.numpy as jnp
import numpy as np
from jaxspec.linalg.decompositions import svd

rng = np.random.default_rng(0)
x = np.einsum("bik,bkj->bij", rng.standard_normal((200, 6, 2)), rng.standard_normal((200, 2, 8)))
x *= 10.0 ** rng.integers(-6, 7, (200, 1, 1))
bad = rng.random(200) < 0.9
x[bad, rng.integers(0, 6), rng.integers(0, 8)] = rng.choice([np.nan, np.inf, -np.inf], bad.sum())
u, s, vt = jax.jit(svd)(x.astype(np.float32))
for leaf in (u, s, vt):
    assert np.isnan(leaf[bad]).all() and np.isfinite(leaf[~bad]).all()
rebuilt = np.asarray((u * s[:, None]) @ vt)[~bad]
scale = np.abs(x[~bad]).max((1, 2))
assert (np.abs(rebuilt - x[~bad]).max((1, 2)) <= 1e-5 * scale).all()
grad = jax.grad(lambda x: svd(x)[1].sum())(jnp.asarray(x[:2], jnp.float32) * jnp.asarray([jnp.nan, 1.0])[:, None, None])
assert np.isnan(grad[0]).all()
""",
        timeout=60.0,
    )
