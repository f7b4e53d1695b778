"""The symmetry report on checkpoints with a planted cycle: what it finds, what it lets pass, and what an order costs.

Files of Gaussian rows are written, in which the weekdays lie on a noisy circle and the months do not. One report reads
both, by name; another gets the weekdays in a random order and has to find the cycle. With ``path`` a file of your own
is reported on, too.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, subplots
from jaxspec.peeled import harmonic_score, read_tensor_rows, symmetry_report
from jaxspec.peeled.circular import all_orders
from jaxspec.peeled.vocabulary import MONTHS, WEEKDAYS

SOURCE = "specification, sections 4 and E5"


@dataclass(frozen=True)
class Config:
    """Settings of the files."""

    seed: int = 0  # of the first file
    seeds: int = 10  # files
    tokens: int = 5000
    width: int = 256
    signal: float = 1.0  # norm of the planted circle over that of the noise
    controls: int = 200  # random token sets
    path: str = ""  # of a checkpoint of your own, with its tokenizer.json beside it


PRESETS = {"quick": Config(), "full": Config(seeds=50, tokens=128_000, width=4096, controls=1000)}


class Result(NamedTuple):
    """What was measured; S files.

    Attributes:
        weekdays: p-values of the harmonic test of the planted weekdays, shape (S,).
        months: p-values of the months, shape (S,).
        discovered: p-values of the order that was found, shape (S,).
        recovered: share of files whose cycle was found.
        defects: simplex defect of the planted weekdays and its Gaussian mean, shape (S, 2).
        worst_row: largest difference of the rows read from those written, after bfloat16.
        gram: cosines of the planted weekdays, first file, shape (7, 7).
        power: share of every frequency, first file: weekdays, then months, padded by NaN, shape (2, 6).
        null: first harmonic of the weekdays in all orders, the calendar's first, first file, shape (360,).
        report: of the caller's own checkpoint as JSON, "" without one.
    """

    weekdays: Any
    months: Any
    discovered: Any
    recovered: Any
    defects: Any
    worst_row: Any
    gram: Any
    power: Any
    null: Any
    report: Any


def run(config: Config, progress: Progress) -> Result:
    """Writes and reads every file."""
    measured, gram, power, null = [], None, None, None
    with progress.stage("files", total=config.seeds), tempfile.TemporaryDirectory() as folder:
        for seed in range(config.seed, config.seed + config.seeds):
            table = _write(Path(folder), config, seed)
            key = jax.random.key(seed)
            known = symmetry_report(
                folder, {"weekdays": "weekdays", "months": "months"}, controls=config.controls, key=key
            )
            weekdays, months = known.concepts
            shuffled = np.random.default_rng(seed).permutation(WEEKDAYS).tolist()
            found = symmetry_report(folder, shuffled, order="discover", controls=config.controls, key=key).concepts[0]
            measured.append(
                (
                    weekdays.harmonic.p_value,
                    months.harmonic.p_value,
                    found.harmonic.p_value,
                    _same_cycle(found.words),
                    (weekdays.simplex.defect, weekdays.simplex.gaussian_mean),
                    np.abs(read_tensor_rows(folder, "lm_head.weight", [3, 1]).astype(np.float32) - table[[3, 1]]).max(),
                )
            )
            if gram is None:
                gram = weekdays.gram
                null = np.asarray(jax.vmap(harmonic_score, (None, 0))(jnp.asarray(gram), all_orders(7)))
                power = np.full((2, 6), np.nan)
                power[0, :3], power[1] = weekdays.mode_power, months.mode_power
            progress.advance()
    own = ""
    if config.path:
        own = symmetry_report(config.path, {"weekdays": "weekdays", "months": "months"}).to_json()
    weekdays, months, discovered, recovered, defects, worst = map(np.asarray, zip(*measured, strict=True))
    return Result(weekdays, months, discovered, np.mean(recovered), defects, worst.max(), gram, power, null, own)


def _write(folder: Path, config: Config, seed: int) -> np.ndarray:
    """A checkpoint with its tokenizer; the table as stored."""
    from safetensors.flax import save_file

    rng = np.random.default_rng(seed)
    table = rng.standard_normal((config.tokens, config.width)) / np.sqrt(config.width)
    names = [f"token{i}" for i in range(config.tokens - len(WEEKDAYS) - len(MONTHS))]
    vocab = {name: row for row, name in enumerate([*names, *(f"Ġ{word}" for word in (*WEEKDAYS, *MONTHS))])}
    angles = 2 * np.pi * np.arange(7) / 7
    plane = np.linalg.qr(rng.standard_normal((config.width, 2)))[0]
    rows = [vocab[f"Ġ{word}"] for word in WEEKDAYS]
    table[rows] += config.signal * np.stack([np.cos(angles), np.sin(angles)], 1) @ plane.T
    stored = jnp.asarray(table, jnp.bfloat16)
    save_file({"lm_head.weight": stored}, folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocab}, "added_tokens": []}))
    return np.asarray(stored, np.float32)


def _same_cycle(words: tuple[str, ...]) -> bool:
    places = np.asarray([WEEKDAYS.index(word) for word in words])
    steps = (np.roll(places, -1) - places) % 7
    return bool(np.all(steps == 1) or np.all(steps == 6))


def claims(result: Result) -> list[Claim]:
    """Found where planted, and only there."""
    count = len(result.weekdays)
    return [
        Claim.at_least(
            "A planted cycle is found in the order of the calendar",
            SOURCE,
            np.mean(result.weekdays <= 0.01),
            0.9,
            quantity="share of files with p ≤ 0.01, weekdays",
        ),
        Claim.at_most(
            "Months without one pass for chance",
            SOURCE,
            np.sum(result.months <= 0.05) / count,
            0.2,
            quantity="share of files with p ≤ 0.05, months",
        ),
        Claim.at_least(
            "The hidden order is recovered from shuffled words",
            SOURCE,
            result.recovered,
            0.9,
            quantity="share of files",
        ),
        Claim.at_least(
            "and judged with the search accounted for",
            SOURCE,
            np.mean(result.discovered <= 0.05),
            0.9,
            quantity="share of files with p ≤ 0.05",
        ),
        Claim.at_least(
            "A cycle is farther from a simplex than Gaussian rows are",
            SOURCE,
            result.defects[:, 0] - result.defects[:, 1],
            0.1,
            quantity="simplex defect minus its Gaussian mean",
        ),
        Claim.at_most("Rows are read as they were written", SOURCE, result.worst_row, 0.0, quantity="difference"),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Gram matrix, power of the frequencies, and p-values."""
    figure, axes = subplots(1, 4, size=(3.6, 3.1))
    left, middle, orders, right = axes[0]
    left.imshow(result.gram, vmin=-1, vmax=1, cmap="RdBu_r")
    left.set(xticks=range(7), yticks=range(7), yticklabels=WEEKDAYS, title="cosines, first file")
    left.set_xticklabels([word[:2] for word in WEEKDAYS])
    left.grid(visible=False)
    for row, name in enumerate(("weekdays (planted)", "months")):
        middle.bar(np.arange(1, 7) + 0.4 * row - 0.2, result.power[row], 0.4, color=COLORS[row], label=name)
    middle.set(xlabel="frequency", ylabel="share of power", xticks=range(1, 7))
    middle.legend()
    orders.hist(result.null[1:], 30, color="grey")
    orders.axvline(result.null[0], color=COLORS[0])
    orders.set(xlabel="first harmonic", ylabel="orders", title="the calendar among all orders")
    for row, values in enumerate((result.weekdays, result.months, result.discovered)):
        right.plot(values, np.full(len(values), row), "o", color=COLORS[row], alpha=0.6)
    right.axvline(0.05, color="grey", ls=":")
    right.set(xscale="log", yticks=range(3), yticklabels=("weekdays", "months", "order found"), xlabel="p-value")
    right.set_ylim(-0.5, 2.5)
    return {"A planted cycle and the months beside it": figure}
