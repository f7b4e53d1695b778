import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxspec.linalg import spectral_map
from jaxspec.linalg.scaling import compute_dtype, power_of_two_scale, safe_divide

SMALLEST, LARGEST = 2.0**-126, float(np.finfo(np.float32).max)


@given(st.floats(SMALLEST, LARGEST, width=32))
def test_scale_is_the_power_of_two_at_or_below_the_largest_magnitude(magnitude):
    scale = float(power_of_two_scale(jnp.array([[0.0, -magnitude]], jnp.float32)))
    assert scale == min(2.0 ** (np.frexp(np.float32(magnitude))[1] - 1), 2.0**126)


def test_scale_is_exact_in_float64(x64):
    for exponent in (-1022, -700, -1, 0, 1, 555, 1022):
        x = jnp.array([[1.75 * 2.0**exponent]])
        assert float(power_of_two_scale(x)) == 2.0**exponent


@pytest.mark.parametrize("bad", [0.0, np.inf, np.nan, 1e-42])
def test_scale_is_one_where_there_is_nothing_to_scale_by(bad):
    assert float(power_of_two_scale(jnp.array([[bad, 0.0]], jnp.float32))) == 1.0


def test_scale_reduces_over_the_named_axes():
    x = jnp.array([[[1.0, 3.0]], [[-9.0, 0.0]]])
    np.testing.assert_array_equal(power_of_two_scale(x), [2.0, 8.0])
    assert power_of_two_scale(x, keepdims=True).shape == (2, 1, 1)
    assert float(power_of_two_scale(x, axis=None)) == 8.0
    assert float(power_of_two_scale(jnp.zeros((0, 3)))) == 1.0


def test_no_derivative_flows_through_the_scale():
    assert jax.grad(lambda x: power_of_two_scale(x))(jnp.ones((2, 2))).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_half_precision_is_promoted_and_other_types_are_named_in_the_error():
    assert compute_dtype(jnp.ones(2, jnp.bfloat16)) == jnp.float32
    assert compute_dtype(jnp.ones(2, jnp.float16)) == jnp.float32
    assert compute_dtype(jnp.ones(2, jnp.complex64), allow_complex=True) == jnp.complex64
    with pytest.raises(TypeError, match="tensor has dtype int32"):
        compute_dtype(jnp.ones(2, jnp.int32), "tensor")
    with pytest.raises(TypeError, match="complex"):
        compute_dtype(jnp.ones(2, jnp.complex64))


def test_engine_switch_stays_a_branch_under_vmap():
    def shrink(x, threshold):
        return spectral_map(x, lambda s: jnp.maximum(s - threshold, 0), engine="auto", floor=threshold)

    x, thresholds = jnp.ones((5, 3, 4)), jnp.ones(5)
    text = str(jax.make_jaxpr(jax.vmap(shrink))(x, thresholds))
    # rescaled Gram matrix, engine, rescaled product
    assert text.count("cond[") == str(jax.make_jaxpr(shrink)(x[0], 1.0)).count("cond[") == 3


def test_a_guarded_quotient_and_its_derivatives_are_finite():
    x, y = jnp.array([1.0, 0.0, 2.0, 3.0]), jnp.array([0.0, 0.0, -1.0, 2.0])
    np.testing.assert_array_equal(safe_divide(x, y), [0, 0, 0, 1.5])
    np.testing.assert_array_equal(safe_divide(x, y, jnp.inf), [np.inf, np.inf, np.inf, 1.5])
    np.testing.assert_array_equal(safe_divide(1, y, 5 * x), [5, 0, 10, 0.5])
    by_x, by_y = jax.grad(lambda x, y: jnp.sum(safe_divide(x, y)), (0, 1))(x, y)
    np.testing.assert_array_equal(by_x, [0, 0, 0, 0.5])
    np.testing.assert_array_equal(by_y, [0, 0, 0, -0.75])
