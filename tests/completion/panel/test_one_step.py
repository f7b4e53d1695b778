"""The paper's estimator: its published arithmetic on two deterministic panels, and what it must be invariant to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.completion import row_scaled_spectral

SHAPE = (12, 10)


def waves():
    i, j = np.arange(12)[:, None], np.arange(10)
    common = 0.5 * np.cos(i) * np.sin(j)
    D = (3 * i + 7 * j + i * i) % 5 < 2 + i % 2
    return np.where(D, 2 + 0.25 * i / 12 + common, 1 + common), D


@pytest.fixture(scope="module")
def fit_waves():
    with jax.enable_x64(True):
        return {rank: jax.tree.map(np.asarray, row_scaled_spectral(*waves(), rank=rank)) for rank in (1, 2)}


def test_checkerboard_has_two_equal_singular_values(x64):
    D = np.add.outer(np.arange(4), np.arange(4)) % 2 == 0
    Y = np.full((4, 4), 2.0)
    some, none = (row_scaled_spectral(Y, D, rank="gap", gap_threshold=threshold) for threshold in (1.0, 9.0))
    np.testing.assert_allclose(some.singular_values[1, :4], [8, 8, 0, 0], atol=1e-12)
    assert some.rank.tolist() == [2, 2]
    assert none.rank.tolist() == [0, 0]
    np.testing.assert_allclose(some.A1, np.where(D, 4.0, 0), atol=1e-12)


def test_singular_values_and_effects_of_the_waves(fit_waves):
    one, two = fit_waves[1], fit_waves[2]
    s0 = [12.628483, 8.836901, 4.181895, 2.825886, 1.781669]
    s1 = [25.783298, 18.883438, 8.311620, 4.962491, 4.554743]
    np.testing.assert_allclose(two.singular_values[:, :5], [s0, s1], atol=1e-6)
    tau = [0.966241, 0.938387, 1.131622, 0.646519, 1.230544, 1.084558]
    tau += [1.706595, 1.061760, 1.275842, 0.748078, 1.320350, 1.161312]
    np.testing.assert_allclose(two.tau, tau, atol=1e-6)
    np.testing.assert_allclose(one.tau[:4], [1.027866, 0.922395, 1.206625, 0.672645], atol=1e-6)
    np.testing.assert_allclose(one.tau.mean(), 1.108039, atol=1e-6)
    assert (two.iterations, bool(two.converged), two.overlap.tolist()) == (0, True, [1, 1])


def test_every_propensity_against_numpy(x64, best_approximation):
    Y, D = waves()
    observed = (np.arange(12)[:, None] + 2 * np.arange(10)) % 7 > 0
    known = 0.3 + 0.4 * (np.arange(12)[:, None] % 3) / 2 + 0 * np.arange(10)
    W = np.stack([observed & ~D, observed & D])
    shares = {
        "row": W.mean(axis=2, keepdims=True),
        "low_rank": np.stack([np.clip(best_approximation(w, 2), 0.05, 1) for w in W]),
        "known": np.stack([1 - known, known]) * observed.mean(axis=1)[:, None],
    }
    for name, phat in shares.items():
        fit = row_scaled_spectral(Y, D, rank=(1, 2), observed=observed, propensity=known if name == "known" else name)
        A = [best_approximation(w * Y / p, rank) for w, p, rank in zip(W, phat, (1, 2), strict=True)]
        np.testing.assert_allclose([fit.A0, fit.A1], A, atol=1e-10, err_msg=name)
        expected = phat[..., 0] if name == "row" else np.broadcast_to(phat, (2, 12, 10))
        np.testing.assert_allclose(fit.propensity, expected, atol=1e-12, err_msg=name)


def test_full_rank_is_the_difference_in_means(x64, make_panel):
    for n, m in ((9, 14), (14, 9)):
        Y, D, _, _ = make_panel(1, n, m)
        tau = row_scaled_spectral(Y, D, rank=min(n, m)).tau
        means = [np.where(w, Y, 0).sum(axis=1) / w.sum(axis=1) for w in (~D, D)]
        np.testing.assert_allclose(tau, means[1] - means[0], rtol=0, atol=1e-10)


def test_rank_of_the_effect_is_at_most_the_sum(fit_waves):
    assert np.linalg.matrix_rank(np.asarray(fit_waves[1].effect), tol=1e-8) == 2
    assert np.linalg.matrix_rank(np.asarray(fit_waves[2].effect), tol=1e-8) <= 4


def test_one_step_sees_only_the_scaled_matrix(x64):
    Y, D = waves()
    other = D.copy()
    # A treated and an untreated cell of a row, both with outcome 0, change places: X of either arm stays.
    for i in range(12):
        treated, untreated = np.flatnonzero(D[i])[0], np.flatnonzero(~D[i])[0]
        Y[i, [treated, untreated]] = 0
        other[i, [treated, untreated]] = False, True
    one, same = (row_scaled_spectral(Y, d, rank=2) for d in (D, other))
    np.testing.assert_array_equal(one.effect, same.effect)
    refined = [row_scaled_spectral(Y, d, rank=2, refine=2).effect for d in (D, other)]
    assert np.abs(refined[0] - refined[1]).max() > 1e-3


def test_outcomes_that_are_not_observed_do_not_matter(x64):
    Y, D = waves()
    observed = (np.arange(12)[:, None] * 3 + np.arange(10)) % 4 > 0
    fits = [
        row_scaled_spectral(np.where(observed, Y, hidden), D, rank=2, observed=observed, refine=2)
        for hidden in (0.0, np.nan, 1e30)
    ]
    for other in fits[1:]:
        np.testing.assert_array_equal(fits[0].effect, other.effect)


@pytest.mark.parametrize("refine", [0, 2])
def test_invariances(x64, refine):
    Y, D = waves()
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(12), rng.permutation(10)
    fit = row_scaled_spectral(Y, D, rank=2, refine=refine)
    permuted = row_scaled_spectral(Y[rows][:, columns], D[rows][:, columns], rank=2, refine=refine)
    np.testing.assert_allclose(permuted.effect, np.asarray(fit.effect)[rows][:, columns], atol=1e-9)
    np.testing.assert_allclose(permuted.row_rmse, np.asarray(fit.row_rmse)[rows], rtol=1e-6)
    for factor in (-3.7, 1e-20, 1e20):
        scaled = row_scaled_spectral(factor * Y, D, rank=2, refine=refine)
        np.testing.assert_allclose(scaled.tau, factor * np.asarray(fit.tau), rtol=1e-6)
    swapped = row_scaled_spectral(Y, ~D, rank=2, refine=refine)
    np.testing.assert_allclose(swapped.tau, -np.asarray(fit.tau), atol=1e-9)


def test_float32_at_extreme_sizes(make_panel):
    Y, D, _, _ = make_panel(2, 12, 10)
    Y = Y.astype(np.float32)
    fit = row_scaled_spectral(Y, D, rank=1, refine=2)
    assert fit.tau.dtype == jnp.float32
    for size in (1e-20, 1e20):
        scaled = row_scaled_spectral(Y * np.float32(size), D, rank=1, refine=2)
        np.testing.assert_allclose(scaled.tau / np.float32(size), fit.tau, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(scaled.row_rmse / np.float32(size), fit.row_rmse, rtol=1e-3)
    half = row_scaled_spectral(jnp.asarray(Y, jnp.bfloat16), D, rank=1, refine=2)
    assert half.tau.dtype == jnp.float32
    np.testing.assert_allclose(half.tau, fit.tau, atol=0.05)


def test_subspace_iteration_agrees_with_the_dense_svd(x64, make_panel, monkeypatch):
    from jaxspec.completion.panel import arms

    _, _, A0, _ = make_panel(3, 60, 40)
    X = A0 + 0.01 * np.cos(np.arange(2400.0).reshape(60, 40) ** 2)
    dense = arms.leading(jnp.asarray(X), 2).product()
    monkeypatch.setattr(arms, "CELLS_OF_A_DENSE_SVD", 0)
    iterated = arms.leading(jnp.asarray(X), 2).product()
    np.testing.assert_allclose(iterated, dense, atol=1e-8)


def test_eager_jit_and_vmap_agree(x64, make_panel):
    panels = [make_panel(seed, 12, 10)[:2] for seed in range(3)]
    Y, D = (np.stack(part) for part in zip(*panels, strict=True))

    def effects(y, d):
        return row_scaled_spectral(y, d, rank="flip", refine=2, rank_max=2)

    batched = jax.jit(jax.vmap(effects))(Y, D)
    for index, (y, d) in enumerate(panels):
        alone = effects(y, d)
        assert batched.rank[index].tolist() == alone.rank.tolist()
        np.testing.assert_allclose(batched.effect[index], alone.effect, atol=1e-9)
        np.testing.assert_allclose(batched.row_rmse[index], alone.row_rmse, rtol=1e-6)


def test_new_numbers_compile_nothing(compilations, make_panel):
    Y, D, _, _ = make_panel(4, 12, 10)
    run = lambda Y, rank, clip: row_scaled_spectral(jnp.asarray(Y), D, rank=rank, clip=clip)  # noqa: E731
    run(Y, (1, 2), 0.05)
    assert compilations(lambda: run(2 * Y, (2, 0), 0.1)) == []
