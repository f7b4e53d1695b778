"""A closed form: ``min 1/2 sum w (x - t)^2 + l1 ||x||_1 + l2 sum_rows ||x_row||_2``, the sparse group lasso."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.solvers import Block, DataTerm


def same(data, x):
    return x


def soft(data, v, step):
    y = jnp.sign(v) * jnp.maximum(jnp.abs(v) - data * step, 0)
    return y, data * jnp.sum(jnp.abs(y))


def absolute(data, y):
    return data * jnp.sum(jnp.abs(y))


def largest(data, w):
    return jnp.max(jnp.abs(w)) / data


def row_norms(y):
    return jnp.sqrt(jnp.sum(y**2, axis=-1, keepdims=True))


def soft_rows(data, v, step):
    norms = row_norms(v)
    y = v * jnp.maximum(1 - data * step / jnp.where(norms > 0, norms, 1), 0)
    return y, data * jnp.sum(row_norms(y))


def sum_of_rows(data, y):
    return data * jnp.sum(row_norms(y))


def longest_row(data, w):
    return jnp.max(row_norms(w)) / data


class SparseGroups(NamedTuple):
    """The problem for the engine, and its solution for the test."""

    target: np.ndarray
    l1: float
    l2: float

    def blocks(self, dtype=float):
        """The two norms."""
        one, l1, l2 = (jnp.asarray(number, dtype) for number in (1.0, self.l1, self.l2))
        return (
            Block(same, same, soft, absolute, largest, one, l1),
            Block(same, same, soft_rows, sum_of_rows, longest_row, one, l2),
        )

    def data_term(self, dtype=float):
        """The squares."""
        return DataTerm.quadratic(jnp.asarray(self.target, dtype), jnp.ones(self.target.shape, dtype))

    @property
    def solution(self):
        """Soft thresholding of the entries, then of the rows."""
        inner = np.sign(self.target) * np.maximum(np.abs(self.target) - self.l1, 0)
        norms = np.linalg.norm(inner, axis=-1, keepdims=True)
        return inner * np.maximum(1 - self.l2 / np.where(norms > 0, norms, 1), 0)

    @property
    def optimum(self):
        """Least value of the objective."""
        x = self.solution
        norms = self.l1 * np.abs(x).sum() + self.l2 * np.linalg.norm(x, axis=-1).sum()
        return 0.5 * np.sum((x - self.target) ** 2) + norms


@pytest.fixture(scope="session")
def sparse_groups():
    """The class of problems."""
    return SparseGroups


@pytest.fixture(scope="session")
def problem():
    """One of them, 6 rows of 4, none of whose singular points is hit."""
    return SparseGroups(np.random.default_rng(0).standard_normal((6, 4)) * 2, 0.5, 0.8)
