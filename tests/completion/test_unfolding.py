"""Unfold and fold: permutations of the entries, inverse to each other, with the documented order."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.completion import fold, unfold

SHAPES = [(3, 4), (2, 3, 4), (2, 1, 3, 2), (2, 3, 2, 1, 2)]


def subsets(n):
    return itertools.chain.from_iterable(itertools.combinations(range(n), k) for k in range(1, n))


@pytest.mark.parametrize("shape", SHAPES)
def test_fold_undoes_unfold_for_every_subset_of_modes(shape):
    x = np.arange(math.prod(shape)).reshape(shape)
    there_and_back = jax.jit(lambda x: [fold(unfold(x, modes), modes, shape) for modes in subsets(len(shape))])
    for back in there_and_back(x):
        np.testing.assert_array_equal(back, x)


@pytest.mark.parametrize("shape", SHAPES)
def test_entry_goes_to_the_row_of_its_mode_indices_in_c_order(shape):
    x = np.arange(math.prod(shape)).reshape(shape)
    rng = np.random.default_rng(0)
    matrices = jax.jit(lambda x: [unfold(x, modes) for modes in subsets(len(shape))])(x)
    for modes, matrix in zip(subsets(len(shape)), matrices, strict=True):
        rest = [mode for mode in range(len(shape)) if mode not in modes]
        index = tuple(int(rng.integers(n)) for n in shape)
        row = np.ravel_multi_index([index[m] for m in modes], [shape[m] for m in modes])
        column = np.ravel_multi_index([index[m] for m in rest], [shape[m] for m in rest])
        assert np.asarray(matrix)[row, column] == x[index]


def test_order_of_the_row_modes_does_not_matter_and_one_mode_may_be_a_number():
    x = jnp.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(unfold(x, (2, 0)), unfold(x, (0, 2)))
    np.testing.assert_array_equal(unfold(x, 1), unfold(x, (1,)))
    np.testing.assert_array_equal(fold(unfold(x, (2, 0)), (2, 0), (2, 3, 4)), x)


@pytest.mark.parametrize("modes", [(), (0, 0), (3,), (-1,), (0, 1, 2), 3])
def test_bad_subsets_of_modes_are_named(modes):
    with pytest.raises(ValueError, match=r"modes is .*; expected some, not all, of 0\.\.2, each once"):
        unfold(jnp.zeros((2, 3, 4)), modes)
    with pytest.raises(ValueError, match=r"modes is .*; expected some, not all"):
        fold(jnp.zeros((2, 12)), modes, (2, 3, 4))


def test_fold_of_a_matrix_of_another_shape_says_what_it_expects():
    with pytest.raises(ValueError, match=r"matrix has shape \(2, 12\); expected \(3, 8\)"):
        fold(jnp.zeros((2, 12)), 1, (2, 3, 4))
