"""Deep linear networks against the specification's oracles, closed forms, and their own symmetries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.dmft import LinearConfig, Link, connect, escape_time, outliers, solve_linear
from jaxspec.dmft.fields import remembered

TIMES = np.array([0, 1, 2, 5, 10, 20])
UPDATES = jnp.array([2, 3, 4, 6, 10, 20])
NAN = np.nan
ROWS = [
    (
        LinearConfig(1, 2.0, 3.0, 4.0, 0.1, 0.5, 0.2),
        [0.523906, 0.431676, 0.341613, 0.109397, 0.041813, 0.030299],
        [0.523906, 0.401036, 0.287366, 0.054819, 0.018197, 0.013609],
        [[1.73159, 2.01290, 2.33220, 2.64222, 2.80322, 2.88699]],
    ),
    (
        LinearConfig(2, 1.0, 3.0, 3.0, 0.08, 0.5),
        [0.506944, 0.450609, 0.397931, 0.173381, 0.031756, 0.002484],
        [0.506944, 0.432231, 0.363501, 0.106137, 0.011523, 0.000657],
        [[NAN, NAN, NAN, 1.47782, 1.52200, 1.54391], [NAN, NAN, 1.41461, 1.49953, 1.55920, 1.58946]],
    ),
    (
        LinearConfig(1, 2.0, None, 4.0, 0.1, 0.5),
        [0.503906, 0.409755, 0.316604, 0.029155, 0.000043, 0.000000],
        None,
        [[1.70803, 1.91743, 2.26684, 2.77944, 2.88372, 2.88418]],
    ),
    (
        LinearConfig(1, 2.0, None, 4.0, 0.1, 0.5, param="ntk"),
        [0.507812, 0.412759, 0.329727, 0.088493, 0.000967, 0.000001],
        None,
        [[NAN, 1.71179, 1.82732, 2.16540, 2.43022, 2.44859]],
    ),
    (
        LinearConfig(2, 2.0, None, 3.0, 0.08, 0.5),
        [0.503472, 0.445931, 0.388172, 0.109227, 0.000352, 0.000000],
        None,
        [[NAN, NAN, 1.72357, 1.98616, 2.08808, 2.08725], [NAN, NAN, NAN, 1.54200, 1.61371, 1.61471]],
    ),
]


@pytest.fixture(scope="module")
def solutions():
    with jax.enable_x64(True):
        return [solve_linear(row[0], 20) for row in ROWS]


@jax.jit
def largest(fields, t):
    return jax.vmap(lambda t: outliers(fields, t, 1).values[0])(t)


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_oracles_of_the_specification(solutions, row):
    _, test, train, spectra = ROWS[row]
    solution = solutions[row]
    np.testing.assert_allclose(np.asarray(solution.test)[TIMES], test, atol=6e-7)
    assert (solution.train is None) == (train is None)
    if train is not None:
        np.testing.assert_allclose(np.asarray(solution.train)[TIMES], train, atol=6e-7)
    for fields, expected in zip(solution.layers, spectra, strict=True):
        np.testing.assert_allclose(largest(fields, UPDATES), expected, atol=6e-6)


def test_one_update_has_the_closed_form_of_the_specification(solutions):
    fields = solutions[0].layers[0]
    c = float(fields.coeff[0])
    left, right, a, b = (float(m[0, 0]) for m in (fields.C_left, fields.C_right, fields.A, fields.B))
    assert a == pytest.approx(-0.0883883, abs=6e-8)  # the response that a careless derivation drops
    assert c**2 * left * right + 2 * c * (a * left + b * right) == pytest.approx(0.167133, abs=6e-7)
    assert np.isnan(outliers(fields, 1, 1).values[0])


def test_independent_spikes_are_the_wrong_answer(solutions):
    """The specification's values, and theirs of k x k matrices: each theta gives one outlier by itself."""
    fields = solutions[0].layers[0].independent()
    found = largest(fields, UPDATES)
    np.testing.assert_allclose(found, [1.7080, 1.8613, 2.1073, 2.3948, 2.5687, 2.6627], atol=6e-5)
    for t, value in zip(UPDATES, found, strict=True):
        left, right, m = fields.C_left[:t, :t], fields.C_right[:t, :t], np.diag(fields.coeff[:t])
        theta2 = np.max(np.linalg.eigvals(left @ m @ right @ m).real)
        np.testing.assert_allclose(value, np.sqrt((theta2 + 0.5) * (theta2 + 1.0) / theta2), rtol=1e-9)
    assert largest(solutions[1].layers[1].independent(), UPDATES)[-1] == pytest.approx(1.4280, abs=6e-5)


