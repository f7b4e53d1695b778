"""Cuts and projections of adapters against NumPy in float64 on the dense change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.lora import image_directions, project_delta, scale_delta, truncate_delta

RNG = np.random.default_rng(0)
D, M, R = 9, 14, 4
U = np.linalg.qr(RNG.standard_normal((D, 2)))[0]
BASIS = jnp.asarray(U, jnp.float32)
P = np.eye(D) - U @ U.T


def normal(*shape, dtype=jnp.float32):
    return jnp.asarray(RNG.standard_normal(shape).astype(dtype), dtype)


def leaf(out, inp, r=R, batch=(), dtype=jnp.float32):
    return {"a": normal(*batch, r, inp, dtype=dtype), "b": normal(*batch, out, r, dtype=dtype)}


def dense(leaf):
    return np.asarray(leaf["b"], float) @ np.asarray(leaf["a"], float)


def cut(matrix, chosen):
    x, s, yt = np.linalg.svd(matrix, full_matrices=False)
    return (x[..., chosen] * s[..., None, chosen]) @ yt[..., chosen, :]


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize(
    ("option", "chosen"), [({"keep": 2}, slice(0, 2)), ({"drop": 1}, slice(1, R)), ({"keep": 9}, slice(0, R))]
)
def test_truncation_is_that_of_the_dense_change(batch, option, chosen):
    one = leaf(D, M, batch=batch)
    found = truncate_delta({"x": one}, **option)["x"]
    rank = len(range(R)[chosen])
    assert found["a"].shape == (*batch, rank, M)
    assert found["b"].shape == (*batch, D, rank)
    np.testing.assert_allclose(dense(found), cut(dense(one), chosen), atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(found["a"], axis=-1), np.linalg.norm(found["b"], axis=-2), rtol=1e-4)


def test_the_two_cuts_add_up_and_dropping_everything_is_zero():
    one = leaf(D, M)
    top, rest = truncate_delta({"x": one}, keep=1)["x"], truncate_delta({"x": one}, drop=1)["x"]
    np.testing.assert_allclose(dense(top) + dense(rest), dense(one), atol=2e-5)
    gone = truncate_delta({"x": one}, drop=R)["x"]
    assert gone["a"].shape == (1, M)
    assert (dense(gone) == 0).all()


@pytest.mark.parametrize(("for_a", "for_b"), [(1e-20, 1e-15), (1e20, 1e15), (1e20, 1e-20)])
def test_truncation_over_the_range_of_float32(for_a, for_b):
    one = leaf(D, M)
    big = {"a": one["a"] * jnp.float32(for_a), "b": one["b"] * jnp.float32(for_b)}
    found = truncate_delta({"x": big}, keep=2)["x"]
    np.testing.assert_allclose(dense(found) / (for_a * for_b), cut(dense(one), slice(0, 2)), atol=3e-5)


def test_truncation_of_degenerate_and_low_rank_changes():
    q = jnp.asarray(np.linalg.qr(RNG.standard_normal((D, R)))[0], jnp.float32)
    equal = truncate_delta({"x": {"a": q.T, "b": q}}, keep=2)["x"]
    np.testing.assert_allclose(np.linalg.svd(dense(equal))[1], [1, 1] + [0] * (D - 2), atol=1e-5)
    same = {"a": jnp.ones((R, M)), "b": jnp.ones((D, R))}
    np.testing.assert_allclose(dense(truncate_delta({"x": same}, keep=1)["x"]), dense(same), rtol=1e-5)
    assert (dense(truncate_delta({"x": {"a": normal(R, M), "b": jnp.zeros((D, R))}}, keep=2)["x"]) == 0).all()
    wide = leaf(3, M)  # a rank above the short side
    np.testing.assert_allclose(
        dense(truncate_delta({"x": wide}, keep=2)["x"]), cut(dense(wide), slice(0, 2)), atol=2e-5
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_computed_in_float32(dtype):
    one = leaf(D, M, dtype=dtype)
    found = truncate_delta({"x": one}, keep=2)["x"]
    assert found["a"].dtype == found["b"].dtype == dtype
    np.testing.assert_allclose(dense(found), cut(dense(one), slice(0, 2)), atol=0.1)


ADAPTER = {"o_proj": leaf(D, M), "q_proj": leaf(M, D, batch=(2,)), "square": leaf(D, D), "other": leaf(5, 6)}
ROLES = {"o_proj": "writes", "q_proj": "reads", "square": "both", "other": "none"}


def test_projection_takes_the_side_that_the_role_names():
    found = project_delta(ADAPTER, BASIS, ROLES)
    before = {module: dense(one) for module, one in ADAPTER.items()}
    after = {module: dense(one) for module, one in found.items()}
    np.testing.assert_allclose(after["o_proj"], P @ before["o_proj"], atol=1e-5)
    np.testing.assert_allclose(after["q_proj"], before["q_proj"] @ P, atol=1e-5)
    np.testing.assert_allclose(after["square"], P @ before["square"] @ P, atol=1e-5)
    np.testing.assert_array_equal(after["other"], before["other"])
    np.testing.assert_allclose(np.abs(U.T @ after["o_proj"]).max(), 0, atol=1e-5)
    again = project_delta(found, BASIS, ROLES)
    np.testing.assert_allclose(dense(again["square"]), after["square"], atol=1e-5)


def test_projection_does_not_depend_on_the_basis_of_the_directions():
    turned = BASIS @ jnp.asarray([[0.6, 0.8], [-0.8, 0.6]], jnp.float32)
    first, second = (project_delta(ADAPTER, u, ROLES)["o_proj"]["b"] for u in (BASIS, 5 * turned))
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_modules_may_have_directions_of_their_own():
    own = normal(5, 1)
    found = project_delta(ADAPTER, {"other": own}, {**ROLES, "other": "writes"})
    for module in ("o_proj", "q_proj", "square"):
        np.testing.assert_array_equal(dense(found[module]), dense(ADAPTER[module]))
    assert np.abs(dense(found["other"]).T @ np.asarray(own, float)).max() < 1e-5 * np.abs(own).max()


def test_scaling_multiplies_the_change():
    found = scale_delta(ADAPTER, dict.fromkeys(ADAPTER, -0.5))
    np.testing.assert_allclose(dense(found["q_proj"]), -0.5 * dense(ADAPTER["q_proj"]), rtol=1e-6)
    swept = jax.vmap(lambda c: scale_delta({"x": ADAPTER["o_proj"]}, c)["x"]["b"])(jnp.arange(3.0))
    np.testing.assert_allclose(swept[2], 2 * ADAPTER["o_proj"]["b"])


def test_an_adapter_off_the_images_cannot_imitate_or_feed_the_directions():
    reader, writer = normal(M, D), normal(D, M)
    q = image_directions(reader, BASIS, writer)
    assert q.shape == (M, 4)
    found = project_delta({"up": leaf(M, D)}, {"up": q}, lambda path: "writes")["up"]
    np.testing.assert_allclose(
        np.asarray(writer, float).T @ U, np.asarray(q) @ (np.asarray(q).T @ np.asarray(writer).T @ U), atol=1e-5
    )
    assert np.abs(U.T @ np.asarray(writer, float) @ dense(found)).max() < 1e-4  # nothing is written along U
    assert np.abs((np.asarray(reader, float) @ U).T @ dense(found)).max() < 1e-4
    assert image_directions(reader, BASIS).shape == (M, 2)


def test_a_sweep_of_numbers_compiles_once():
    step = jax.jit(lambda adapter, u: project_delta(adapter, u, ROLES))
    step(ADAPTER, BASIS)
    step(scale_delta(ADAPTER, 2.0), jnp.roll(BASIS, 1, axis=0))
    assert step._cache_size() == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: truncate_delta(ADAPTER), "exactly one"),
        (lambda: truncate_delta(ADAPTER, keep=1, drop=1), "exactly one"),
        (lambda: truncate_delta(ADAPTER, keep=0), "keep >= 1"),
        (lambda: truncate_delta(ADAPTER, drop=-1), "drop >= 0"),
        (lambda: truncate_delta({"x": {"a": normal(2, 3)}}, keep=1), "'a' and 'b'"),
        (lambda: truncate_delta({"x": {**leaf(2, 3), "magnitude": jnp.ones(2)}}, keep=1), "DoRA"),
        (
            lambda: truncate_delta({"x": {"a": normal(1, 3), "b": jnp.full((2, 1), jnp.nan)}}, keep=1),
            "x has entries in b",
        ),
        (lambda: project_delta(ADAPTER, BASIS), "none for square, other"),
        (lambda: project_delta(ADAPTER, BASIS[1:], ROLES), r"o_proj has out = 9; directions of shape \(8, 2\)"),
        (lambda: project_delta({"q": leaf(D, M)}, BASIS, {"q": "reads"}), "q has in = 14"),
        (lambda: project_delta(ADAPTER, BASIS, dict.fromkeys(ADAPTER, "none")), "select no module"),
        (lambda: project_delta(ADAPTER, {"absent": BASIS}, ROLES), "names absent"),
        (lambda: image_directions(normal(M, D), BASIS, normal(M, D)), "that of the reader turned"),
        (lambda: image_directions(normal(1, D), BASIS), "2 images in a space of 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
