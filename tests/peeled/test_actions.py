"""Permutation actions, their orbits and Reynolds averages, against groups that are enumerated."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxspec.peeled import (
    PermutationAction,
    circulant_defect,
    group_defect,
    is_transitive,
    is_two_homogeneous,
    is_two_transitive,
    orbit,
    orbit_representatives,
    orbit_size,
    orbit_targets,
    orbitals,
    pair_orbit_count,
    reynolds,
)


def group(action):
    """All elements."""
    elements, frontier = {tuple(range(action.degree))}, [tuple(range(action.degree))]
    while frontier:
        fresh = {tuple(g[list(e)]) for e in frontier for g in action.generators} - elements
        elements |= fresh
        frontier = list(fresh)
    return np.array(sorted(elements))


# action -> order, transitive, 2-transitive, 2-homogeneous
FACTS = [
    (PermutationAction.trivial(3), 1, False, False, False),
    (PermutationAction.cyclic(2), 2, True, True, True),
    (PermutationAction.cyclic(3), 3, True, False, True),
    (PermutationAction.cyclic(7), 7, True, False, False),
    (PermutationAction.dihedral(7), 14, True, False, False),
    (PermutationAction.symmetric(5), 120, True, True, True),
    (PermutationAction.affine(7), 42, True, True, True),
    (PermutationAction.affine(7, [2]), 21, True, False, True),
    (PermutationAction.affine(11, [4]), 55, True, False, True),
    (PermutationAction.psl2(7), 168, True, True, True),
    (PermutationAction.psl2(2), 6, True, True, True),
    (PermutationAction.fano(), 168, True, True, True),
    (PermutationAction.product(PermutationAction.cyclic(2), PermutationAction.cyclic(3)), 6, True, False, False),
    (PermutationAction.union(PermutationAction.cyclic(3), PermutationAction.cyclic(2)), 6, False, False, False),
    (PermutationAction.symmetric(1), 1, True, True, True),
]


@pytest.mark.parametrize(("action", "order", "transitive", "doubly", "homogeneous"), FACTS)
def test_orders_and_transitivity(action, order, transitive, doubly, homogeneous):
    elements = group(action)
    assert len(elements) == order
    assert is_transitive(action) == transitive == (len(np.unique(elements[:, 0])) == action.degree)
    assert is_two_transitive(action) == doubly
    assert is_two_homogeneous(action) == homogeneous
    pairs = {
        frozenset(frozenset((int(e[i]), int(e[j]))) for e in elements)
        for i, j in itertools.combinations(range(action.degree), 2)
    }
    assert pair_orbit_count(action) == len(pairs)


def test_the_fano_plane_keeps_its_lines():
    lines = {frozenset((np.array([0, 1, 3]) + i) % 7) for i in range(7)}
    for generator in PermutationAction.fano().generators:
        assert {frozenset(generator[list(line)]) for line in lines} == lines


@pytest.mark.parametrize(
    "action", [PermutationAction.dihedral(5), PermutationAction.fano(), PermutationAction.cyclic(4)]
)
def test_orbitals_are_the_orbits_of_pairs(action):
    count, labels = orbitals(action)
    elements = group(action)
    for i, j in itertools.product(range(action.degree), repeat=2):
        same = {(int(e[i]), int(e[j])) for e in elements}
        assert set(zip(*np.nonzero(labels == labels[i, j]), strict=True)) == same
    assert sorted(set(labels.ravel())) == list(range(count))


def test_orbitals_of_tokens_and_contexts():
    """Contexts are the two-token sets, on which the group acts too."""
    tokens = PermutationAction.symmetric(4)
    sets = list(itertools.combinations(range(4), 2))
    images = [[sets.index(tuple(sorted(g[list(s)]))) for s in sets] for g in tokens.generators]
    count, labels = orbitals(tokens, PermutationAction(images))
    assert count == 2
    member = np.array([[i in s for s in sets] for i in range(4)])
    assert len(np.unique(labels[member])) == len(np.unique(labels[~member])) == 1
    with pytest.raises(ValueError, match="1 generators; expected 2"):
        orbitals(tokens, PermutationAction.cyclic(6))


@given(st.integers(0, 1000), st.sampled_from([PermutationAction.dihedral(5), PermutationAction.affine(5, [4])]))
def test_reynolds_is_the_mean_over_the_group(seed, action):
    M = np.random.default_rng(seed).standard_normal((2, 5, 5)).astype(np.float32)
    count, labels = orbitals(action)
    averaged = np.asarray(reynolds(jnp.asarray(M), labels, count))
    expected = np.mean([M[:, e][:, :, e] for e in group(action)], axis=0)
    np.testing.assert_allclose(averaged, expected, atol=1e-6)
    np.testing.assert_allclose(reynolds(jnp.asarray(averaged), labels, count), averaged, atol=1e-6)  # idempotent
    np.testing.assert_allclose(np.vdot(averaged[0], M[1]), np.vdot(M[0], averaged[1]), atol=1e-4)  # self-adjoint
    for norm in ("fro", "nuc", 2):
        assert np.linalg.norm(averaged[0], norm) <= np.linalg.norm(M[0], norm) * (1 + 1e-6)
    defect = np.linalg.norm(M[0] - expected[0]) / np.linalg.norm(M[0])
    np.testing.assert_allclose(group_defect(jnp.asarray(M[0]), labels), defect, atol=1e-6)


def test_the_cyclic_average_is_the_circulant_one():
    M = jnp.asarray(np.random.default_rng(0).standard_normal((6, 6)), jnp.float32)
    count, labels = orbitals(PermutationAction.cyclic(6))
    np.testing.assert_allclose(group_defect(M, labels, count), circulant_defect(M), rtol=1e-6)
    assert float(circulant_defect(reynolds(M, labels, count))) < 1e-6
    assert float(circulant_defect(jnp.zeros((3, 3)))) == 0


@given(st.lists(st.integers(0, 2), min_size=5, max_size=5))
def test_orbits_of_vectors(p):
    for action in (PermutationAction.symmetric(5), PermutationAction.dihedral(5)):
        images = {tuple(np.array(p)[list(e)]) for e in group(action)}
        found = orbit(p, action)
        assert {tuple(image) for image in found} == images
        assert len(found) == len(images) == orbit_size(p, action)
        assert np.array_equal(found[0], p)
        assert np.array_equal(orbit_targets(p, action), found.T)


def test_sizes_under_all_permutations_are_not_enumerated():
    assert orbit_size(np.arange(12), PermutationAction.symmetric(12)) == 479001600
    with pytest.raises(ValueError, match="more than 100 images"):
        orbit(np.arange(12), PermutationAction.symmetric(12), limit=100)


def test_representatives_of_targets_with_copies_and_rounding():
    action = PermutationAction.cyclic(5)
    rng = np.random.default_rng(0)
    first, second = rng.dirichlet(np.ones(5), 2)
    P = np.column_stack([orbit_targets(first, action), orbit_targets(second, action), orbit_targets(first, action)])
    P = P[:, rng.permutation(15)] + 1e-13 * rng.standard_normal((5, 15))
    parts = orbit_representatives(P, action)
    assert sorted(parts.size.tolist()) == [5, 10]
    np.testing.assert_allclose(np.sort(parts.mass), [1 / 3, 2 / 3])
    for column, size in zip(parts.columns.T, parts.size, strict=True):
        original = first if size == 10 else second
        assert min(np.abs(np.roll(original, k) - column).max() for k in range(5)) < 1e-12


def test_actions_are_equal_by_value():
    assert PermutationAction.cyclic(4) == PermutationAction([[1, 2, 3, 0]])
    assert len({PermutationAction.cyclic(4), PermutationAction([[1, 2, 3, 0]]), PermutationAction.cyclic(5)}) == 2
    assert PermutationAction.cyclic(4) != "cyclic"