def test_overlaps_of_the_specification(solutions):
    shown = np.array([0, 3, 6, 11])
    expected = [
        ([0.4434, 0.8766, 0.8974, 0.8855], [0.8353, 0.8210, 0.4361, 0.1251]),
        ([0.6170, 0.8267, 0.8814, 0.8900], [0.5664, 0.8149, 0.6010, 0.3920]),
    ]
    for fields, (left, right) in zip(solutions[1].layers, expected, strict=True):
        found = outliers(fields, 12, 1)
        cosines = found.overlaps_left[0] / jnp.sqrt(jnp.diag(fields.C_left))
        np.testing.assert_allclose(cosines[shown], left, atol=6e-5)
        cosines = found.overlaps_right[0] / jnp.sqrt(jnp.diag(fields.C_right))
        np.testing.assert_allclose(cosines[shown], right, atol=6e-5)


def test_start_and_first_update_have_closed_forms():
    for param in ("mup", "ntk"):
        for depth in (1, 3):
            nu, gamma0, sigma2, noise = 2.0, 1.5, 0.6, 0.3
            cfg = LinearConfig(depth, nu, 4.0, gamma0, 0.05, sigma2, noise, param)
            gamma2 = gamma0**2 * (nu if param == "mup" else 1.0)
            expected = (1 + sigma2 ** (depth + 1) / gamma2 + noise**2) / 2
            assert solve_linear(cfg, 1).test[0] == pytest.approx(expected, rel=1e-12)
        cfg = LinearConfig(1, 2.0, None, 4.0, 0.1, 0.5, param=param)
        gamma = 4.0 * np.sqrt(2.0) if param == "mup" else 4.0
        d, k, et = 0.1 * 0.5 / 2, 0.1 * 0.5 * (2 - 0.1 * 0.5 / 2), 0.1 * gamma / np.sqrt(2)
        a = 0.5 * (1 - d)
        e = 0.5 * (1 - d) ** 2 + et**2 * 0.5 * (1 + 0.25 / gamma**2)
        expected = ((1 - k) ** 2 + 0.5 / gamma**2 * (e - 2 * k * a + 0.5 * k**2)) / 2
        assert solve_linear(cfg, 1).test[1] == pytest.approx(expected, rel=1e-12)


def test_parameterisations_agree_at_width_one_and_many_samples_approach_the_population():
    runs = [solve_linear(LinearConfig(2, 1.0, None, 2.0, 0.1, 0.5, param=param), 20).test for param in ("mup", "ntk")]
    np.testing.assert_allclose(*runs, rtol=1e-12)
    data = solve_linear(LinearConfig(2, 1.0, 1e6, 2.0, 0.1, 0.5), 20).test
    np.testing.assert_allclose(data, runs[0], atol=1e-4)


def test_a_sweep_is_a_vmap_and_time_is_causal(solutions):
    etas = jnp.array([0.05, 0.1])

    def run(eta):
        return solve_linear(LinearConfig(1, 2.0, 3.0, 4.0, eta, 0.5, 0.2), 8)

    together = jax.vmap(run)(etas)
    np.testing.assert_allclose(together.test[0], run(etas[0]).test, rtol=1e-12)
    np.testing.assert_allclose(together.test[1], solutions[0].test[:9], rtol=1e-12)
    late, early = solutions[0].layers[0], together.layers[0]
    for name in ("C_left", "C_right", "A", "B"):
        np.testing.assert_allclose(getattr(early, name)[1], getattr(late, name)[:8, :8], atol=1e-12)


def test_one_pass_over_fresh_data():
    cfg = LinearConfig(1, 2.0, None, 4.0, 0.08, 0.5, 0.2, batch_ratio=1.0)
    solution = solve_linear(cfg, 20)
    fields, times = solution.layers[0], jnp.array([4, 8, 12, 16, 16, 16])
    np.testing.assert_allclose(largest(fields, times)[:4], [2.1246, 2.890, 2.994, 3.015], atol=6e-4)
    independent = largest(fields.independent(), times)
    np.testing.assert_allclose(independent[1:4], [2.607, 2.728, 2.754], atol=6e-4)
    np.testing.assert_allclose(solution.train, solution.test, rtol=1e-10)  # of a batch that was never seen


