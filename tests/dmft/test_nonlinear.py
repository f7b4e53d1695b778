"""Infinitely wide nonlinear networks against the specification's oracles and the symmetries of the problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.dmft import outliers, solve_nonlinear
from jaxspec.dmft.site_responses import SiteSlopes, input_response, output_response

KX, Y = jnp.array([[1.0, 0.5], [0.5, 1.0]]), jnp.array([1.0, -1.0])
SHOWN = np.array([1, 2, 4, 8, 12])


def identity(h):
    return h


def relu(h):
    return jnp.maximum(h, 0.0)


def solve(key=0, kx=KX, y=Y, **options):
    defaults = {"depth": 2, "eta": 0.3, "gamma0": 1.5, "steps": 12, "sigma_w": 0.7, "activation": identity}
    return solve_nonlinear(jax.random.key(key), kx, y, **(defaults | {"num_sites": 80} | options))


@pytest.fixture(scope="module")
def linear():
    with jax.enable_x64(True):
        return solve()


@pytest.fixture(scope="module")
def tanh():
    with jax.enable_x64(True):
        options = {"eta": 0.4, "gamma0": 2.0, "sigma_w": 0.8, "activation": jnp.tanh, "num_sites": 4000}
        return [solve(key, **options) for key in range(2)], solve(0, y=-Y, **options)


@pytest.mark.parametrize(
    ("depth", "gamma0", "f", "phi", "g", "top"),
    [
        (1, 1.5, [0.073500, 0.148239, 0.335531, 0.793760, 0.974711], 1.105123, 2.950494, []),
        (2, 1.5, [0.054023, 0.115188, 0.336903, 0.997806, 1.000000], 1.369379, 4.757215, [1.630342]),
        (3, 2.0, [0.035295, 0.084613, 0.462656, 0.726560, 0.665006], 1.348989, 5.043009, [1.468662, 1.468662]),
    ],
)
def test_linear_activation_has_the_oracles_of_the_specification(linear, depth, gamma0, f, phi, g, top):
    found = linear if depth == 2 else solve(depth=depth, gamma0=gamma0)
    np.testing.assert_allclose(found.f[SHOWN, 0], f, atol=1.1e-6)
    np.testing.assert_allclose([found.Phi[-1, 12, 0, 12, 0], found.G[0, 12, 0, 12, 0]], [phi, g], atol=1.1e-6)
    np.testing.assert_allclose([outliers(w, None, 1).values[0] for w in found.layers], top, atol=1.1e-6)
    np.testing.assert_allclose(found.f[:, 0], -found.f[:, 1], atol=1e-10)


def test_linear_activation_needs_no_sampling(linear):
    other = solve(key=5, num_sites=120)
    for name in ("f", "Phi", "G", "A", "B", "ntk"):
        exact = getattr(linear, name)
        np.testing.assert_allclose(getattr(other, name), exact, atol=1e-12 * float(jnp.max(jnp.abs(exact))))

    flipped = solve(key=5, num_sites=120, y=-Y)
    np.testing.assert_allclose(flipped.f, -other.f, atol=1e-12)


def test_three_linear_layers_need_no_sampling_either():
    """To 1e-12. By Stein's lemma responses are known only where the kernel is not singular: times it, as they act."""
    one, other = (solve(key, depth=3, gamma0=2.0, num_sites=n) for key, n in ((0, 80), (5, 120)))
    for name in ("f", "Phi", "G", "A", "B", "ntk"):
        exact = getattr(one, name)
        np.testing.assert_allclose(getattr(other, name), exact, atol=1e-12 * float(jnp.max(jnp.abs(exact))))
    stein = solve(7, depth=3, gamma0=2.0, num_sites=100, response="stein")
    for name in ("f", "Phi", "G", "ntk"):
        exact = getattr(one, name)
        np.testing.assert_allclose(getattr(stein, name), exact, atol=1e-11 * float(jnp.max(jnp.abs(exact))))
    for response, kernel in (("A", "G"), ("B", "Phi")):
        acting = [
            np.einsum("lij,ljk->lik", *(np.asarray(part).reshape(-1, 26, 26)[:2] for part in pair))
            for run in (stein, one)
            for pair in [(getattr(run, response), getattr(run, kernel)[1:] if kernel == "G" else getattr(run, kernel))]
        ]
        np.testing.assert_allclose(*acting, atol=1e-10 * np.abs(acting[1]).max())


