"""The parts of the spectral-optimizer paper run end to end at a size of seconds; their models against autodiff."""

import contextlib
import dataclasses
import importlib
import json
import sysconfig
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runner.contract import Verdict
from tests.experiments.parts import (  # noqa: F401
    part_fixture,
    test_claims_are_measured_with_a_source,
    test_every_field_of_the_result_is_documented_and_an_array,
    test_figures_are_drawn_from_the_result,
    test_the_full_preset_measures_at_least_what_the_quick_one_does,
)

TINY_MODEL = {"width": 16, "heads": 2, "layers": 1, "context": 8, "batch": 2}
SMALL = {
    "lm": {
        **TINY_MODEL,
        "steps": 2,
        "validation": 4,
        "optimizers": ("Adam", "c=0", "c=0.5", "c=0.75", "Kaon", "signed noise", "truncated SGD"),
        "rates": (0.01, 0.02),
        "adam_rates": (1e-3, 3e-3),
        "sgd_rates": (0.1, 0.2),
    },
    "step_size": {"seeds": 2, "tuned_seeds": 2, "side": 6, "rank": 6, "batch": 12, "steps": 5, "rates": 2},
    "diagnostics": {**TINY_MODEL, "steps": 2, "sequences": 4, "batches": 2, "seeds": 1},
    "accuracy_cost": {"table_rows": 12, "table_columns": 16, "rows": 12, "columns": 24, "kappas": (1e2,), "rounds": 1},
    "kaon_law": {"orbits": 64, "burn_in": 10, "length": 50, "side": 12, "matrices": 2, "draws": 2},
    "transfer": {
        "widths": (16, 32),
        "layers": 1,
        "context": 8,
        "batch": 2,
        "steps": 2,
        "validation": 4,
        "mup_rates": (0.01, 0.02, 0.04),
        "rms_rates": (0.01, 0.02, 0.04),
    },
}


FEW_ENGINES = ("svd", "optax, 5 steps", "jordan, 5 steps", "qdwh", "optimal", "rational, gram")


def load(part):
    return importlib.import_module(f"experiments.spectral_optimizers.{part}")


LEAST_CLAIMS = 2
OTHER_IN_FULL = ()


@contextlib.contextmanager
def few_engines(name, module):
    with pytest.MonkeyPatch.context() as patch:
        if name == "accuracy_cost":
            families = {row.family: row for row in module.TABLE if row.steps <= 5}
            patch.setattr(module, "TABLE", tuple(families.values()))
            every = module.engines
            patch.setattr(module, "engines", lambda config: [e for e in every(config) if e.name in FEW_ENGINES])
        yield


part = part_fixture("spectral_optimizers", SMALL, few_engines)


# Claims on made-up results: what the paper says, and its opposite.


def lm_result(loss):
    module = load("lm")
    names = np.asarray(["Adam", "c=0", "c=0.5", "c=0.75", "Kaon", "signed noise"])
    curves = np.ones((len(names), 1, 4))
    spectrum = np.array([1.0, 0.1])
    maps = np.asarray(module.SHOWN_MAPS)
    rates = np.full((len(names), 1), 0.02)
    validation = np.asarray(loss, float).reshape(len(names), 1, 1)
    return module.Result(names, rates, validation, curves, spectrum, maps, np.ones((len(maps), 2)), np.asarray("0"))


def step_size_result(worse):
    """Final losses that favour line search for GD and one tuned rate for Muon, or the reverse."""
    module = load("step_size")
    seeds, steps = 4, 40
    final = np.array([1e-6, 1e-3, 1e-3, 1e-3]) if not worse else np.array([1e-3, 1e-6, 1e-3, 1e-3])
    line = np.broadcast_to(final[:, None, None], (4, seeds, steps + 1))
    tuned = np.array([1e-4, 1e-6, 1e-5, 1e-5]) if not worse else np.array([1e-4, 1e-2, 1e-5, 1e-5])
    jumps = np.exp(np.array([0.4, 0.1, 0.1, 0.1])[:, None] * (np.arange(steps) % 2))
    if worse:
        jumps = jumps[::-1]
    best = np.broadcast_to(jumps[:, None], (4, seeds, steps))
    ones = np.ones((4, seeds))
    rates = np.logspace(-1, 0, 2)
    return module.Result(
        np.asarray(module.METHODS),
        line,
        best,
        ones,
        ones,
        rates,
        np.broadcast_to(tuned[:, None, None, None], (4, 2, 2, seeds)),
        best,
    )


