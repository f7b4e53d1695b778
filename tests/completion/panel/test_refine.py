"""The refinement: exact without noise, unbiased where the one step is not, freed by the path where cells are few."""

import warnings

import jax
import numpy as np
import pytest

from jaxspec.completion import panel_effects, row_scaled_spectral

SHAPE = (60, 50)


def worst_row(fit, A0, A1):
    return np.sqrt(((np.asarray(fit.effect) - (A1 - A0)) ** 2).mean(axis=1)).max()


def test_noiseless_panels_are_recovered_exactly(x64, make_panel):
    Y, D, A0, A1 = make_panel(0, *SHAPE, sigma=0.0)
    fit = row_scaled_spectral(Y, D, rank=2, refine=20)
    assert worst_row(fit, A0, A1) < 1e-10
    assert float(fit.sigma2.max()) < 1e-20
    assert int(fit.iterations) == 20


def test_tolerance_stops_and_says_so(x64, make_panel):
    Y, D, A0, A1 = make_panel(0, *SHAPE, sigma=0.0)
    fit = row_scaled_spectral(Y, D, rank=2, tol=1e-12)
    assert bool(fit.converged)
    assert 3 < int(fit.iterations) < 60
    assert float(fit.change.max()) < 1e-12
    assert worst_row(fit, A0, A1) < 1e-10
    short = row_scaled_spectral(Y, D, rank=2, tol=0.0, max_refine=3)
    assert (bool(short.converged), int(short.iterations)) == (False, 3)


def ridge(Z, W, basis, lam):
    floor = 4 * np.finfo(float).eps * Z.shape[1]
    normal = [(basis * w[:, None]).T @ basis + np.diag(lam + floor) for w in W]
    return np.stack([np.linalg.solve(G, basis.T @ (w * z)) for G, z, w in zip(normal, Z, W, strict=True)])


def noise(Y, W, U, V):
    n, m, r = len(U), len(V), U.shape[1]
    return (W * (Y - U @ V.T) ** 2).sum() / max(W.sum() - r * (n + m - r), 1)


def test_one_sweep_and_the_last_rows_against_numpy(x64, make_panel):
    Y, D, _, _ = make_panel(5, *SHAPE)
    fit = row_scaled_spectral(Y, D, rank=2, refine=1)
    n, m = SHAPE
    for W, A in ((~D, fit.A0), (D, fit.A1)):
        u, s, vt = np.linalg.svd(W * Y / W.mean(axis=1, keepdims=True), full_matrices=False)
        U, V = u[:, :2] * s[:2] / np.sqrt(m), vt[:2].T * np.sqrt(m)
        sig2 = noise(Y, W, U, V)
        q, t, _ = np.linalg.svd(ridge(Y, W, V, sig2 / (U**2).mean(axis=0)), full_matrices=False)
        right = ridge(Y.T, W.T, np.sqrt(n) * q, sig2 * n / t**2)
        p, s, zt = np.linalg.svd(right, full_matrices=False)
        U, V = np.sqrt(n) * q @ zt.T * s / np.sqrt(m), np.sqrt(m) * p
        U = ridge(Y, W, V, noise(Y, W, U, V) / (U**2).mean(axis=0))
        np.testing.assert_allclose(A, U @ V.T, atol=1e-9)


def test_rows_and_columns_with_too_few_cells_are_zero_and_harm_no_other(x64, make_panel):
    _, D, A0, A1 = make_panel(1, 40, 30, sigma=0.0)
    D = D.copy()
    D[0], D[1] = False, False
    D[1, 3] = True
    D[:, 2] = False
    # Scaled by 30, the one outcome of row 1 would outweigh the matrix: "auto" starts from the path.
    fit = row_scaled_spectral(np.where(D, A1, A0), D, rank=2, refine=50, start="auto")
    assert np.all(np.asarray(fit.left)[1, 0] == 0)
    assert np.all(np.asarray(fit.A1)[1:, 2] == 0)
    # A unit without a cell has no outcome in the arm; the other arm knows it.
    np.testing.assert_array_equal(np.isnan(fit.A1).all(axis=1), np.arange(40) == 0)
    assert np.all(np.isfinite(np.asarray(fit.A1)[1:]))
    assert np.all(np.isfinite(fit.A0))
    good = np.ix_(np.arange(2, 40), np.delete(np.arange(30), 2))
    np.testing.assert_allclose(np.asarray(fit.A1)[good], A1[good], atol=1e-9)
    assert np.flatnonzero(~np.asarray(fit.identified)).tolist() == [0]


def test_confounding_within_rows_is_refined_away(x64, make_panel):
    errors = {0: [], 2: []}
    for seed in range(4):
        Y, D, A0, A1 = make_panel(seed, 120, 100, design="within", low=0.15, high=0.85)
        for refine, found in errors.items():
            found.append(np.asarray(row_scaled_spectral(Y, D, rank=2, refine=refine).tau) - (A1 - A0).mean(axis=1))
    # The one step is biased like the difference in means, by design of the method; the refinement is not.
    assert 0.1 < np.mean(errors[0]) < 0.2
    assert abs(np.mean(errors[2])) < 0.025
    assert np.std(errors[2]) < 0.6 * np.std(errors[0])