def test_decay_and_schedules_are_those_of_the_exact_gram_matrix():
    """One hidden layer, no nonlinearity: w and all h(x) span a space that the updates map to itself."""
    eta, decay, steps, gamma0, sigma2 = np.linspace(0.4, 0.2, 12), np.linspace(0.1, 0.5, 12), 12, 1.5, 0.49
    schedule = {"eta": jnp.asarray(eta), "weight_decay": jnp.asarray(decay)}
    found = solve(depth=1, **schedule)
    kx, y = np.asarray(KX), np.asarray(Y)
    gram = sigma2 * np.block([[np.ones((1, 1)), np.zeros((1, 2))], [np.zeros((2, 1)), kx]])
    for t in range(steps):
        f = gram[0, 1:] / gamma0
        np.testing.assert_allclose(found.f[t], f, atol=1e-12)
        np.testing.assert_allclose(found.Phi[0, t, :, t, :], gram[1:, 1:], atol=1e-11)
        np.testing.assert_allclose(found.G[0, t, :, t, :], np.full((2, 2), gram[0, 0]), atol=1e-11)
        move = eta[t] * gamma0 * (y - f) / 2
        update = (1 - eta[t] * decay[t]) * np.eye(3)
        update[0, 1:] += move
        update[1:, 0] += kx @ move
        gram = update @ gram @ update.T
    # Decay alone: nothing is learnt from y = 0, all weights shrink, the bulk with them.
    still = solve(y=0 * Y, **schedule)
    kept = np.cumprod(np.append(1, 1 - eta * decay))
    np.testing.assert_allclose(still.Phi[0, :, 0, :, 0], sigma2 * np.outer(kept, kept), rtol=1e-10)
    np.testing.assert_allclose(still.G[1, :, 0, :, 0], sigma2 * np.outer(kept, kept), rtol=1e-10)
    np.testing.assert_allclose(outliers(still.layers[0], 12, 1).edge, 2 * 0.7 * kept[12], rtol=1e-12)


def test_first_update_of_one_hidden_layer_has_a_closed_form():
    found = solve(depth=1, steps=1)
    assert found.f[1, 0] == pytest.approx(0.3 * 0.49 * 0.5, rel=1e-12)
    np.testing.assert_array_equal(found.f[0], 0)


def test_tanh_has_the_oracles_of_the_specification(tanh):
    runs, _ = tanh
    f = np.mean([run.f[SHOWN, 0] for run in runs], axis=0)
    # Three of the specification's standard deviations (S = 6000), and the error of its last digit.
    np.testing.assert_allclose(f, [0.04987, 0.10788, 0.2965, 0.7416, 0.9343], atol=0.0025)
    phi, g = (np.mean([getattr(run, n)[layer, 12, 0, 12, 0] for run in runs]) for n, layer in (("Phi", -1), ("G", 0)))
    np.testing.assert_allclose([phi, g], [0.582, 0.212], atol=0.007)
    top = np.mean([outliers(run.layers[0], None, 1).values[0] for run in runs])
    assert abs(top - 2.161) < 0.007


def test_kernels_are_symmetric_positive_and_start_from_zero_output(tanh):
    for run in tanh[0]:
        np.testing.assert_array_equal(run.f[0], 0)
        for kernels in (run.Phi, run.G):
            rows = np.asarray(kernels).reshape(2, 26, 26)
            np.testing.assert_allclose(rows, rows.swapaxes(1, 2), atol=1e-13)
            assert np.linalg.eigvalsh(rows).min() > -1e-12
        assert np.linalg.eigvalsh(np.asarray(run.ntk)).min() > 0
    time = np.arange(26) // 2
    a, b = np.asarray(tanh[0][0].A).reshape(26, 26), np.asarray(tanh[0][0].B).reshape(26, 26)
    assert np.all(a[time[:, None] <= time] == 0)  # the forward pass comes first
    assert np.all(b[time[:, None] < time] == 0)
    assert np.any(np.diag(b) != 0)  # the response within a step


def test_negated_and_permuted_targets_within_sampling_error(tanh):
    runs, negated = tanh
    np.testing.assert_allclose(negated.f, -runs[0].f, atol=0.004)
    np.testing.assert_allclose(runs[0].f[:, 0], -runs[0].f[:, 1], atol=0.004)


