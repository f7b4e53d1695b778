"""The report on a checkpoint: planted cycles and simplices are found, chance is called chance, bad input is named."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.flax import save_file

from jaxspec.peeled import simplex_etf_defect, symmetry_report
from jaxspec.peeled.__main__ import main
from jaxspec.peeled.report_result import SymmetryReport
from jaxspec.peeled.vocabulary import WEEKDAYS

TOKENS, WIDTH = 80, 24
SIMPLEX = ("red", "blue", "green", "black", "white", "pink", "grey")


def table(seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((TOKENS, WIDTH)) / np.sqrt(WIDTH)
    angles = 2 * np.pi * np.arange(7) / 7
    rows[:7] = 0.1 * rows[:7]
    rows[:7, :2] += np.stack([np.cos(angles), np.sin(angles)], 1)
    rows[7:14] = 0.01 * rows[7:14] + np.eye(7, WIDTH)
    return rows + 3.0  # a common offset that centring has to remove


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_file({"model.embed_tokens.weight": jnp.asarray(table(), jnp.float16)}, folder / "model.safetensors")
    names = [*WEEKDAYS, *SIMPLEX, *(f"token{i}" for i in range(TOKENS - 14))]
    vocab = {f"▁{name}": row for row, name in enumerate(names)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}}))
    return folder


@pytest.fixture(scope="module")
def report(checkpoint):
    lists = {"weekdays": "weekdays", "simplex": SIMPLEX, "chance": [f"token{i}" for i in range(7)]}
    return symmetry_report(checkpoint, lists, controls=49)


def test_a_planted_cycle_leads(report):
    cycle, simplex, chance = report.concepts
    assert cycle.harmonic.exact
    assert cycle.harmonic.p_value == pytest.approx(1 / 360)
    assert cycle.circulant_r2.p_value == pytest.approx(3 / 360)
    assert cycle.circulant_r2.value > 0.95
    assert cycle.harmonic.control_p_value == pytest.approx(1 / 50)
    assert cycle.mode_power[0] > 0.9
    assert len(cycle.equivalent_orders) == 3
    assert chance.harmonic.p_value > 0.05
    assert simplex.harmonic.control_p_value > 0.2  # its orders differ by rounding alone; random tokens are as cyclic


def test_a_simplex_is_judged_beside_random_rows(report):
    cycle, simplex, chance = report.concepts
    assert simplex.simplex.defect < 0.05 < simplex.simplex.gaussian_mean
    assert simplex.simplex.gaussian_p_value == pytest.approx(1 / 1001)
    assert simplex.simplex.control_p_value == pytest.approx(1 / 50)
    assert chance.simplex.gaussian_p_value > 0.05
    assert cycle.simplex.gaussian_p_value == 1.0
    rows = np.float16(table())[7:14].astype(np.float32)
    assert simplex.simplex.defect == pytest.approx(float(simplex_etf_defect(jnp.asarray(rows), center=True)), rel=1e-4)


def test_intervals_hold_the_value_and_p_values_are_adjusted(report):
    for concept in report.concepts:
        for score in (concept.harmonic, concept.circulant_r2):
            assert score.low < score.high
        assert concept.adjusted_p_value >= concept.harmonic.p_value
    assert report.concepts[0].harmonic.low <= report.concepts[0].harmonic.value <= report.concepts[0].harmonic.high
    assert report.concepts[0].adjusted_p_value == pytest.approx(3 / 360)
    assert report.tied
    assert report.tensor == "model.embed_tokens.weight"
    assert report.dtype == "F16"


def test_gram_and_plane_are_those_of_the_rows(report):
    rows = np.float16(table())[:7].astype(float)
    rows -= rows.mean(axis=0)
    norms = np.linalg.norm(rows, axis=1)
    concept = report.concepts[0]
    np.testing.assert_allclose(concept.gram, rows @ rows.T / np.outer(norms, norms), atol=1e-5)
    u, s, _ = np.linalg.svd(rows, full_matrices=False)
    np.testing.assert_allclose(np.abs(concept.coordinates), np.abs(u[:, :2] * s[:2]), atol=1e-4)


def test_a_hidden_order_is_found_and_judged_by_its_search(checkpoint):
    shuffled = [WEEKDAYS[i] for i in (3, 0, 5, 1, 6, 2, 4)]
    concept = symmetry_report(checkpoint, shuffled, order="discover", controls=49).concepts[0]
    places = np.asarray([WEEKDAYS.index(word) for word in concept.words])
    assert set(np.diff([*places, places[0]]) % 7) <= {1} or set(np.diff([*places, places[0]]) % 7) <= {6}
    assert concept.harmonic.p_value == pytest.approx(1 / 50)
    assert concept.harmonic.control_p_value <= 0.1
    assert concept.equivalent_orders[0] == tuple(range(7))
    assert not concept.harmonic.exact
    assert np.isnan(concept.harmonic.null_mean)


def test_rows_need_no_tokenizer_and_centres_agree(tmp_path, checkpoint):
    path = tmp_path / "only.safetensors"
    save_file({"lm_head.weight": jnp.asarray(table(), jnp.float32)}, path)
    rows = list(range(7))
    by_group, by_vocab, none = (
        symmetry_report(path, rows, center=center, controls=9).concepts[0] for center in ("group", "vocab", "none")
    )
    assert by_group.harmonic.p_value == pytest.approx(1 / 360)
    centred = table()[:7].astype(np.float32) - table().mean(axis=0)
    cosines = centred @ centred.T / np.outer(*2 * [np.linalg.norm(centred, axis=1)])
    np.testing.assert_allclose(by_vocab.gram, cosines, atol=1e-5)
    assert none.gram.min() > 0.9  # the common offset is all that is seen
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        symmetry_report(path, "weekdays")


def test_json_and_figure_are_written_whole(report, tmp_path):
    report.to_json(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["concepts"][0]["harmonic"]["p_value"] == pytest.approx(1 / 360)
    assert np.shape(content["concepts"][0]["gram"]) == (7, 7)
    figure = report.plot(tmp_path / "report.png")
    assert len(figure.axes) == 9
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "plain").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1  # others may read it as they may read any new file
    (tmp_path / "plain").unlink()
    with pytest.raises(FileNotFoundError):
        report.to_json(tmp_path / "absent" / "report.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.png"]


def test_the_command_line_writes_and_says(checkpoint, tmp_path, capsys):
    files = "--json", str(tmp_path / "r.json"), "--figure", str(tmp_path / "r.svg")
    assert main([str(checkpoint), "--words", "weekdays", ",".join(SIMPLEX), "--controls", "49", *files]) == 0
    said = capsys.readouterr().out
    assert "weekdays: Monday Tuesday" in said
    assert "list 2: red blue" in said
    assert "(tied)" in said
    assert (tmp_path / "r.svg").exists()
    assert json.loads((tmp_path / "r.json").read_text())["controls"] == 49


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--words", "Monday,Noday,Tuesday,Sunday"], "words has Noday"),
        (["--words", "Monday,Tuesday,Sunday"], "at least 4"),
        (["--words", "colors"], "--words has 'colors'; expected one of ('weekdays', 'months'), or words with commas"),
        (["--words", "0,1,2,99"], "99"),
        (["--tensor", "absent"], "absent"),
        (["--tokenizer", "absent.json"], "no such vocabulary"),
        (["--controls", "0"], "controls"),
    ],
)
def test_the_command_line_names_what_is_wrong_in_a_line(checkpoint, capsys, arguments, message):
    assert main([str(checkpoint), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "guess"}, "order is 'guess'; expected one of"),
        ({"center": "median"}, "center is 'median'; expected one of"),
        ({"num_samples": 0}, "num_samples"),
        ({"words": "seasons"}, "one of"),
    ],
)
def test_bad_options_are_named(checkpoint, options, message):
    with pytest.raises(ValueError, match=message):
        symmetry_report(checkpoint, options.pop("words", "weekdays"), **options)


def test_rows_without_a_direction_are_named(tmp_path):
    rows = np.array(table(), np.float32)
    rows[2] = 0
    rows[3] = np.nan
    save_file({"lm_head.weight": jnp.asarray(rows)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="rows of 2, 3 are 0"):
        symmetry_report(tmp_path, [0, 1, 2, 3], center="none")
    with pytest.raises(ValueError, match="tokens beside the words; expected at least 41"):
        symmetry_report(tmp_path, list(range(30, 71)))


def test_constant_rows_have_no_cycle(tmp_path):
    save_file(
        {"lm_head.weight": jnp.asarray(np.eye(12, 8) + 0.0 * table()[:12, :8], jnp.float32)},
        tmp_path / "model.safetensors",
    )
    concept = symmetry_report(tmp_path, [0, 1, 2, 3, 4], center="none", controls=5).concepts[0]
    assert np.isnan(concept.circulant_r2.value)
    assert concept.circulant_r2.p_value == 1
    report = SymmetryReport("x", "y", (12, 8), "F32", False, "given", "none", 5, (concept,))
    assert json.loads(report.to_json())["concepts"][0]["circulant_r2"]["value"] is None


def test_a_key_decides_the_controls(checkpoint):
    first, again, other = (
        symmetry_report(checkpoint, "weekdays", controls=49, key=jax.random.key(k)).concepts[0] for k in (1, 1, 2)
    )
    assert first.harmonic == again.harmonic
    assert first.harmonic.low != other.harmonic.low


@pytest.mark.parametrize("center", ["group", "vocab"])
def test_a_matrix_in_memory_is_judged_as_the_file_is(checkpoint, center):
    rows = jnp.asarray(table(), jnp.float16)
    tokenizer, options = checkpoint / "tokenizer.json", {"controls": 9, "center": center}
    from_file = symmetry_report(checkpoint, "weekdays", **options)
    in_memory = symmetry_report(rows, "weekdays", tokenizer=tokenizer, **options)
    by_row = symmetry_report(np.asarray(rows), list(range(7)), **options)
    assert in_memory.concepts[0].harmonic == from_file.concepts[0].harmonic == by_row.concepts[0].harmonic
    assert in_memory.tensor == "array"
    for call, error in (
        (lambda: symmetry_report(rows, "weekdays"), "expected tokenizer"),
        (lambda: symmetry_report(rows[0], [0, 1, 2, 3]), r"shape \(24,\); expected a matrix"),
        (lambda: symmetry_report(rows, [0, 1, 2, 80]), "expected 0 to 79"),
    ):
        with pytest.raises((ValueError, IndexError), match=error):
            call()