def diagnostics_result(worse):
    module = load("diagnostics")
    place = {name: d for d, name in enumerate(module.DIRECTIONS)}
    count = len(place)
    alignment, potential = np.linspace(0.2, 0.1, count), np.linspace(0.1, 0.8, count)
    potential[place["Kaon"]] = potential[place["c=0.5"]]
    spread = np.full(count, 0.7)
    spread[place["c=0.75"]] = 0.3
    spread[place["SGD"]] = 1.0
    predicted, actual = np.full(count, 1e-3), np.full(count, 0.95e-3)
    actual[place["c=1"]] = 0.7e-3
    if worse:
        alignment, potential, actual = alignment[::-1].copy(), potential[::-1].copy(), predicted * 1.5
        potential[place["Kaon"]] = 3 * potential[place["c=0.5"]]
        spread[place["SGD"]] = 0.3
    steps = 1 + 0.5 * spread[:, None] * np.array([-1.0, 1.0, -1.0, 1.0])

    def columns(values):
        return np.broadcast_to(values[:, None], (2, count, 4))

    others = (columns(predicted), columns(actual))
    steps = np.broadcast_to(steps, (2, count, 4))
    return module.Result(np.asarray(module.DIRECTIONS), columns(alignment), columns(potential), steps, *others)


def accuracy_result(worse):
    module = load("accuracy_cost")
    config = dataclasses.replace(module.PRESETS["quick"], kappas=(1e1, 1e2, 1e3, 1e5))
    names, exponents, dtypes, tolerances, _ = zip(*module.engines(config), strict=True)
    families = np.asarray([row.family for row in module.TABLE])
    table = np.asarray([(*row[1:], row.stated * (1.5 if worse else 1.01)) for row in module.TABLE])
    errors = np.tile(np.where(np.isnan(tolerances), 1e-7, tolerances)[:, None] * (3.0 if worse else 0.5), 4)
    for name in (module.OPTAX, module.OURS_JORDAN):
        errors[names.index(name)] = [0.3, 0.32, 0.89, 1.0]
    if worse:
        errors[names.index(module.OPTAX)] = 0.6
    else:
        errors[np.asarray(dtypes) == module.HALF, 2:] = np.nan  # refused
    return module.Result(
        families,
        table,
        np.asarray(names),
        np.asarray(exponents),
        np.asarray(dtypes),
        np.asarray(tolerances),
        np.asarray(config.kappas),
        errors,
        np.ones_like(errors),
    )


def kaon_result(worse):
    module = load("kaon_law")
    steps = 1 + np.arange(24)
    shift = 0.1 if worse else 0.0
    drift = np.stack([np.full((24, 2), size) for size in (1e-15, 1e-2 if worse else 1e-6, 0.1)])
    correlation = np.where(steps < 22, 0.9, 0.1)[:, None] * np.ones(2) + (0.6 if worse else 0)
    return module.Result(
        edges=np.linspace(0, 1, 3),
        density=np.ones(2),
        moments=np.array([0.469, 0.339, 0.579]) + shift,
        quartiles=np.array([0.141, 0.450, 0.782]) + shift,
        exponent=0.888 + shift,
        steps=steps,
        precisions=np.asarray(module.PRECISIONS),
        drift=drift,
        float32_error=np.full((24, 2), 1e-4 + shift),
        float32_correlation=correlation,
        float32_moments=np.tile([0.469 + shift, 0.339], (24, 1)),
        laws=np.asarray(module.LAWS),
        mean=np.array([0.469, 0.5, 1e-4 + shift]),
        mean_error=np.full(3, 1e-3),
        price=np.array([1.235, 1.1547, 1e3]) + shift,
        ascending=np.array([0.0, 0.0, 0.5]) + shift / 2,
    )


def transfer_result(worse):
    """Parabolas around a best rate that nearly stays under mup and falls under rms, or the reverse."""
    module = load("transfer")
    widths, rates = np.array([32, 64, 128]), np.tile(0.01 * 2.0 ** np.arange(7), (2, 1))
    falling, still = 0.08 * (widths / 64.0) ** -1.5, 0.08 * (widths / 64.0) ** -0.4
    best = [falling, still] if worse else [still, falling]
    losses = [[np.log(r / b) ** 2 for b in rows] for r, rows in zip(rates, best, strict=True)]
    return module.Result(np.asarray(module.SCALES), widths, rates, np.asarray(losses)[..., None])