def test_leading_mode_of_the_kernel():
    """Population, one hidden layer: ``<w, w> + s_1(W_1)^2 / nu``; with data the specification's values."""
    cfg = LinearConfig(1, 2.0, None, 4.0, 0.1, 0.5)
    solution = solve_linear(cfg, 20, ntk_times=(10, 20))
    fields = solution.layers[0]
    top = outliers(fields, 10, 1).values[0]
    np.testing.assert_allclose(solution.ntk_top[0], fields.C_left[10, 10] + top**2 / 2, rtol=1e-6)
    data = solve_linear(LinearConfig(1, 2.0, 6.0, 4.0, 0.2, 0.25), 24, ntk_times=(0, 24))
    np.testing.assert_allclose(0.1 * data.ntk_top, [0.126, 0.946], atol=6e-4)
    assert data.ntk_residual[1] < 1e-3
    assert data.ntk_residual[0] > 1e-3  # the edge of a bulk, at the start


def test_a_schedule_of_equal_rates_is_the_rate_and_zero_momentum_none():
    cfg = LinearConfig(1, 2.0, 3.0, 4.0, 0.1, 0.5, 0.2)
    plain = solve_linear(cfg, 8)
    same = solve_linear(LinearConfig(1, 2.0, 3.0, 4.0, jnp.full(8, 0.1), 0.5, 0.2), 8)
    np.testing.assert_allclose(same.test, plain.test, rtol=1e-12)
    still = solve_linear(LinearConfig(1, 2.0, 3.0, 4.0, jnp.full(8, 1e-12), 0.5, 0.2), 8)
    np.testing.assert_allclose(still.test, plain.test[0], rtol=1e-6)


def test_momentum_decay_and_several_outputs_against_descent_on_raw_parameters():
    """Population training of one finite network; the theory is its limit."""
    nu, depth, channels, mu, gamma0, sigma2, dim, steps = 1.0, 2, 2, 0.5, 3.0, 0.5, 600, 8
    etas, decays = np.linspace(0.05, 0.03, steps + 1), np.linspace(0.2, 1.0, steps + 1)
    schedule = {"momentum": mu, "weight_decay": jnp.asarray(decays)}
    cfg = LinearConfig(depth, nu, None, gamma0, jnp.asarray(etas), sigma2, outputs=channels, **schedule)
    solution = solve_linear(cfg, steps + 1)
    rng, n = np.random.default_rng(0), int(nu * dim)
    gamma = gamma0 * np.sqrt(nu)
    beta = np.linalg.qr(rng.normal(size=(dim, channels)))[0] * np.sqrt(dim)
    sizes = [(n, dim), (n, n), (channels, n)]
    params = [rng.normal(size=size) * np.sqrt(sigma2) for size in sizes]
    velocity = [np.zeros_like(p) for p in params]
    losses = []
    for eta, decay in zip(etas, decays, strict=True):
        w1, w2, w = params
        up = w @ w2
        scale = 1 / (gamma * n * np.sqrt(dim))
        error = beta.T / np.sqrt(dim) - scale * up @ w1
        losses.append(np.sum(error**2) / 2)
        grads = [scale * up.T @ error, scale * w.T @ (error @ w1.T), scale * error @ w1.T @ w2.T]
        velocity = [mu * v + eta * gamma**2 * dim * g for v, g in zip(velocity, grads, strict=True)]
        params = [(1 - eta * decay) * p + v for p, v in zip(params, velocity, strict=True)]
    np.testing.assert_allclose(losses, solution.test[:-1], rtol=0.1)
    for fields, w in zip(solution.layers, (params[0] / np.sqrt(dim), params[1] / np.sqrt(n)), strict=True):
        theory = np.asarray(outliers(fields, None, 2).values)
        np.testing.assert_allclose(np.linalg.svd(w, compute_uv=False)[:2], theory, rtol=0.05)


def test_divergence_is_data_and_earlier_spectra_stand():
    solution = solve_linear(LinearConfig(1, 2.0, 3.0, 4.0, 50.0, 0.5), 20)
    assert not np.isfinite(np.asarray(solution.test)).all()
    values = largest(solution.layers[0], UPDATES)
    assert np.isnan(values[-1])
    assert np.isfinite(outliers(solution.layers[0], 1, 1).edge)


def test_escape_time_is_the_first_outlier_or_never(solutions):
    assert escape_time(solutions[0]) == 2
    assert escape_time(solutions[1], 1) == 4
    lazy = solve_linear(LinearConfig(1, 2.0, 3.0, 0.5, 0.1, 0.5, 0.2), 20)
    assert np.isinf(escape_time(lazy))
    assert np.isnan(escape_time(solve_linear(LinearConfig(1, 2.0, 3.0, 1.0, 1e200), 6)))  # no number of updates
    with pytest.raises(IndexError, match="layer is 1"):
        escape_time(solutions[0], 1)


def test_new_numbers_do_not_compile_again():
    from jaxspec.dmft import linear

    solve_linear(LinearConfig(1, 2.0, 3.0, 4.0, 0.1, 0.5, 0.2), 20)
    before = linear._solve._cached._cache_size()
    solve_linear(LinearConfig(1, 3.0, 2.0, 1.0, 0.2, 0.7, 0.1), 20)
    assert linear._solve._cached._cache_size() == before


