import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec import lora

RNG = np.random.default_rng(0)
H, BEFORE = map(jnp.asarray, RNG.standard_normal((2, 3, 5, 8)).astype(np.float32))
U = np.linalg.qr(RNG.standard_normal((8, 2)))[0].astype(np.float32)


@pytest.mark.parametrize(("directions", "basis"), [(U, U), (3 * U[:, 0], U[:, :1]), (None, np.eye(8))])
def test_the_mean_square_along_directions(directions, basis):
    moved = (np.asarray(H, float) - BEFORE) @ basis
    expected = np.mean(np.sum(moved**2, axis=-1))
    np.testing.assert_allclose(lora.stream_penalty(H, BEFORE, directions), expected, rtol=1e-5)


def test_its_gradient_pulls_back_along_the_directions_and_holds_the_pretrained_stream():
    gradient, of_pretrained = jax.jit(jax.grad(lora.stream_penalty, argnums=(0, 1)))(H, BEFORE, U)
    np.testing.assert_allclose(gradient, 2 * (H - BEFORE) @ U @ U.T / 15, atol=1e-6)
    np.testing.assert_array_equal(of_pretrained, 0)


def test_half_precision_is_summed_in_single():
    found = lora.stream_penalty(H.astype(jnp.bfloat16), BEFORE.astype(jnp.bfloat16), U)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, lora.stream_penalty(H, BEFORE, U), rtol=2e-2)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"pretrained has shape \(3, 5, 7\); expected that of h, \(3, 5, 8\)"):
        lora.stream_penalty(H, BEFORE[..., 1:])
    with pytest.raises(ValueError, match="directions"):
        lora.stream_penalty(H, BEFORE, np.ones((7, 1), np.float32))
    with pytest.raises(ValueError, match="directions"):
        jax.jit(lora.stream_penalty)(H, BEFORE, np.ones((7, 1), np.float32))
