"""Hooks on the residual stream against closed forms in float64, and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.lora import ablate, block_cotangent, block_hook, caft_hook, preventative_hook, steer

RNG = np.random.default_rng(0)
D, K = 12, 3
U = np.linalg.qr(RNG.standard_normal((D, K)))[0]
P = np.eye(D) - U @ U.T
H = RNG.standard_normal((2, 5, D)).astype(np.float32)
G = RNG.standard_normal((2, 5, D)).astype(np.float32)
BASIS = jnp.asarray(U, jnp.float32)


def pulled_back(function, h=H, g=G):
    value, back = jax.vjp(function, jnp.asarray(h))
    return value, back(jnp.asarray(g, value.dtype))[0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_block_cotangent_is_the_identity_bit_for_bit_and_projects_the_cotangent(dtype, scale):
    if dtype == jnp.float16 and scale != 1:
        scale = {1e-20: 1e-3, 1e20: 1e3}[scale]
    h, g = (jnp.asarray(x * scale, dtype) for x in (H, G))
    value, pulled = pulled_back(lambda h: block_cotangent(h, BASIS), h, g)
    assert value.dtype == pulled.dtype == dtype
    assert np.asarray(value).tobytes() == np.asarray(h).tobytes()
    expected = np.asarray(g, float) @ P
    np.testing.assert_allclose(np.asarray(pulled, float), expected, atol=4 * scale * float(jnp.finfo(dtype).eps))


def test_special_values_pass_unchanged():
    h = jnp.array([[-0.0, jnp.nan, jnp.inf, 1e-45]])
    assert np.asarray(block_cotangent(h, BASIS[:4, :1])).tobytes() == np.asarray(h).tobytes()


def test_directions_get_no_gradient():
    grad = jax.jit(jax.grad(lambda u: (block_cotangent(jnp.asarray(H), u) ** 2).sum()))(BASIS)
    assert (np.asarray(grad) == 0).all()


def test_block_cotangent_under_vmap_scan_and_remat():
    plain = pulled_back(lambda h: block_cotangent(h, BASIS))[1]
    mapped = pulled_back(jax.vmap(lambda h: block_cotangent(h, BASIS)))[1]
    np.testing.assert_allclose(mapped, plain, atol=1e-6)

    @jax.jit
    def deep(h, u):
        step = jax.checkpoint(lambda h, _: (jnp.tanh(block_cotangent(h, u)), None))
        return jax.lax.scan(step, h, length=3)[0]

    def by_hand(h, g):
        slopes = []
        for _ in range(3):
            h = np.tanh(h)
            slopes.append(1 - h**2)
        for slope in reversed(slopes):
            g = (g * slope) @ P
        return h, g

    value, pulled = pulled_back(lambda h: deep(h, BASIS))
    expected_value, expected = by_hand(H.astype(float), G.astype(float))
    np.testing.assert_allclose(value, expected_value, atol=1e-6)
    np.testing.assert_allclose(pulled, expected, atol=1e-6)


def test_ablate_projects_value_and_cotangent():
    value, pulled = pulled_back(lambda h: ablate(h, BASIS))
    np.testing.assert_allclose(value, H @ P, atol=2e-6)
    np.testing.assert_allclose(pulled, G @ P, atol=2e-6)
    np.testing.assert_allclose(ablate(value, BASIS), value, atol=2e-6)


def test_columns_that_are_not_orthonormal_span_the_same():
    mixed = jnp.asarray(U @ RNG.standard_normal((K, K)) * 1e-12)
    np.testing.assert_allclose(ablate(jnp.asarray(H), mixed), H @ P, atol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda h: ablate(h, mixed))(H), H @ P, atol=1e-5)
    with pytest.warns(UserWarning, match="3 columns of rank 2"):
        rest = ablate(jnp.asarray(H), jnp.stack([BASIS[:, 0], BASIS[:, 1], 2 * BASIS[:, 0]], axis=1))
    np.testing.assert_allclose(rest, H @ (np.eye(D) - U[:, :2] @ U[:, :2].T), atol=1e-5)


def test_no_direction_changes_nothing_and_all_directions_leave_nothing():
    assert np.asarray(ablate(jnp.asarray(H), BASIS[:, :0])).tobytes() == H.tobytes()
    np.testing.assert_allclose(ablate(jnp.asarray(H), jnp.eye(D)), 0 * H)


def test_steer_adds_and_passes_the_cotangent():
    value, pulled = pulled_back(lambda h: steer(h, BASIS[:, 0], -0.5))
    np.testing.assert_allclose(value, H - 0.5 * U[:, 0], atol=1e-6)
    np.testing.assert_array_equal(pulled, G)
    assert steer(jnp.zeros(D, jnp.bfloat16), BASIS[:, 0], 1.0).dtype == jnp.bfloat16


def test_hooks_act_at_their_points_and_sweep_without_recompilation():
    points, h = jnp.array([0.0, 1.0, 0.5]), jnp.asarray(H)
    calls = {
        "block": (block_hook(BASIS, points), lambda w: (H, G - w * G @ U @ U.T)),
        "ablate": (caft_hook(BASIS, points), lambda w: (H - w * H @ U @ U.T, G - w * G @ U @ U.T)),
        "steer": (preventative_hook(BASIS[:, 0], 3.0, points), lambda w: (H + 3 * w * U[:, 0], G)),
    }
    pull = jax.jit(lambda hook, h, point: (hook(h, point), jax.vjp(lambda h: hook(h, point), h)[1](jnp.asarray(G))[0]))
    for hook, expected in calls.values():
        for point, weight in enumerate((0.0, 1.0, 0.5)):
            for found, wanted in zip(pull(hook, h, point), expected(weight), strict=True):
                np.testing.assert_allclose(found, wanted, atol=3e-6)
    assert pull._cache_size() == 3
    pull(preventative_hook(BASIS[:, 1], -2.0, 1 - points), h, 0)
    assert pull._cache_size() == 3
    swept = jax.vmap(lambda c: preventative_hook(BASIS[:, 0], c, points)(h, 1))(jnp.arange(3.0))
    np.testing.assert_allclose(swept[2], H + 2 * U[:, 0], atol=1e-6)
    np.testing.assert_allclose(caft_hook(BASIS)(h, 7), H @ P, atol=2e-6)


def test_the_weight_of_a_point_has_finite_derivatives():
    grad = jax.grad(lambda hook: hook(jnp.asarray(H), 0).sum())(caft_hook(BASIS, jnp.zeros(2)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grad))


@pytest.mark.parametrize(
    ("directions", "error", "message"),
    [
        (jnp.ones((D + 1, 1)), ValueError, r"shape \(13, 1\); expected \(12, k\)"),
        (jnp.ones((2, D, 1)), ValueError, "expected"),
        (jnp.ones((D, D + 1)), ValueError, "k <= 12"),
        (jnp.full((D, 1), jnp.nan), ValueError, "not finite"),
        (jnp.ones((D, 1), int), TypeError, "directions has dtype int32"),
    ],
)
@pytest.mark.parametrize("hook", [block_cotangent, ablate])
def test_directions_that_cannot_be_are_refused(hook, directions, error, message):
    with pytest.raises(error, match=message):
        hook(jnp.asarray(H), directions)


def test_traced_directions_of_another_width_and_vectors_are_refused():
    with pytest.raises(ValueError, match="width of h"):
        jax.jit(ablate)(jnp.asarray(H), jnp.ones((D + 1, 1)))
    with pytest.raises(ValueError, match=r"vector has shape \(2,\)"):
        steer(jnp.asarray(H), jnp.ones(2), 1.0)
