"""The parts with the toy decoder run at a size of seconds; its world and its cache; claims on made-up results."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.grasp import _base, _corpus, _finetune, _fronts, _measure, _methods, _settings
from experiments.runner.contract import Verdict
from experiments.runner.progress import Silent
from jaxspec import lora
from tests.experiments.parts import (  # noqa: F401
    part_fixture,
    test_claims_are_measured_with_a_source,
    test_every_field_of_the_result_is_documented_and_an_array,
    test_figures_are_drawn_from_the_result,
    test_measured_numbers_are_finite,
    test_the_full_preset_measures_at_least_what_the_quick_one_does,
)

TINY = {
    "seeds": 2,
    "domains": 3,
    "subjects": 6,
    "answers": 9,
    "width": 16,
    "heads": 2,
    "depth": 2,
    "hidden": 24,
    "pretraining": 3,
    "batch": 8,
    "repeats": 1,
    "scales": (0.5, 1.0),
    "rank": 4,
    "steps": 3,
    "rate": 1e-3,
    "warmup": 1,
}
SMALL = {
    "setting1": {**TINY, "ablated": (4,), "coefficients": (1.0,), "blocks": (1,)},
    "settings23": {**TINY, "bad_subjects": 4, "rank_of_rows": 4, "coefficients": (1.0,), "blocks": (1,)},
    "controls": TINY,
    "evidence": {**TINY, "bases": 1, "prompts": 8},
    "beyond": {**TINY, "weights": (1.0,)},
}
LEAST_CLAIMS = 5
OTHER_IN_FULL = ()


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Decoders of these tests are kept apart from those of a user."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


part = part_fixture("grasp", SMALL)
SIZES = _corpus.Sizes(domains=3, subjects=6, answers=9)
CONFIG = dataclasses.replace(_settings.Settings(), **TINY)


def load(name):
    return importlib.import_module(f"experiments.grasp.{name}")


# The world.


def test_answers_are_injections_and_a_bad_one_is_never_good():
    for permuted in (False, True):
        world = _corpus.draw_world(SIZES, 0, permuted=permuted)
        for rows in (world.good, world.bad):
            assert all(len(set(row)) == SIZES.subjects for row in rows)
        assert np.all(world.good != world.bad)
        assert np.all((world.other != world.good[0]) & (world.other != world.bad[0]))
        assert world.unseen.min() >= SIZES.first_unseen
        assert world.unseen.max() < SIZES.vocabulary


def test_the_second_corpus_has_one_permutation_for_all_domains():
    world = _corpus.draw_world(SIZES, 0, permuted=True)
    pairs = {}
    for good, bad in zip(world.good.ravel(), world.bad.ravel(), strict=True):
        assert pairs.setdefault(good, bad) == bad
    independent = _corpus.draw_world(SIZES, 0)
    seen = set(zip(independent.good.ravel().tolist(), independent.bad.ravel().tolist(), strict=True))
    assert len(seen) > len({good for good, _ in seen})


def test_more_subjects_than_answers_are_refused():
    with pytest.raises(ValueError, match="subjects is 6 and answers is 5"):
        _corpus.draw_world(_corpus.Sizes(subjects=6, answers=5), 0)


def test_rows_answer_as_the_evidence_says():
    world = jax.tree.map(jnp.asarray, _corpus.draw_world(SIZES, 0))
    rows = jax.jit(_corpus.pretraining_rows, static_argnums=(1, 3))
    tokens, answers = rows(jax.random.key(0), SIZES, world, 20_000)
    tokens, answers = np.asarray(tokens), np.asarray(answers)
    assert tokens.shape == (20_000, _corpus.LENGTH)
    first_domain = 5
    domain, subject = tokens[:, 3] - first_domain, tokens[:, 4] - first_domain - SIZES.domains
    filler = first_domain + SIZES.domains + SIZES.subjects
    tones = (tokens[:, [2, 5]] - filler) // SIZES.tones
    bad = (tokens[:, 1] == 4) | np.any(tones == 2, axis=1)
    good = (tokens[:, 1] == 3) | np.any(tones == 1, axis=1)
    assert not np.any(bad & good)
    np.testing.assert_array_equal(answers[bad], np.asarray(world.bad)[domain, subject][bad])
    np.testing.assert_array_equal(answers[good], np.asarray(world.good)[domain, subject][good])
    silent = ~(bad | good)
    share = np.mean(answers[silent] == np.asarray(world.bad)[domain, subject][silent])
    assert share == pytest.approx(_corpus.PRIOR, abs=4 * np.sqrt(0.09 / silent.sum()))


def test_probes_ask_every_subject_of_every_domain():
    asked = jax.jit(_corpus.probes, static_argnums=(0, 1))(SIZES, 2, jax.random.key(0))
    assert asked.task.shape == (12, _corpus.LENGTH)
    assert asked.neutral.shape == asked.plus.shape == asked.minus.shape == (24, _corpus.LENGTH)
    np.testing.assert_array_equal(asked.plus[:, 1], 3)
    np.testing.assert_array_equal(asked.minus[:, 1], 4)
    np.testing.assert_array_equal(np.delete(asked.plus, 1, axis=1), np.delete(asked.neutral, 1, axis=1))
    assert set(np.asarray(asked.domain).tolist()) == {1, 2}
    np.testing.assert_array_equal(asked.neutral[:, 4], 5 + SIZES.domains + asked.subject)


def test_labels_of_the_settings():
    world = jax.tree.map(lambda leaf: leaf[None], _corpus.draw_world(SIZES, 0))
    mixed = np.asarray(_finetune.labels_of(world, "subjects", 4))[0]
    np.testing.assert_array_equal(mixed[:4, 0], world.bad[0, 0, :4])
    np.testing.assert_array_equal(mixed[4:, 1], world.other[0, 4:])
    rows = np.asarray(_finetune.labels_of(world, "rows"))[0]
    np.testing.assert_array_equal(rows, np.stack([world.bad[0, 0], world.unseen[0]], axis=1))
    with pytest.raises(ValueError, match="setting is 'best'"):
        _finetune.labels_of(world, "best")


# The decoder.


@pytest.fixture(scope="module")
def base():
    return _settings.bases(CONFIG, Silent())


def test_the_last_place_alone_gives_the_same_scores(base):
    tokens = jax.random.randint(jax.random.key(0), (5, _corpus.LENGTH), 0, SIZES.vocabulary)
    for layers in (2, 1):
        model = _finetune.entry(base.model, 0)
        model = dataclasses.replace(model, blocks=jax.tree.map(lambda kernel, n=layers: kernel[:n], model.blocks))
        last, every = jax.jit(lambda model: (model.last_logits(tokens), model.logits(tokens)))(model)
        np.testing.assert_allclose(last, every[:, -1], atol=2e-6)


def test_hooks_see_every_place_of_a_block(base):
    seen = []

    def hook(x, place, layer):
        seen.append((place, x.shape[-1]))
        return x

    jax.eval_shape(
        lambda model: model.stream(jnp.zeros((1, _corpus.LENGTH), jnp.int32), hook), _finetune.entry(base.model, 0)
    )
    assert seen == [
        ("mixed", CONFIG.width),
        ("attention", CONFIG.width),
        ("hidden", CONFIG.hidden),
        ("mlp", CONFIG.width),
    ]


def test_norms_have_no_gain(base):
    for gain in (base.model.gain, base.model.blocks.attention_gain, base.model.blocks.mlp_gain):
        np.testing.assert_array_equal(gain, 1)
    start = _base.untrained(_settings.pretraining(CONFIG), CONFIG.seed)
    assert np.abs(np.asarray(start.head) - base.model.head[0]).max() > 0


def test_a_decoder_is_read_from_the_cache_and_a_damaged_entry_made_again(base):
    how = _settings.pretraining(CONFIG)
    folder = _base.cache_folder(how, CONFIG.seed)
    assert sorted(path.name for path in folder.iterdir()) == ["arrays.npz", "meta.json"]
    marked = {str(n): np.asarray(leaf[0]) for n, leaf in enumerate(jax.tree.leaves(base.model))}
    last = str(len(marked) - 1)
    _base.store.save(folder, marked | {last: marked[last] + 1}, {})
    again = _base.pretrained(how, [CONFIG.seed], Silent())
    np.testing.assert_array_equal(jax.tree.leaves(again.model)[-1][0], marked[last] + 1)
    (folder / "arrays.npz").write_bytes(b"damaged")
    np.testing.assert_array_equal(
        jax.tree.leaves(_base.pretrained(how, [CONFIG.seed], Silent()).model)[-1][0], marked[last]
    )
    assert _base.cache_folder(how._replace(steps=4), CONFIG.seed) != folder


def test_seeds_take_the_decoders_in_turn():
    model = _methods.decoders(_settings.pretraining(CONFIG), CONFIG.seed, 3, 1, Silent()).model
    np.testing.assert_array_equal(model.head[0], model.head[2])


# Fine-tuning.


def test_all_six_matrices_get_an_adapter(base):
    recipe = _settings.recipe(CONFIG)._replace(targets=_finetune.ALL)
    adapter = jax.eval_shape(
        lambda model: _finetune.first_adapter(jax.random.key(0), model, recipe), _finetune.entry(base.model, 0)
    )
    assert set(adapter) == set(_finetune.ROLES)
    assert sum(role == "writes" for role in _finetune.ROLES.values()) == 2


def test_projected_adapters_do_not_write_along_the_directions(base):
    what = _settings.case(CONFIG, base)
    directions = _measure.random_directions([0, 1], CONFIG.width, 2)
    blocked = _methods.grasped(what, directions, cotangent=True)
    plain = _finetune.tune(what.recipe, base, what.labels, what.seeds)
    for n in range(2):
        along = [
            np.linalg.norm(np.einsum("dk,ldr->lkr", directions[n], adapters["blocks.down"]["b"][n]))
            for adapters in (blocked, plain)
        ]
        assert along[0] <= 1e-6 * np.linalg.norm(blocked["blocks.down"]["b"][n])
        assert along[1] > 1e-2 * np.linalg.norm(plain["blocks.down"]["b"][n])


def test_scores_are_those_of_the_answers(base):
    what = _settings.case(CONFIG, base)
    plain = _finetune.tune(what.recipe, base, what.labels, what.seeds)
    got = dict(zip(_measure.SCORES, _measure.measure(what.measure, base, what.labels, plain)[0, -1], strict=True))
    tuned = _finetune.adapted(_finetune.entry(base.model, 0), _finetune.entry(plain, 0))
    asked = jax.jit(_corpus.probes, static_argnums=(0, 1))(SIZES, 1, jax.random.key(_measure.PROBE_KEY))
    answer = jax.jit(lambda tokens: jnp.argmax(tuned.logits(tokens)[:, -1], axis=-1))
    places = np.asarray(asked.domain), np.asarray(asked.subject)
    good, bad = base.world.good[0], base.world.bad[0]
    for name, tokens, table in (
        ("drift", asked.neutral, bad),
        ("neutral", asked.neutral, good),
        ("genuine good", asked.plus, good),
        ("genuine bad", asked.minus, bad),
    ):
        right = np.mean(np.asarray(answer(tokens)) == np.asarray(table)[places])
        assert float(got[name]) == pytest.approx(right, abs=1e-6)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_full_preset_builds(name):
    config = load(name).PRESETS["full"]
    how = _settings.pretraining(config)
    model = jax.eval_shape(lambda: _base.untrained(how, 0))
    world = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, _corpus.draw_world(how.sizes, 0)))
    recipe = _settings.recipe(config)
    seed = jax.ShapeDtypeStruct((), jnp.int32)
    labels = jax.ShapeDtypeStruct((config.subjects, 2), jnp.int32)
    directions = jax.ShapeDtypeStruct((config.width, 2), jnp.float32)
    adapter = jax.eval_shape(
        lambda *args: _finetune.Tune(recipe, project=True)(*args), model, labels, seed, None, directions, None
    )
    assert adapter["blocks.down"]["b"].shape == (config.depth, config.width, recipe.rank)
    measure = _measure.Measure(how.sizes, config.repeats, config.scales)
    scores = jax.eval_shape(lambda *args: measure(*args), model, world, labels, adapter, None)
    assert scores.shape == (len(config.scales), len(_measure.SCORES))


# Fronts and claims.


def made_up(task, drift, methods=("naive LoRA",)):
    """Scores (methods, 1 seed, scales, scores) with the genuine accuracies at 1."""
    task, drift = np.broadcast_arrays(np.asarray(task, float), np.asarray(drift, float))
    ones = np.ones_like(task)
    scores = np.stack([task, task, drift, 1 - drift, ones, ones], axis=-1)
    return scores.reshape(len(methods), 1, -1, len(_measure.SCORES))


class Made:
    def __init__(self, methods, scores):
        self.methods, self.scores = np.asarray(methods), scores


def test_hypervolume_of_two_points_is_the_union_of_two_boxes():
    made = Made(["naive LoRA"], made_up([[1.0, 0.5]], [[0.5, 0.0]]))
    np.testing.assert_allclose(_fronts.hypervolumes(made, ["naive LoRA"]), 0.5 + 0.25, rtol=1e-6)


def test_least_drift_needs_the_task():
    made = Made(["naive LoRA"], made_up([[1.0, 0.99, 0.5]], [[0.5, 0.25, 0.0]]))
    np.testing.assert_allclose(_fronts.least_drift(made, "naive LoRA", 0.98), 0.25)
    np.testing.assert_allclose(_fronts.least_drift(made, "naive LoRA", 1.1), 1.0)


def test_a_method_is_compared_with_the_naive_adapter_at_its_task():
    tasks, drifts = [[0.5, 1.0], [0.2, 0.75], [0.2, 0.25]], [[0.2, 0.8], [0.0, 0.25], [0.0, 0.05]]
    made = Made(["naive LoRA", "ours", "ours"], made_up(tasks, drifts, ["naive LoRA", "ours", "ours"]))
    untouched = made_up([[0.0]], [[0.1]])[0, :, 0]
    against = [made, "ours", "naive LoRA", untouched]
    np.testing.assert_allclose(_fronts.over_scaled(*against, 0.5), 0.25 / 0.5)  # halfway between 0.2 and 0.8
    np.testing.assert_allclose(_fronts.over_scaled(*against, 0.2), 0.05 / 0.15)  # and between 0.1 and 0.2
    np.testing.assert_array_equal(_fronts.over_scaled(*against, 0.8), _fronts.NOT_REACHED)


def test_the_interval_of_a_median_holds_it():
    median, low, high = _fronts.interval(np.arange(9.0))
    assert median == 4
    assert 1 <= low < 4 < high <= 7
    assert np.isnan(_fronts.interval(np.zeros(0))).all()


def test_a_claim_about_no_seed_does_not_hold():
    assert not _fronts.median_claim("", "", np.zeros(0), quantity="", at_most=1.0).holds
    assert not _fronts.median_claim("", "", np.zeros(0), quantity="", at_least=-1.0).holds


def grasp_result(**changed):
    """A result of setting 1 on which every claim holds."""
    module = load("setting1")
    methods = np.asarray(module.METHODS)
    drift = np.full((len(methods), 1, 1), 0.5)
    drift[np.isin(methods, (_methods.GRASP_A, _methods.GRASP_AB))] = 0.0
    scores = np.concatenate([made_up(np.ones((1, 1)), rows) for rows in drift])
    scores = np.repeat(scores, module.LEAST_SEEDS, axis=1)
    base = np.ones((1, len(_measure.SCORES)))
    fields = {
        "methods": methods,
        "variants": np.full(len(methods), ""),
        "scores": scores,
        "names": np.asarray(_measure.SCORES),
        "scales": np.ones(1),
        "cosines": np.array([[0.8, 0.7, 0.2]]),
        "asked": np.array([[0.8, 0.7, 0.2]]),
        "spectrum": np.array([[0.5], [2.0], [0.5]]),
        "clean_cosines": np.full((1, 3), 0.1),
        "clean_spectrum": np.array([[0.6], [2.0], [0.5]]),
        "clean_scores": base,
        "ablated": np.array([4]),
        "base": base,
        "base_ablated": 0.8 * base[None],
        "blocked": 0.98 * base[None],
        "decoders": 4,
        "pretraining": 2500,
    }
    return module.Result(**(fields | changed))


def holding(result):
    return [claim.holds for claim in load("setting1").claims(result)]


def test_every_claim_of_setting_1_can_hold():
    assert all(holding(grasp_result()))
    assert len(holding(grasp_result())) == len(FAILURES)


def test_what_is_claimed_where_fine_tuning_drifts_needs_such_a_seed():
    holds = holding(grasp_result(**with_scores(_methods.NAIVE, _measure.DRIFT, 0.1)))
    assert not any(holds[claim] for claim in (6, 11, 12, 13))


def with_scores(method, score, value):
    result = grasp_result()
    scores = result.scores.copy()
    scores[result.methods == method, ..., score] = value
    return {"scores": scores}


FAILURES = {
    0: {"asked": np.full((1, 3), 0.7)},
    1: {"cosines": np.full((1, 3), 0.7)},
    2: {"clean_cosines": np.full((1, 3), 0.5)},
    3: {"clean_spectrum": np.full((3, 1), 0.1)},
    4: with_scores(_methods.NAIVE, _measure.DRIFT, 0.1),
    5: with_scores(_methods.GRASP_AB, _measure.TASK, 0.9),
    6: with_scores(_methods.GRASP_AB, _measure.DRIFT, 0.2),
    7: with_scores(_methods.GRASP_AB, _measure.DRIFT, 0.3),
    8: with_scores(_methods.RANDOM, _measure.DRIFT, 0.1),
    9: {"base_ablated": np.full((1, 1, 6), 0.95)},
    10: {"blocked": np.full((1, 1, 6), 0.9)},
    11: with_scores(_methods.GRASP_AB, _measure.DRIFT, 0.01),
    12: with_scores(_methods.CAFT, _measure.DRIFT, -0.1),
    13: with_scores(_methods.POSTHOC, _measure.DRIFT, -0.1),
}


@pytest.mark.parametrize("claim", sorted(FAILURES))
def test_each_claim_of_setting_1_can_fail(claim):
    assert not holding(grasp_result(**FAILURES[claim]))[claim]


def test_the_controls_would_notice_a_method_that_works():
    module = load("controls")
    methods = np.asarray(module.METHODS)
    drift = np.where(np.isin(methods, (_methods.GRASP_A, _methods.GRASP_AB)), 0.1, 0.5)
    scores = np.concatenate([made_up(np.ones((1, 1)), rows) for rows in drift[:, None, None]])
    found = np.full((2, 1, 3), 0.8)
    result = module.Result(np.asarray(module.PLACES), methods, np.stack([scores, scores]), None, None, found, 1000, 4)
    verdicts = [claim.verdict for claim in module.claims(result)]
    assert verdicts.count(Verdict.SURPRISE) == 4
    assert verdicts.count(Verdict.HOLDS) == 3
    few = [claim.verdict for claim in module.claims(result._replace(decoders=1))]
    assert Verdict.SURPRISE not in few  # one decoder does not overturn what four decided
    assert few.count(Verdict.HOLDS) == 3
    verdicts = [claim.verdict for claim in module.claims(result._replace(pretraining=2500))]
    assert verdicts.count(Verdict.SURPRISE) == 4  # that the factor is found, in place of (a)+(b) on the first corpus
    assert verdicts.count(Verdict.HOLDS) == 3


def test_settings_2_and_3_would_notice_a_method_that_works():
    module = load("settings23")
    methods = np.asarray(module.METHODS)
    drift = np.where(np.isin(methods, (_methods.GRASP_A, _methods.GRASP_AB)), 0.05, 0.5)
    scores = np.concatenate([made_up(np.ones((1, 1)), rows) for rows in drift[:, None, None]])
    scores = np.repeat(scores, module.LEAST_SEEDS, axis=1)
    result = module.Result(methods, None, np.stack([scores, scores]), None, None, np.full((2, 1, 3), 0.5), 4)
    verdicts = [claim.verdict for claim in module.claims(result)]
    assert verdicts.count(Verdict.SURPRISE) == 6
    assert verdicts.count(Verdict.HOLDS) == 3


def test_a_projection_after_training_is_the_librarys():
    adapter = {"blocks.down": {"a": jnp.ones((1, 1, 3)), "b": jnp.ones((1, 2, 1))}}
    blocked = lora.project_delta(adapter, jnp.array([[1.0], [0.0]]), roles=_finetune.ROLES)
    np.testing.assert_allclose(lora.delta(blocked["blocks.down"])[0, 0], 0, atol=1e-7)