MADE_UP = {
    "lm": lambda worse: lm_result([2.7, 2.9, 2.4, 2.3, 2.42, 2.8] if not worse else [2.7, 2.6, 2.65, 2.64, 2.8, 2.81]),
    "step_size": step_size_result,
    "diagnostics": diagnostics_result,
    "accuracy_cost": accuracy_result,
    "kaon_law": kaon_result,
    "transfer": transfer_result,
}


@pytest.mark.parametrize("name", MADE_UP)
def test_claims_hold_on_a_result_like_the_paper_and_keep_their_reasons_where_they_do_not(name):
    claims = load(name).claims(MADE_UP[name](False))
    assert [claim.statement for claim in claims if claim.verdict in (Verdict.FAILS, Verdict.SURPRISE)] == []


@pytest.mark.parametrize("name", MADE_UP)
def test_every_claim_fails_on_a_result_unlike_the_paper(name):
    claims = load(name).claims(MADE_UP[name](True))
    assert [claim.statement for claim in claims if claim.holds] == []


def test_a_diverged_run_is_never_the_best():
    result = lm_result([2.7, 2.9, 2.4, 2.3, 2.42, 2.8])
    two_rates = np.concatenate([result.validation, np.full_like(result.validation, np.nan)], axis=1)
    claims = load("lm").claims(result._replace(validation=two_rates[:, ::-1], rates=np.tile(result.rates, 2)))
    assert all(claim.holds for claim in claims)


def test_without_positive_curvature_no_claim_about_the_best_step_holds():
    result, module = diagnostics_result(False), load("diagnostics")
    lost = np.zeros(result.actual.shape, bool)
    lost[:, :, 0] = True
    gone = {name: np.where(lost, np.inf, getattr(result, name)) for name in ("potential", "optimal_step", "predicted")}
    result = result._replace(actual=np.where(lost, np.nan, result.actual), **gone)
    holding = [claim.statement for claim in module.claims(result) if claim.holds]
    assert holding == ["Alignment falls with the exponent c in 1/4, 1/2, 2/3, 3/4"]
    assert all(figure.axes for figure in module.figures(result).values())


# The language model and its text.


@pytest.fixture(scope="module")
def model():
    from experiments._gpt import Shape, initial_model

    return initial_model(jax.random.key(0), Shape(width=16, heads=2, layers=2, context=8))


def test_the_text_is_the_top_of_the_standard_library_and_the_same_every_time():
    from experiments.spectral_optimizers._text import standard_library_text

    text = standard_library_text(50_000)
    assert len(text.train) == 47_500
    assert len(text.validation) == 2_500
    opening = bytes(text.train[:2000])
    first = min(Path(sysconfig.get_path("stdlib")).glob("*.py"), key=lambda path: path.name)
    assert opening.startswith(first.read_bytes()[:500])
    standard_library_text.cache_clear()
    again = standard_library_text(50_000)
    assert again.digest == text.digest
    assert np.array_equal(again.train, text.train)


def test_logits_have_a_score_for_every_byte_and_see_no_later_one(model):
    tokens = jax.random.randint(jax.random.key(1), (3, 8), 0, 256)
    scores = model.logits(tokens)
    assert scores.shape == (3, 8, 256)
    changed = model.logits(tokens.at[:, 5].add(1))
    np.testing.assert_allclose(changed[:, :5], scores[:, :5], atol=1e-6)
    assert float(jnp.min(jnp.max(jnp.abs(changed - scores)[:, 5:], axis=-1))) > 1e-6


def test_an_untrained_model_knows_nothing(model):
    from experiments._gpt import loss

    windows = jax.random.randint(jax.random.key(2), (4, 9), 0, 256)
    assert float(loss(model, windows)) == pytest.approx(np.log(256), abs=0.05)


def test_the_matrices_are_the_kernels_of_the_blocks(model):
    from experiments._gpt import block_matrices
    from jaxspec.optim import matrix_partition

    labels = matrix_partition(model, dimension_numbers=block_matrices)
    found = {jax.tree_util.keystr(p) for p, label in jax.tree_util.tree_leaves_with_path(labels) if label == "matrix"}
    assert found == {f".blocks.{name}" for name in ("query", "key", "value", "output", "up", "down")}


