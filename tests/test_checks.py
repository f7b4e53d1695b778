"""Checks of numbers, integers and entries: what passes, what is refused, and in which words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.checks import check_integers, check_numbers, finite


@pytest.mark.parametrize(
    ("bounds", "ends", "inside", "outside"),
    [
        ((), "[]", (-1e30, 0), (np.nan, np.inf)),
        ((0,), "[]", (0, 1e30), (-1, np.nan, np.inf)),
        ((0,), "()", (1e-30,), (0, np.inf)),
        ((0, 1), "()", (0.5,), (0, 1)),
        ((0, 1), "(]", (1,), (0,)),
        ((0, 1), "[)", (0,), (1,)),
    ],
)
def test_numbers_are_refused_outside_their_interval_and_at_open_ends(bounds, ends, inside, outside):
    check_numbers(*bounds, ends=ends, **{f"x{n}": value for n, value in enumerate(inside)})
    check_numbers(*bounds, ends=ends, x=jnp.asarray(inside, jnp.float32))
    for value in outside:
        with pytest.raises(ValueError, match=f"x is {value}; expected a (finite )?number"):
            check_numbers(*bounds, ends=ends, x=value)
        with pytest.raises(ValueError, match=r"x is .*; expected (finite )?numbers"):
            check_numbers(*bounds, ends=ends, x=[inside[0], value])


def test_what_is_not_known_passes():
    check_numbers(0, x=None)
    check_integers(1, n=None)
    jax.jit(lambda x: check_numbers(0, x=x))(-1.0)


def test_integers_are_integers():
    check_integers(1, n=1, m=np.int32(3))
    with pytest.raises(ValueError, match="m is 0; expected an integer >= 1"):
        check_integers(1, n=1, m=0)
    for value in (1.0, True, "2"):
        with pytest.raises(TypeError, match=f"n is {value!r}; expected an integer"):
            check_integers(0, n=value)


def test_entries_that_are_not_finite_are_refused_when_the_program_runs():
    run = jax.jit(lambda x: 2 * finite("x", x))
    np.testing.assert_array_equal(run(jnp.ones(2)), [2, 2])
    with pytest.raises(Exception, match="x holds entries that are not finite"):
        run(jnp.array([1.0, jnp.nan]))