def test_stein_agrees_with_tangents(tanh):
    found = solve(0, eta=0.4, gamma0=2.0, sigma_w=0.8, activation=jnp.tanh, num_sites=16000, response="stein")
    np.testing.assert_allclose(found.f, tanh[0][0].f, atol=0.006)
    assert abs(outliers(found.layers[0], None, 1).values[0] - 2.161) < 0.1


def test_a_full_mask_is_no_mask_and_batches_are_causal(linear):
    full = solve(batch_mask=jnp.ones((13, 2)))
    np.testing.assert_allclose(full.f, linear.f, rtol=1e-12)
    alternating = solve(batch_mask=jnp.ones((12, 2)).at[6:, 1].set(0.0))
    np.testing.assert_allclose(alternating.f[:7], linear.f[:7], rtol=1e-12)
    assert abs(alternating.f[7, 0] - linear.f[7, 0]) > 1e-3
    # A batch of one point at depth 1: f_m(1) = eta s2 kx_mn y_n (by hand from the first update).
    single = solve(depth=1, batch_mask=jnp.ones((12, 2)).at[0, 1].set(0.0))
    np.testing.assert_allclose(single.f[1], 0.3 * 0.49 * 2 * np.array([1.0, 0.5]), rtol=1e-12)


def test_relu_runs_by_stein_only():
    options = {"activation": relu, "steps": 3, "num_sites": 2000, "sigma_w": 1.4}
    found = solve(response="stein", **options)
    assert np.isfinite(np.asarray(found.f)).all()
    assert found.f[3, 0] > found.f[1, 0] > 0
    with pytest.raises(ValueError, match="response='stein'"):
        solve(**options)


def test_zero_targets_stay_and_duplicate_points_move_together():
    still = solve(y=0 * Y)
    np.testing.assert_array_equal(still.f, 0)
    found = outliers(still.layers[0], None, 1)
    assert np.isnan(found.values[0])
    assert found.margin[0] == -1
    twins = solve(kx=jnp.ones((2, 2)), y=jnp.ones(2))
    np.testing.assert_allclose(twins.f[:, 0], twins.f[:, 1], atol=1e-9)
    assert twins.f[12, 0] > 0.5


def test_divergence_is_data():
    found = solve(eta=500.0)
    assert not np.isfinite(np.asarray(found.f)).all()
    assert np.isnan(outliers(found.layers[0], None, 1).values[0])


def test_responses_are_rows_of_the_inverse_jacobian():
    """Against a dense inverse for every site, chunks that do not divide the sites among them."""
    rng, points, times, sites = np.random.default_rng(0), 2, 4, 7
    rows = points * times
    time = np.arange(rows) // points
    slope, bend = rng.normal(size=(2, rows, sites))
    into_h = np.where(time[:, None] > time, rng.normal(size=(rows, rows)), 0)
    into_z = np.where(time[:, None] >= time, rng.normal(size=(rows, rows)), 0)
    start = rows - points
    last = slice(start, rows)
    expected_a, expected_b = np.zeros((2, points, rows))
    for s in range(sites):
        inner = np.diag(bend[:, s]) + slope[:, s, None] * into_z * slope[:, s]  # dg / dh
        dh = np.linalg.inv(np.eye(rows) - into_h @ inner)  # in additions to h
        expected_a += (slope[:, s, None] * (dh @ into_h) * slope[:, s])[last] / sites
        expected_b += (inner @ dh)[last] / sites
    layer = SiteSlopes(*map(jnp.asarray, (slope, bend, into_h, into_z)))
    for chunk in (1, 3, 50):
        found = input_response(layer, jnp.asarray(start), points, chunk, None)
        np.testing.assert_allclose(found, expected_a, atol=1e-11 * np.abs(expected_a).max())
        found = output_response(layer, jnp.asarray(start), points, chunk, None)
        np.testing.assert_allclose(found, expected_b, atol=1e-11 * np.abs(expected_b).max())