def test_windows_are_consecutive_bytes():
    from experiments._gpt import random_windows
    from experiments.spectral_optimizers._text import fixed_windows

    text = np.arange(200, dtype=np.uint8)
    for windows in (random_windows(jax.random.key(0), text, 6, 9), fixed_windows(text, 6, 9)):
        assert windows.shape == (6, 10)
        np.testing.assert_array_equal(np.diff(windows, axis=1), 1)
    assert fixed_windows(text, 6, 9)[0, 0] == 0
    assert fixed_windows(text, 6, 9)[-1, -1] == 199


def test_a_width_that_the_heads_do_not_divide_is_refused():
    from experiments._gpt import Shape, initial_model

    with pytest.raises(ValueError, match="divisor"):
        initial_model(jax.random.key(0), Shape(width=10, heads=3))


# Training.


def tiny_run(seed, name="c=0"):
    from experiments._gpt import Shape
    from experiments.spectral_optimizers._text import standard_library_text
    from experiments.spectral_optimizers._training import Recipe, train

    recipe = Recipe(shape=Shape(16, 2, 1, 8), batch=4, steps=3, validation=4, warmup=1)
    return train(standard_library_text(50_000), recipe, name, 0.02, seed)


def test_training_repeats_for_a_seed_and_differs_between_seeds():
    first, again, other = tiny_run(0), tiny_run(0), tiny_run(1)
    np.testing.assert_array_equal(first.train, again.train)
    assert first.validation == again.validation
    assert first.validation != other.validation


def test_training_with_factorisations_of_several_shapes_finishes(run_python):
    # Matrices of width 32 are mapped by SVDs of two shapes; while later steps wait, those must not wait for each other.
    snippet = (
        "from experiments._gpt import Shape\n"
        "from experiments.spectral_optimizers._text import standard_library_text\n"
        "from experiments.spectral_optimizers._training import Recipe, train\n"
        "how = Recipe(Shape(32, 2, 2, 64), batch=8, steps=60)\n"
        "train(standard_library_text(), how, 'c=0.5', 0.02, 0)\n"
        "print('finished')"
    )
    assert run_python(snippet, timeout=120.0, as_users_do=True).stdout.strip() == "finished"


def test_training_on_two_devices_is_training_on_one(run_python):
    snippet = (
        "import json\nfrom tests.experiments.test_spectral_optimizers import tiny_run\n"
        "import jax\nassert len(jax.devices()) == 2\ndone = tiny_run(0)\n"
        "print(json.dumps([*done.train.tolist(), done.validation]))"
    )
    done = json.loads(run_python(snippet, devices=2).stdout)
    alone = tiny_run(0)
    np.testing.assert_allclose(done, [*alone.train, alone.validation], rtol=1e-4)


def test_the_learning_rate_rises_then_falls_to_a_tenth():
    from experiments.spectral_optimizers._training import rate_at

    rates = [float(rate_at(2.0, 10, 110, count)) for count in range(110)]
    np.testing.assert_allclose(rates[:10], 0.2 * np.arange(1, 11), rtol=1e-6)
    assert rates[10] == pytest.approx(2.0)
    assert np.all(np.diff(rates[10:]) < 0)
    assert rates[-1] == pytest.approx(0.2, rel=0.1)


def test_an_unknown_optimizer_is_refused_by_name():
    from experiments.spectral_optimizers._training import matrix_transformation

    with pytest.raises(ValueError, match="Lion"):
        matrix_transformation("Lion", jax.random.key(0))


def test_truncated_sgd_loses_the_largest_singular_value_and_keeps_the_sign():
    from experiments.spectral_optimizers._training import matrix_transformation

    gradient = {"up": jnp.diag(jnp.array([3.0, 2.0, 1.0]))[None]}
    tx = matrix_transformation("truncated SGD", jax.random.key(0), beta=0.0)
    direction, _ = tx.update(gradient, tx.init(gradient), gradient)
    np.testing.assert_allclose(direction["up"][0], np.diag([0.0, 2.0, 1.0]), atol=1e-6)


# The random-feature model.