@pytest.mark.parametrize("center", ["row", "two_way"])
def test_rank_zero_with_centring_is_the_fixed_effects_fit(x64, make_panel, two_way_fit, center):
    Y, D, _, _ = make_panel(3, 12, 10)
    fit = row_scaled_spectral(Y, D, rank=0, center=center, refine=2)
    for W, A in ((~D, fit.A0), (D, fit.A1)):
        means = np.where(W, Y, 0).sum(axis=1, keepdims=True) / W.sum(axis=1, keepdims=True)
        expected = two_way_fit(Y, W) if center == "two_way" else np.broadcast_to(means, Y.shape)
        np.testing.assert_allclose(A, expected, atol=1e-9)


def test_path_start_frees_a_refinement_that_is_stuck(x64, make_panel):
    stuck, free = [], []
    for seed in range(5):
        Y, D, _, A1 = make_panel(300 + seed, 30, 30, sigma=0.0, low=0.25, high=0.35)
        good = (D.sum(axis=1) > 2)[:, None] & (D.sum(axis=0) > 2)
        for start, found in (("one_step", stuck), ("path", free)):
            fit = row_scaled_spectral(Y, D, rank=2, refine=50, start=start)
            found.append(np.sqrt(((np.asarray(fit.A1) - A1)[good] ** 2).mean()))
        assert float(fit.ratio[1]) < 4
        auto = row_scaled_spectral(Y, D, rank=2, refine=50, start="auto")
        np.testing.assert_allclose(auto.A1, fit.A1, atol=1e-9)
    assert np.median(stuck) > 0.1
    assert max(free) < 1e-2


def test_auto_start_is_the_one_step_where_cells_abound(x64, make_panel):
    Y, D, _, _ = make_panel(0, 60, 50)
    fits = [row_scaled_spectral(Y, D, rank=2, refine=2, start=start) for start in ("one_step", "auto")]
    assert float(fits[0].ratio.min()) > 4
    np.testing.assert_array_equal(fits[0].effect, fits[1].effect)


def test_masked_width_does_not_change_a_rank(x64, make_panel):
    Y, D, _, _ = make_panel(6, 20, 16)
    alone, beside = (row_scaled_spectral(Y, D, rank=rank, refine=3) for rank in (2, (2, 5)))
    np.testing.assert_allclose(alone.A0, beside.A0, atol=1e-9)
    assert np.abs(beside.right[0, :, 2:]).max() == 0
    gram = np.asarray(alone.right[0]).T @ np.asarray(alone.right[0])
    np.testing.assert_allclose(gram, 16 * np.eye(2), atol=1e-9)


def test_rank_zero_predicts_zero():
    D = np.arange(6)[:, None] % 2 == np.arange(8) % 2
    fit = jax.block_until_ready(row_scaled_spectral(np.ones((6, 8)), D, rank=0, refine=2))
    assert float(np.abs(fit.tau).max()) == 0
    assert np.isinf(fit.ratio).all()


def adopted(seed, n=60, m=40):
    """Units around 20 that adopt a treatment of effect 2 earlier the larger their first factor; a quarter never do."""
    rng = np.random.default_rng(seed)
    u, v = rng.standard_normal((n, 2)), rng.standard_normal((m, 2))
    A0 = 20 + 3 * u[:, :1] + 2 * np.sin(np.arange(m) / 6) + u @ v.T
    start = np.clip(m / 2 - m / 8 * (u[:, 0] + rng.standard_normal(n)), m // 8, m - 4)
    start[: n // 4] = m
    D = np.arange(m) >= start[:, None]
    return A0 + 2.0 * D + 0.5 * rng.standard_normal((n, m)), D


def effects_and_texts(*args, **options):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = panel_effects(*args, rank=3, periods="overlap", **options)
    return found, [str(warning.message) for warning in seen if "settled" in str(warning.message)]


def test_the_default_sweeps_until_it_settles_where_two_sweeps_are_far_from_enough(x64):
    off = []
    for seed in range(3):
        Y, D = adopted(seed)
        (default, quiet), (two, loud), (finished, _) = (
            effects_and_texts(Y, D, **options) for options in ({}, {"refine": 2}, {"tol": 1e-9, "max_refine": 2000})
        )
        assert bool(default.fit.converged)
        assert int(default.fit.iterations) > 2
        assert float(default.fit.motion.max()) < 0.01
        assert quiet == []
        for name in ("att", "ate"):
            apart = abs(float(getattr(default, name) - getattr(finished, name)))
            assert apart < 0.1 * float(getattr(finished, f"{name}_se"))
        assert not bool(two.fit.converged)
        (text,) = loud
        assert "the last of 2 sweeps moved the" in text
        assert "leave out refine, or give tol" in text
        off.append(abs(float(two.att - finished.att)) / float(finished.att_se))
    assert min(off) > 1


def test_motion_is_the_step_over_the_sampling_error(x64):
    Y, D = adopted(0)
    before, after = (row_scaled_spectral(Y, D, rank=3, refine=sweeps) for sweeps in (6, 7))
    # The last row solve, which follows the sweeps, and the outer periods are left out: the two agree to their size.
    cells = np.array([(~D).sum(), D.sum()])
    d = 3 * (60 + 40 - 3)
    error = np.sqrt(np.asarray(after.sigma2) * d * D.size / cells)
    step = [np.linalg.norm(np.nan_to_num(a - b)[:, 8:36]) for a, b in ((after.A0, before.A0), (after.A1, before.A1))]
    np.testing.assert_allclose(np.log(np.asarray(after.motion) * error), np.log(step), atol=np.log(4))


def test_a_cap_that_was_met_is_told(x64):
    Y, D = adopted(0)
    found, (text,) = effects_and_texts(Y, D, max_refine=3)
    assert (bool(found.fit.converged), int(found.fit.iterations)) == (False, 3)
    assert "raise max_refine" in text
