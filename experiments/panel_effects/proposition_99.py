"""California's tobacco programme of 1989: the whole table of ranks, its placebos, and other estimators beside it.

The treated block is one unit in the last periods: the treated arm has no overlap, which the library must flag, and only
the untreated arm carries the answer. That answer depends on the rank; no row of the table is picked.
"""

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.panel_effects._panels import proposition_99
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, GREY, MARKERS, subplots
from jaxspec.completion.panel import placebo_in_space, row_scaled_spectral
from jaxspec.completion.panel.effects import warn_of

OURS = "specification, experiment E7 and oracle O3"
CENTERS = (None, "two_way")
DIFFERENCE_IN_DIFFERENCES = -27.3491
# Point estimates on this panel. Published: Arkhangelsky, Athey, Hirshberg, Imbens & Wager, "Synthetic difference in
# differences", AER 111 (2021), Table 1, as quoted. Measured: experiments/benchmarks/results/panel-peers.md.
PEERS = (
    ("SDID, published", -15.6),
    ("SDID, synthdid 0.10.1", -15.604),
    ("SDID, causaltensor 0.1.12", -15.602),
    ("SDID, diff-diff 3.13.0", -15.604),
    ("synthetic control, published", -19.6),
    ("synthetic control, pysyncon 1.7.0, equal V", -19.755),
    ("MC-NNM, published", -20.2),
    ("MC-NNM, causaltensor 0.1.12", -20.268),
    ("DiD, published", -27.3),
    ("DiD, causaltensor 0.1.12", -27.349),
)


@dataclass(frozen=True)
class Config:
    """Settings of the table."""

    seed: int = 0  # of the sign flips
    ranks: int = 5  # largest rank
    sweeps: int = 20  # of refinement
    flip_ceiling: int = 6  # largest rank that the flips may choose


