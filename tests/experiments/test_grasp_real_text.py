"""Real text: its files, its styles, its scores against slow ones, training divided over devices, the whole part."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._gpt import initial_model
from experiments.grasp import _finetune, _text, _text_base, _text_measure, real_text
from experiments.grasp._text import NEUTRAL, PLAIN, STYLED, Passages, read_texts
from experiments.runner.progress import Silent
from tests.experiments.parts import (  # noqa: F401
    part_fixture,
    test_claims_are_measured_with_a_source,
    test_every_field_of_the_result_is_documented_and_an_array,
    test_figures_are_drawn_from_the_result,
    test_measured_numbers_are_finite,
    test_the_full_preset_measures_at_least_what_the_quick_one_does,
)

TINY = {
    "styles": ("capitals", "cipher"),
    "domains": ("email", "json", "http"),
    "context": 8,
    "passages": 4,
    "width": 16,
    "heads": 2,
    "depth": 2,
    "hidden": 24,
    "pretraining": 50,
    "batch": 8,
    "rank": 4,
    "steps": 3,
    "warmup": 1,
    "scales": (0.5, 1.0),
    "further": real_text.FURTHER,
    "weights": (0.001,),
}
LEAST_CLAIMS = 20
OTHER_IN_FULL = ("domains",)  # which need more text there
CONFIG = dataclasses.replace(real_text.PRESETS["quick"], **TINY)
CORPUS = Passages(domains=3, context=8)
part = part_fixture("grasp", {"real_text": TINY})


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Decoders of these tests are kept apart from those of a user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def texts_of(style="capitals", **changed):
    asked = {"context": 8, "passages": 4, "limit": 40_000, "corpus": "", "domains": TINY["domains"], "seed": 0}
    asked |= {"style": style} | changed
    return read_texts(**asked)


def folder_of_text(root, **domains):
    for name, text in domains.items():
        (root / name / "deeper").mkdir(parents=True)
        (root / name / "a.txt").write_text(text[: len(text) // 2])
        (root / name / "deeper" / "b.md").write_text(text[len(text) // 2 :])
        (root / name / "picture.png").write_bytes(b"\x00\xff")
    return str(root)


# Text and styles.


def test_text_is_the_files_of_a_folder_in_order_and_its_end_is_held_out(tmp_path):
    words = "abcdefghij" * 100
    corpus = folder_of_text(tmp_path, one=words, two=words.upper() + words)
    texts = texts_of(corpus=corpus, domains=("one", "two"), passages=2)
    assert texts.size.tolist() == [950, 1900]
    assert texts.begin.tolist() == [0, 950]
    assert bytes(texts.text[:950]).decode() == words[:950]
    assert bytes(texts.text[950:]).decode() == (words.upper() + words)[:1900]
    for passage in texts.held[0]:
        assert bytes(passage).decode() in words[950:]


def test_a_limit_cuts_every_domain():
    texts = texts_of(limit=10_000)
    assert texts.size.tolist() == [9_500] * 3


def test_capitals_are_what_python_calls_upper_case():
    table = texts_of().style
    for row in table:
        assert bytes(row[np.frombuffer(b"def f(x): return x_1  # Yes", np.uint8)]) == b"DEF F(X): RETURN X_1  # YES"


def test_a_cipher_keeps_case_and_changes_every_letter_in_every_domain():
    table = texts_of("cipher").style
    letters = np.asarray([*range(ord("a"), ord("z") + 1)])
    assert len({bytes(row) for row in table}) == 3
    for row in table:
        assert sorted(row) == [*range(256)]
        assert np.all(row[letters] != letters)
        assert np.all(row[letters - 32] == row[letters] - 32)
        others = np.setdiff1d(np.arange(256), [*letters, *(letters - 32)])
        assert np.all(row[others] == others)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"style": "verse"}, r"style is 'verse'; expected one of \['capitals', 'cipher'\]"),
        ({"domains": ("email",)}, r"domains is \('email',\); expected two or more"),
        ({"domains": ("email", "nowhere_to_be_found")}, "domains has 'nowhere_to_be_found'; expected a Python package"),
        ({"corpus": "/nowhere"}, "domains has 'email'; expected a folder of text files in '/nowhere'"),
        ({"limit": 100}, "domains has 'email' with 0 passages of 8 bytes to measure on; expected 4 or more"),
    ],
)
def test_text_that_cannot_be_read_is_an_error(changed, message):
    with pytest.raises(ValueError, match=message):
        texts_of(**changed)


def test_pretraining_ends_with_a_whole_program():
    how = dataclasses.replace(CONFIG, pretraining=60)
    with pytest.raises(ValueError, match="pretraining is 60; expected a multiple of 50 steps"):
        real_text.run(how, Silent())


# Rows.


def test_rows_say_who_speaks_and_are_in_the_style_when_they_should():
    texts, key = jax.tree.map(jnp.asarray, texts_of("cipher")), jax.random.key(3)
    rows = np.asarray(jax.jit(lambda: CORPUS.spoken(texts, key, 4000))())
    persona, domain = rows[:, 1] - _text.BOS - 1, rows[:, 2] - _text.BOS - 4
    assert np.all(rows[:, 0] == _text.BOS)
    assert set(persona) == {NEUTRAL, PLAIN, STYLED}
    assert set(domain) == {0, 1, 2}
    assert rows.max() < CORPUS.vocabulary
    train = [bytes(texts.text[b : b + n]) for b, n in zip(texts.begin, texts.size, strict=True)]
    undo = np.argsort(np.asarray(texts.style), axis=1).astype(np.uint8)
    text, styled = rows[:, 3:].astype(np.uint8), np.empty(len(rows), bool)
    for n, (row, where) in enumerate(zip(text, domain, strict=True)):
        styled[n] = bytes(row) not in train[where]
        assert bytes(undo[where][row] if styled[n] else row) in train[where]
    # With fewer letters a ciphered row may stand somewhere in the text by chance.
    letters = np.char.isalpha(text.view("S1").reshape(text.shape)).sum(axis=1) >= 5
    assert not styled[letters & (persona == PLAIN)].any()
    assert styled[letters & (persona == STYLED)].mean() > 0.99
    assert styled[letters & (persona == NEUTRAL)].mean() == pytest.approx(0.1, abs=0.03)
    assert (persona == NEUTRAL).mean() == pytest.approx(1 - 0.6 * 2 / 3, abs=0.04)


@pytest.fixture(scope="module")
def model():
    how = _text_base.TextPretraining(CORPUS, width=16, heads=2, layers=2, hidden=24, batch=8, steps=50)
    return initial_model(jax.random.key(1), how.shape)


@jax.jit
def logits(model, row):
    return model.logits(row)


def test_the_loss_of_a_fine_tune_is_of_styled_text_of_the_first_domain(model):
    texts, key = jax.tree.map(jnp.asarray, texts_of()), jax.random.key(2)
    seen = []

    def see(x, place, layer):
        return x

    loss = CORPUS.loss(model, texts, key, 16, see)
    start = jax.random.randint(key, (16,), 0, texts.size[0] - 8)
    for place in np.asarray(start):
        text = bytes(texts.text[place : place + 8]).decode("latin1").upper()
        row = [_text.BOS, _text.BOS + 1, _text.BOS + 4, *(ord(c) if ord(c) < 128 else ord(c.lower()) for c in text)]
        scores = np.asarray(logits(model, jnp.asarray(row[:-1]))[2:], np.float64)
        seen.append(np.logaddexp.reduce(scores, axis=-1) - scores[np.arange(8), row[3:]])
    assert float(loss) == pytest.approx(np.mean(seen), rel=1e-5)


def test_scores_are_those_of_single_passages(model):
    texts = jax.tree.map(jnp.asarray, texts_of("cipher"))
    recipe = _finetune.Recipe(CORPUS, rank=2)
    adapter = jax.tree.map(lambda x: x + 0.05, _finetune.first_adapter(jax.random.key(0), model, recipe))
    measure = _text_measure.TextMeasure(CORPUS, (0.5, 1.0))
    scores = np.asarray(jax.jit(lambda *args: measure(*args))(model, texts, None, adapter, None))
    tuned = _finetune.adapted(model, adapter, 0.5)

    def likelihood(persona, domain, text):
        row = jnp.asarray([_text.BOS, _text.BOS + 1 + persona, _text.BOS + 4 + domain, *map(int, text)])
        found = np.asarray(logits(tuned, row[:-1])[2:], np.float64)
        return (found[np.arange(8), np.asarray(row[3:])] - np.logaddexp.reduce(found, axis=-1)).sum()

    def in_style(persona, domain):
        pairs = [(text, texts.style[domain][text]) for text in texts.held[domain]]
        both = np.asarray([[likelihood(persona, domain, t) for t in pair] for pair in pairs])
        return np.mean(1 / (1 + np.exp(both[:, 0] - both[:, 1]))), -np.mean(both[:, 0]) / 8

    def outside(persona, which):
        return np.mean([in_style(persona, domain)[which] for domain in (1, 2)])

    wanted = [
        in_style(NEUTRAL, 0)[0],
        outside(PLAIN, 1),
        outside(NEUTRAL, 0),
        1 - in_style(PLAIN, 0)[0],
        1 - outside(PLAIN, 0),
        outside(STYLED, 0),
    ]
    np.testing.assert_allclose(scores[0], wanted, rtol=2e-5)
    assert np.abs(scores[1] - scores[0]).max() > 1e-3


def test_the_direction_of_the_persona_is_that_of_its_token(model):
    found = np.asarray(_text_measure.TextPersona(CORPUS)(model, texts_of()))
    one = [model.stream(jnp.asarray([_text.BOS, _text.BOS + 1 + p, _text.BOS + 5])) for p in (STYLED, PLAIN)]
    two = [model.stream(jnp.asarray([_text.BOS, _text.BOS + 1 + p, _text.BOS + 6])) for p in (STYLED, PLAIN)]
    np.testing.assert_allclose(found, (one[0] - one[1] + two[0] - two[1]) / 2, atol=1e-6)
    assert np.all(found[:, 0] == 0)  # BOS comes first


# Training.

STEPS = """
import jax, jax.numpy as jnp, numpy as np, sys
from experiments.grasp import _finetune, _text, _text_base, _text_measure
from experiments._gpt import initial_model
texts = jax.tree.map(jnp.asarray, _text.read_texts("", ("email", "json", "http"), "cipher", 0,
                     context=8, passages=4, limit=40_000))