@pytest.fixture
def features(x64):
    from experiments.spectral_optimizers import _random_features as features

    problem = features.teacher(jax.random.key(0), 5, 2, 1.0)
    weights = jax.random.normal(jax.random.key(1), (5, 5))
    return features, problem, weights


def test_the_gradient_and_curvature_are_those_of_autodiff(features):
    module, problem, weights = features

    def value(w):
        return module.loss(problem, w)

    np.testing.assert_allclose(module.gradient(problem, weights), jax.grad(value)(weights), rtol=1e-12)
    direction = jax.random.normal(jax.random.key(2), (5, 5))
    noisy = weights + 1
    local = module.along(problem, weights, noisy, direction)
    _, product = jax.jvp(jax.grad(value), (weights,), (direction,))
    np.testing.assert_allclose(local.curvature, jnp.sum(product * direction), rtol=1e-12)
    np.testing.assert_allclose(local.batch_slope, jnp.sum(noisy * direction), rtol=1e-12)
    best = local.slope / local.curvature
    drop = value(weights) - value(weights - best * direction)
    np.testing.assert_allclose(drop, local.slope**2 / (2 * local.curvature), rtol=1e-10)


def test_the_local_quantities_are_those_of_the_library(features):
    from jaxspec.optim.diagnostics import descent_quantities

    module, problem, weights = features
    direction, noisy = jnp.sign(weights), weights * 2
    local = module.along(problem, weights, noisy, direction)
    found = descent_quantities(lambda w: module.loss(problem, w), weights, direction, batch_grad=noisy)
    np.testing.assert_allclose(local.slope / local.curvature, found.optimal_step, rtol=1e-12)
    np.testing.assert_allclose(local.slope / local.batch_slope, found.alignment, rtol=1e-12)
    np.testing.assert_allclose(local.batch_slope**2 / local.curvature, found.potential, rtol=1e-12)


def test_the_batch_gradient_is_that_of_the_mean_square_over_the_batch(features):
    module, problem, weights = features
    covariance = module.sample_covariance(problem, jax.random.key(3), 7)
    drawn = jax.random.normal(jax.random.key(3), (7, 5)) * jnp.sqrt(problem.scales)

    def value(w):
        return jnp.mean(jnp.sum(((w - problem.target) @ drawn.T) ** 2, axis=0)) / 2

    noisy = module.batch_gradient(problem, weights, covariance)
    np.testing.assert_allclose(noisy, jax.grad(value)(weights), rtol=1e-10)


def test_the_teacher_has_its_rank_and_features_of_mean_variance_one(features):
    from jaxspec.linalg import singular_values

    _, problem, _ = features
    values = singular_values(problem.target)
    assert int(jnp.sum(values > 1e-10)) == 2
    assert float(jnp.mean(problem.scales)) == pytest.approx(1.0)


# Small pieces.


def test_a_spectral_matrix_has_the_spectrum_it_says(x64):
    from experiments.spectral_optimizers._attained_errors import spectral_matrix
    from jaxspec.linalg import singular_values

    matrix = spectral_matrix(0, 6, 9, 1e3)
    np.testing.assert_allclose(singular_values(matrix.x), np.geomspace(1, 1e-3, 6), rtol=1e-9)
    assert float(matrix.relative_error(matrix.x, matrix.s)) < 1e-9
    assert float(matrix.relative_error(1.5 * matrix.x, matrix.s)) == pytest.approx(0.5)


def test_the_scalar_map_is_what_the_matrix_map_does_to_a_singular_value(x64):
    from experiments.spectral_optimizers.kaon_law import OUT_SCALE, singular_value_step
    from jaxspec.linalg import chaotic_map

    s = jnp.array([0.8, 0.6])  # of Frobenius norm 1
    image = chaotic_map(jnp.diag(s), steps=2)
    twice = singular_value_step(singular_value_step(s))
    np.testing.assert_allclose(jnp.diag(image), twice / OUT_SCALE, rtol=1e-12)


def test_the_best_rate_is_the_minimum_of_the_parabola_or_nothing_at_an_end():
    from experiments.spectral_optimizers.transfer import best_rate

    rates = 0.01 * 2.0 ** np.arange(5)
    assert best_rate(rates, np.log(rates / 0.05) ** 2) == pytest.approx(0.05)
    assert np.isnan(best_rate(rates, rates))
    assert np.isnan(best_rate(rates, np.array([1.0, 0.5, 0.2, np.nan, 3.0])))