def test_chunks_change_memory_only():
    options = {"depth": 3, "activation": jnp.tanh, "steps": 4, "num_sites": 100}
    whole, parts = solve(**options), solve(site_chunk=33, **options)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    from jaxspec.dmft import nonlinear

    before = nonlinear._solve._cached._cache_size()
    solve(key=3, kx=2 * KX, y=-Y, eta=0.1, gamma0=1.0, sigma_w=0.9, weight_decay=0.1, **options)
    assert nonlinear._solve._cached._cache_size() == before  # new numbers compile nothing


def test_memory_is_that_of_the_sites():
    """Not of tangents over two times; and the responses' part is bounded by the chunk."""
    sites, rows, points, depth = 3000, 40, 2, 2

    def needed(chunk):
        options = {"depth": depth, "steps": 19, "activation": jnp.tanh, "num_sites": sites, "site_chunk": chunk}
        run = jax.jit(lambda key: solve_nonlinear(key, KX, Y, eta=0.3, gamma0=1.5, **options).f)
        return run.lower(jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes / 8

    small = needed(50)
    assert small < 16 * depth * sites * rows
    assert small < 0.5 * 2 * depth * sites * rows**2  # half of what stored tangents alone would be
    assert needed(sites) - small < 8 * rows * points * sites


def test_the_order_of_points_does_not_matter():
    kx = jnp.array([[1.0, 0.5, -0.2], [0.5, 1.3, 0.1], [-0.2, 0.1, 0.8]])
    y, order = jnp.array([1.0, -1.0, 0.5]), np.array([2, 0, 1])
    permuted = {"kx": kx[order][:, order], "y": y[order]}
    options = {"steps": 5, "num_sites": 60}
    one, other = solve(kx=kx, y=y, **options), solve(**permuted, **options)
    np.testing.assert_allclose(other.f, one.f[:, order], atol=1e-12)
    np.testing.assert_allclose(other.ntk, one.ntk[:, order][:, :, order], rtol=1e-11)
    options |= {"activation": jnp.tanh, "num_sites": 4000}
    one, other = solve(kx=kx, y=y, **options), solve(**permuted, **options)
    np.testing.assert_allclose(other.f, one.f[:, order], atol=0.01)  # sampling: other sites


def test_several_devices_give_the_same_kernels(run_python):
    snippet = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
from jaxspec.dmft import solve_nonlinear
mesh = jax.make_mesh((8,), ("sites",), axis_types=(jax.sharding.AxisType.Auto,))
kx, y = jnp.array([[1.0, 0.5], [0.5, 1.0]]), jnp.array([1.0, -1.0])
for response in ("tangent", "stein"):
    options = dict(depth=2, eta=0.4, gamma0=2.0, steps=2, sigma_w=0.8, num_sites=160, response=response, site_chunk=11)
    whole = solve_nonlinear(jax.random.key(0), kx, y, **options)
    divided = solve_nonlinear(jax.random.key(0), kx, y, mesh=mesh, **options)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(divided)):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-11)
print("finished")
"""
    assert run_python(snippet, devices=8, timeout=240.0).stdout.strip() == "finished"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"eta": -1.0}, "eta is -1"),
        ({"gamma0": 0.0}, "gamma0 is 0"),
        ({"sigma_w": 0.0}, "sigma_w is 0"),
        ({"eta": jnp.ones(3)}, "eta has shape"),
        ({"weight_decay": jnp.ones(3)}, "weight_decay has shape"),
        ({"weight_decay": -1.0}, "weight_decay is -1"),
        ({"weight_decay": 4.0}, "weight_decay is 4.0; expected eta"),
        ({"site_chunk": 0}, "site_chunk is 0"),
        ({"num_sites": 1}, "num_sites is 1"),
        ({"num_sites": 53}, "num_sites is 53; expected more than"),
        ({"response": "exact"}, "response is 'exact'"),
        ({"y": jnp.ones(3)}, "kx has shape"),
        ({"kx": jnp.array([[1.0, 0.5], [0.4, 1.0]])}, "kx differs from its transpose"),
        ({"kx": jnp.array([[1.0, 2.0], [2.0, 1.0]])}, "kx has the eigenvalue -1"),
        ({"kx": jnp.array([[1.0, jnp.nan], [jnp.nan, 1.0]])}, "not finite"),
        ({"batch_mask": jnp.ones((5, 2))}, "batch_mask has shape"),
        ({"batch_mask": jnp.ones((12, 2)).at[3].set(0.0)}, "batch_mask has an update"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        solve(**change)