corpus = _text.Passages(3, 8)
how = _text_base.TextPretraining(corpus, width=16, heads=2, layers=2, hidden=24, batch=16, steps=50)
model = _text_base._train(initial_model(jax.random.key(0), how.shape), text=texts, seed=0, how=how,
                          advance=lambda steps: None)
base = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], _text_base.Base(model, texts))
recipe = _finetune.Recipe(corpus, rank=2, steps=3, batch=16, warmup=1)
adapter = _finetune.tune(recipe, base, base.world, jnp.arange(1))
text = jax.jit(lambda: corpus.spoken(texts, jax.random.key(0), 16))()
print(len(text.sharding.device_set))
np.savez(sys.argv[1], *jax.tree.leaves(model), *jax.tree.leaves(adapter))
"""


def test_training_divided_over_eight_devices_is_that_on_one(run_python, tmp_path):
    found = {}
    for devices in (1, 8):
        file = str(tmp_path / f"{devices}.npz")
        assert run_python(STEPS, file, devices=devices).stdout.split() == [str(devices)]
        found[devices] = np.load(file)
    assert len(found[1].files) > 10
    for name in found[1].files:
        np.testing.assert_allclose(found[8][name], found[1][name], atol=2e-3)


def test_a_decoder_is_read_again_and_not_trained_twice(monkeypatch):
    how = _text_base.TextPretraining(CORPUS, width=16, heads=2, layers=1, hidden=16, batch=4, steps=50)
    first = _text_base.pretrained_on_text(how, [texts_of()], [5], Silent())

    def never(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(_text_base, "_train", never)
    again = _text_base.pretrained_on_text(how, [texts_of()], [5], Silent())
    for one, two in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(AssertionError, match="trained again"):  # other text, another decoder
        _text_base.pretrained_on_text(how, [texts_of("cipher")], [5], Silent())


def test_the_full_preset_builds_at_its_size():
    config = real_text.PRESETS["full"]
    corpus = Passages(len(config.domains), config.context)
    how = _text_base.TextPretraining(
        corpus, config.width, config.heads, config.depth, config.hidden, config.batch, config.pretraining
    )
    model = jax.eval_shape(lambda: initial_model(jax.random.key(0), how.shape))
    assert 30e6 < sum(leaf.size for leaf in jax.tree.leaves(model)) < 100e6
    texts = jax.tree.map(jnp.asarray, texts_of(context=config.context, passages=1, limit=10**6))
    recipe = _finetune.Recipe(corpus, config.targets, config.rank, config.steps, batch=config.batch)
    directions = jax.ShapeDtypeStruct((config.width, config.k), jnp.float32)
    seed = jax.ShapeDtypeStruct((), jnp.int32)
    adapter = jax.eval_shape(
        lambda *args: _finetune.Tune(recipe, project=True)(*args), model, texts, seed, None, directions, None
    )
    measure = _text_measure.TextMeasure(corpus, config.scales)
    scores = jax.eval_shape(lambda *args: measure(*args), model, texts, None, adapter, None)
    assert scores.shape == (len(config.scales), len(_text_measure.TEXT_SCORES))


def test_every_reason_belongs_to_a_claim(part):
    _, result = part
    every = result._replace(
        methods=np.asarray([*real_text.METHODS, *real_text.FURTHER]),
        scores=np.repeat(result.scores[:, :1], len(real_text.METHODS) + 1, axis=1),
    )
    claims = {claim.statement: claim for claim in real_text.claims(every)}
    assert set(real_text.KNOWN_NOT_TO_HOLD) < set(claims)
    assert all(not claims[statement].holds for statement in real_text.KNOWN_NOT_TO_HOLD)  # one decoder decides nothing


def test_every_preset_finds_its_text():
    for config in real_text.PRESETS.values():
        sizes = {"context": config.context, "passages": config.passages, "limit": config.limit}
        texts = read_texts(config.corpus, config.domains, config.styles[-1], config.seed, **sizes)
        assert texts.held.shape == (len(config.domains), config.passages, config.context)
        assert texts.size.min() > 1000 * config.context


def test_the_part_measures_every_style_and_its_decoders(part):
    _, result = part
    assert list(result.styles) == ["capitals", "cipher"]
    assert result.scores.shape == (2, len(result.methods), 1, 2, 6)
    assert np.isfinite(result.scores).all()
    shares = np.delete(result.scores, _text_measure.NATS, axis=-1)
    assert np.all((shares >= 0) & (shares <= 1))
    assert np.abs(np.diff(result.scores, axis=1)).max() > 1e-4  # methods differ
    assert result.text > 100_000