def test_decay_alone_shrinks_weights_and_bulk(solutions):
    """With a rate too small to learn anything the weights are their initial ones, shrunk: closed forms."""
    decays, tiny, nu, sigma2 = np.linspace(0.01, 0.3, 20), 1e-12, 2.0, 0.5
    cfg = LinearConfig(1, nu, 3.0, 4.0, tiny, sigma2, 0.2, weight_decay=jnp.asarray(decays / tiny))
    solution = solve_linear(cfg, 20)
    kept = np.concatenate([[1.0], np.cumprod(1 - decays)])
    np.testing.assert_allclose(solution.test, (1 + kept**4 * sigma2**2 / (16 * nu) + 0.04) / 2, rtol=1e-9)
    fields = solution.layers[0]
    edge = np.sqrt(sigma2) * (1 + np.sqrt(nu))
    for t in (0, 7, 20):
        np.testing.assert_allclose(outliers(fields, t, 1).edge, kept[t] * edge, rtol=1e-10)
    np.testing.assert_allclose(fields.C_left, sigma2 * np.outer(kept[:20], kept[:20]), rtol=1e-9)


def test_schedules_are_recursions_of_momentum_and_decay():
    rng = np.random.default_rng(0)
    shrink, mu = rng.uniform(0.7, 1.0, 9), 0.6
    share, kept = remembered(mu, jnp.asarray(shrink))
    for s in range(9):  # the path of one unit step, and that of the start
        theta, velocity, start = 0.0, 0.0, 1.0
        for t in range(9):
            np.testing.assert_allclose([share[t, s], kept[t]], [theta, start], rtol=1e-13, atol=1e-15)
            velocity = mu * velocity + (t == s)
            theta, start = shrink[t] * theta + velocity, shrink[t] * start
    plain, _ = remembered(mu, jnp.ones(9))
    age = np.arange(10)[:, None] - np.arange(9)
    np.testing.assert_allclose(plain, np.where(age > 0, (1 - mu ** np.maximum(age, 1)) / (1 - mu), 0), rtol=1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth is 0"),
        ({"nu": 0.0}, "nu is 0"),
        ({"alpha": -1.0}, "alpha is -1"),
        ({"gamma0": -2.0}, "gamma0 is -2"),
        ({"eta": 0.0}, "eta is 0"),
        ({"eta": np.nan}, "eta is nan"),
        ({"sigma2": 0.0}, "sigma2 is 0"),
        ({"noise": -1.0}, "noise is -1"),
        ({"param": "sp"}, "param is 'sp'"),
        ({"momentum": 1.0}, "momentum is 1"),
        ({"weight_decay": -1.0}, "weight_decay is -1"),
        ({"weight_decay": 10.0}, "weight_decay is 10.0; expected eta"),
        ({"batch_ratio": 1.0}, "batch_ratio are both"),
        ({"outputs": 0}, "outputs is 0"),
        ({"target_gram": jnp.eye(2)}, "target_gram has shape"),
    ],
)
def test_bad_configurations_are_named(change, message):
    good = {"depth": 1, "nu": 1.0, "alpha": 2.0, "gamma0": 1.0, "eta": 0.1}
    with pytest.raises(ValueError, match=message):
        LinearConfig(**(good | change))


def test_bad_calls_are_named():
    cfg, decaying = (LinearConfig(1, 1.0, 2.0, 1.0, 0.1, weight_decay=decay) for decay in (0.0, jnp.ones(2)))
    for call, message in [
        (lambda: solve_linear(cfg, 0), "steps is 0"),
        (lambda: solve_linear(cfg, 3, ntk_times=(4,)), "ntk_times holds 4"),
        (lambda: solve_linear(cfg, 3, ntk_times=(-1,)), "ntk_times is -1"),
        (lambda: solve_linear(cfg, 3, lanczos=0), "lanczos is 0"),
        (lambda: solve_linear(LinearConfig(1, 1.0, 2.0, 1.0, jnp.ones(2)), 3), "eta has shape"),
        (lambda: solve_linear(decaying, 3), "weight_decay has shape"),
        (lambda: connect({"a": None}, {"W": Link("a", "b", 1)}), "names the space 'b'"),
        (lambda: connect({"a": None}, {"W": Link("a", "a", 0)}), "products is 0"),
        (lambda: connect({"a": None}, {"W": Link("a", "a", 1, -1.0)}), "aspect is -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="depth is True"):
        LinearConfig(True, 1.0, 2.0, 1.0, 0.1)