PRESETS = {"quick": Config(), "full": Config(ranks=8, sweeps=100)}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        ranks: 0, 1, ..., shape (R,).
        att: of California, packs per head, without and with two-way centring, shape (2, R).
        p: of the placebos in space, shape (2, R).
        placebo_rmse: root mean square of the controls' placebo effects, shape (2, R).
        one_step: one-step effect of California, mean over its treated cells, by rank from 1, shape (R - 1,).
        one_step_overlap: overlap of its treated arm, shape (R - 1,).
        one_step_warned: whether there was a warning of it, shape (R - 1,).
        chosen: rank of the untreated arm by sign flips.
        chosen_ceiling: whether that was marked as the ceiling.
        ceiling_warned: whether there was a warning of it.
        peers: names, shape (E,).
        peers_att: their effects, shape (E,).
    """

    ranks: Any
    att: Any
    p: Any
    placebo_rmse: Any
    one_step: Any
    one_step_overlap: Any
    one_step_warned: Any
    chosen: Any
    chosen_ceiling: Any
    ceiling_warned: Any
    peers: Any
    peers_att: Any


def run(config: Config, progress: Progress) -> Result:
    """The table for both centrings, the one-step block, and the flips."""
    Y, D, states = proposition_99()
    unit = states.index("California")
    ranks = np.arange(config.ranks + 1)
    with jax.enable_x64(True), progress.stage("fits", total=2 * len(ranks) + config.ranks + 1):
        table = np.asarray([[_row(config, Y, D, unit, c, int(r), progress) for r in ranks] for c in CENTERS])
        one_step = np.asarray([_one_step(Y, D, unit, int(rank), progress) for rank in ranks[1:]])
        options = {"rank_max": config.flip_ceiling, "key": jax.random.key(config.seed)}
        fit, texts = _warned(Y, D, **options)
        progress.advance(message="rank by sign flips")
    names, values = zip(*PEERS, strict=True)
    return Result(
        ranks,
        *np.moveaxis(table, -1, 0),
        *one_step.T[:2],
        one_step[:, 2] == 1,
        int(fit.rank[0]),
        bool(fit.at_rank_max[0]),
        any("untreated arm is" in text and "ceiling" in text for text in texts),
        np.asarray(names),
        np.asarray(values),
    )


def _row(config: Config, Y: Any, D: Any, unit: int, center: str | None, rank: int, progress: Progress) -> list[float]:
    # The width is that of the larger of the two ranks: one program serves all.
    pair = (rank, config.ranks)
    placebo = placebo_in_space(Y, D, unit, rank=pair, center=center, refine=config.sweeps, start="one_step")
    progress.advance(message=f"rank {rank}, centring {center}")
    return [float(placebo.att), float(placebo.p), float(np.sqrt(np.nanmean(np.asarray(placebo.att_placebo) ** 2)))]


def _one_step(Y: Any, D: Any, unit: int, rank: int, progress: Progress) -> list[float]:
    fit, texts = _warned(Y, D, rank=rank)
    progress.advance(message=f"one step, rank {rank}")
    treated = np.asarray(fit.effect)[unit, D[unit]].mean()
    return [treated, float(fit.overlap[1]), float(any("overlap of the treated arm" in text for text in texts))]


def _warned(Y: Any, D: Any, **options: Any) -> tuple[Any, list[str]]:
    """The one-step fit, with what the front door says of such a fit."""
    fit = row_scaled_spectral(Y, D, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of(fit)
    return fit, [str(warning.message) for warning in caught]


def claims(result: Result) -> list[Claim]:
    """What must hold exactly, what must be flagged, and what no rank delivers."""
    ours = result.att[0, 1:]
    best = np.min(result.p)
    return [
        Claim.close_to(
            "Rank 0 with two-way centring is difference in differences",
            OURS,
            result.att[1, 0],
            DIFFERENCE_IN_DIFFERENCES,
            1e-3,
            quantity="ATT",
        ),
        Claim.at_most(
            "The one-step answer for the treated block is flagged: it has no overlap",
            OURS,
            result.one_step_overlap,
            0.99,
            quantity="overlap of the treated arm at every rank",
        ),
        Claim.at_least("... and warned of", OURS, result.one_step_warned, 1, quantity="warned"),
        Claim.at_least(
            "The flips end at their ceiling here, and that is flagged and warned of",
            OURS,
            [result.chosen_ceiling, result.ceiling_warned],
            1,
            quantity="flag, warning",
        ),
        Claim.at_most(
            "The estimate does not depend on the rank",
            "what one would like to report",
            float(ours.max() - ours.min()),
            2.0,
            quantity="range of the ATT over ranks from 1, packs per head",
            known_not_to_hold="one treated unit, serially correlated errors: every rank tells another story",
        ),
        Claim.at_most(
            "Some rank is significant at .05 against the placebos",
            "what one would like to report",
            best,
            0.05,
            quantity="smallest p over ranks and centrings",
            known_not_to_hold="38 controls and a placebo spread of 9 to 19 packs: no rank reaches it",
        ),
        Claim.at_most(
            "The one-step estimate of the treated block means something",
            "the one-step estimator on a block without overlap",
            float(np.ptp(result.one_step)),
            20.0,
            quantity="range over ranks, packs per head",
            known_not_to_hold="the treated arm is one row in some columns: its completion says nothing",
        ),
        Claim(
            "All of the table, without centring: rank, ATT, p, placebo rmse",
            OURS,
            "printed, nothing picked",
            _text(result, 0),
            True,
        ),
        Claim("All of the table, two-way centring", OURS, "printed, nothing picked", _text(result, 1), True),
        Claim(
            "Beside it, published and measured",
            "see the module's comment on its sources",
            "printed",
            "; ".join(f"{name} {value:.1f}" for name, value in zip(result.peers, result.peers_att, strict=True)),
            True,
        ),
    ]


def _text(result: Result, center: int) -> str:
    rows = zip(result.ranks, result.att[center], result.p[center], result.placebo_rmse[center], strict=True)
    return "; ".join(f"{rank}: {att:.2f}, {p:.2f}, {rmse:.2f}" for rank, att, p, rmse in rows)


def figures(result: Result) -> dict[str, Figure]:
    """The estimate by rank, peers as lines, and the placebo errors."""
    figure, (row,) = subplots(1, 2, size=(5.2, 3.8))
    for index, name in enumerate(("no centring", "two-way centring")):
        row[0].plot(result.ranks, result.att[index], color=COLORS[index], marker=MARKERS[index], label=name)
        row[1].plot(result.ranks, result.placebo_rmse[index], color=COLORS[index], marker=MARKERS[index], label=name)
    for name, value in zip(result.peers, result.peers_att, strict=True):
        if "published" in str(name):
            row[0].axhline(value, color=GREY, lw=0.8, ls="--")
            row[0].annotate(str(name), (result.ranks[-1], value), ha="right", va="bottom", fontsize=7)
    row[0].set(xlabel="rank", ylabel="ATT, packs per head", xticks=result.ranks, ylim=(-40, 0))
    row[1].set(xlabel="rank", ylabel="placebo rmse, packs per head", xticks=result.ranks)
    row[1].legend()
    return {"Proposition 99: estimate and placebo error by rank": figure}
