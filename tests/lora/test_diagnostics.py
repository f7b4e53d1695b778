"""Reliance against dense algebra in float64; fronts and volumes against counting."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxspec.lora import ablate, project_delta, reliance, tradeoff

RNG = np.random.default_rng(0)
D, M, R = 9, 14, 4
U = np.linalg.qr(RNG.standard_normal((D, 2)))[0]
BASIS = jnp.asarray(U, jnp.float32)


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape).astype(np.float32), jnp.float32)


CHANGES = {
    "o_proj": {"a": normal(2, R, M), "b": normal(2, D, R)},
    "q_proj": {"a": normal(R, D), "b": normal(M, R)},
    "square": normal(D, D),
    "other": normal(5, 6),
}
ROLES = {"o_proj": "writes", "q_proj": "reads", "square": "both", "other": "none"}
BASE = {"o_proj": normal(2, D, M), "square": normal(D, D)}


def dense(change):
    both = isinstance(change, dict)
    return np.asarray(change["b"], float) @ np.asarray(change["a"], float) if both else np.asarray(change, float)


def along(matrix, role):
    left = np.linalg.norm(U.T @ matrix, axis=(-2, -1)) if role in ("writes", "both") else 0
    right = np.linalg.norm(matrix @ U, axis=(-2, -1)) if role in ("reads", "both") else 0
    return np.hypot(left, right)


def test_reliance_is_that_of_the_dense_change():
    found = reliance(CHANGES, BASIS, ROLES, scale=-2.0, base=BASE)
    assert set(found) == {"o_proj", "q_proj", "square"}
    for module, one in found.items():
        change = -2 * dense(CHANGES[module])
        np.testing.assert_allclose(one.change, along(change, ROLES[module]), rtol=1e-5)
        np.testing.assert_allclose(
            one.share, along(change, ROLES[module]) / np.linalg.norm(change, axis=(-2, -1)), rtol=1e-5
        )
        if module in BASE:
            pretrained = along(np.asarray(BASE[module], float), ROLES[module])
            np.testing.assert_allclose(one.pretrained, pretrained, rtol=1e-5)
            np.testing.assert_allclose(one.preserved_error, along(change, ROLES[module]) / pretrained, rtol=1e-5)
        else:
            assert one.pretrained is None
            assert one.preserved_error is None


def test_a_projected_adapter_relies_on_nothing():
    factors = {module: CHANGES[module] for module in ("o_proj", "q_proj")}
    found = reliance(project_delta(factors, BASIS, ROLES), BASIS, ROLES)
    assert max(float(jnp.max(one.share)) for one in found.values()) < 1e-6


def linear_stream(weights, changes, x, *, deep):
    """Writers that are linear maps of the stream so far (deep) or of the input."""
    h = x
    for i, w in enumerate(weights):
        change = 0 if changes is None else dense(changes[f"l{i}"])
        h = h + (np.asarray(w, float) + change) @ (h if deep else x)
    return h


def test_a_linear_stream_keeps_its_coordinates_until_frozen_writers_carry_other_changes_back():
    weights = [0.3 * normal(D, D) for _ in range(4)]
    adapter = {f"l{i}": {"a": normal(R, D), "b": normal(D, R)} for i in range(4)}
    projected = project_delta(adapter, BASIS, dict.fromkeys(adapter, "writes"))
    x = RNG.standard_normal((D, 5))

    def moved(changes, deep, count=4):
        return U.T @ (
            linear_stream(weights[:count], changes, x, deep=deep) - linear_stream(weights[:count], None, x, deep=deep)
        )

    assert np.abs(moved(projected, deep=False)).max() < 1e-5
    assert np.abs(moved(adapter, deep=False)).max() > 0.1
    # One layer deep nothing reads what the projected writers changed; from the second on the frozen W_0 does.
    assert np.abs(moved(projected, deep=True, count=1)).max() < 1e-5
    assert np.abs(moved(projected, deep=True)).max() > 0.1
    h = linear_stream(weights, None, x, deep=True)
    assert np.abs(U.T @ np.asarray(ablate(jnp.asarray(h.T, jnp.float32), BASIS)).T).max() < 1e-4


@pytest.mark.parametrize("scale", [1e-20, 1e18])
def test_shares_do_not_depend_on_the_scale(scale):
    big = {"o_proj": {"a": CHANGES["o_proj"]["a"] * scale, "b": CHANGES["o_proj"]["b"] * scale}}
    shares = [reliance(changes, BASIS, ROLES)["o_proj"].share for changes in (CHANGES, big)]
    np.testing.assert_allclose(shares[1], shares[0], rtol=1e-6)


def test_zeros_have_no_share_and_no_error():
    zero = {"x": {"a": normal(R, D), "b": jnp.zeros((D, R))}}
    one = reliance(zero, BASIS, {"x": "writes"}, base={"x": jnp.zeros((D, D))})["x"]
    assert [float(value) for value in one] == [0, 0, 0, 0]
    one = reliance({"x": CHANGES["square"]}, BASIS, {"x": "writes"}, base={"x": jnp.zeros((D, D))})["x"]
    assert float(one.preserved_error) == np.inf


def test_wrong_lengths_are_named():
    with pytest.raises(ValueError, match="q_proj has in = 9"):
        reliance({"q_proj": CHANGES["q_proj"]}, BASIS[1:])
    with pytest.raises(ValueError, match=r"base of o_proj has shape \(2, 2\)"):
        reliance({"o_proj": CHANGES["o_proj"]}, BASIS, base={"o_proj": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match="none for square"):
        reliance({"square": CHANGES["square"]}, BASIS)
    with pytest.raises(ValueError, match=r"x has shape \(3,\)"):
        reliance({"x": jnp.ones(3)}, BASIS, {"x": "writes"})


GRID = 6  # shares are multiples of 1 / 6: volumes are counts of cells


def counted(rows):
    """Front and volume by looking at every pair of rows and every cell."""
    gains = [[row[0], GRID - row[1], *row[2:]] for row in rows]
    better = lambda x, y: all(a >= b for a, b in zip(x, y, strict=True)) and x != y  # noqa: E731
    front = [not any(better(other, row) for other in gains) for row in gains]
    cells = itertools.product(range(GRID), repeat=len(rows[0]))
    inside = sum(any(all(c < g for c, g in zip(cell, row, strict=True)) for row in gains) for cell in cells)
    return front, inside / GRID ** len(rows[0])


@pytest.mark.parametrize("columns", [2, 3])
def test_front_and_volume_are_those_of_counting(columns):
    compute = jax.jit(tradeoff)

    @given(st.lists(st.tuples(*[st.integers(0, GRID)] * columns), min_size=5, max_size=5))
    def check(rows):
        found = compute(jnp.asarray(rows, jnp.float32) / GRID)
        front, volume = counted([list(row) for row in rows])
        assert found.front.tolist() == front
        assert float(found.hypervolume) == pytest.approx(volume, abs=1e-6)

    check()


def test_the_reference_cuts_and_resamples_are_mapped():
    rows = jnp.array([[1.0, 0.2, 0.9], [0.5, 0.0, 1.0]])
    assert float(tradeoff(rows[:1], reference=(0.5, 0.4, 0.8)).hypervolume) == pytest.approx(0.5 * 0.2 * 0.1)
    assert float(tradeoff(rows, reference=(1.0, 0.0, 1.0)).hypervolume) == 0
    resampled = jax.vmap(lambda index: tradeoff(rows[index]).hypervolume)(jnp.array([[0, 0], [0, 1]]))
    assert float(resampled[0]) == pytest.approx(0.72)
    assert float(resampled[1]) > float(resampled[0])


@pytest.mark.parametrize(
    ("rows", "reference", "message"),
    [
        (jnp.ones((3, 4)), None, r"\(3, 4\); expected \(n, 2\)"),
        (jnp.ones((0, 3)), None, "n >= 1"),
        (jnp.ones((2, 3)), (0.0, 1.0), "3 numbers"),
        (jnp.full((2, 3), jnp.nan), None, "not finite"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(rows, reference, message):
    with pytest.raises(ValueError, match=message):
        tradeoff(rows, reference=reference)
