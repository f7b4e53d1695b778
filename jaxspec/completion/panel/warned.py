"""What a fit cannot answer, as sentences for Python warnings; none under a trace or inside `jax.vmap`."""

from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxspec.checks import is_concrete
from jaxspec.completion.panel.result import PanelFit

LEAST_RATIO = 2.0
MOST_MOTION = 0.25
SURE = 5.0
ARMS = ("untreated", "treated")


def of_fit(fit: PanelFit) -> list[str]:
    """Units without an arm, overlap, few cells, ranks at their ceiling.

    Args:
        fit: the fit.

    Returns:
        The sentences.
    """
    if not is_concrete(*fit) or fit.tau.ndim != 1:
        return []
    texts = []
    lost = int(np.sum(~np.asarray(fit.identified)))
    if lost:
        texts.append(f"{lost} of {fit.tau.size} units have no cell in one of the arms: their effects are NaN")
    for arm, name in enumerate(ARMS):
        overlap, ratio = float(fit.overlap[arm]), float(fit.ratio[arm])
        if overlap < 1:
            texts.append(
                f"overlap of the {name} arm is {overlap:.3g}: the rest of its cells lie in rows or columns about which "
                "it has too little data, and effects there are extrapolated"
            )
        if ratio < LEAST_RATIO:
            texts.append(
                f"the {name} arm has {ratio:.3g} cells per degree of freedom (ratio): its fit is weakly determined"
            )
        if bool(fit.at_rank_max[arm]):
            texts.append(
                f"the rank of the {name} arm is {int(fit.rank[arm])}, the ceiling of the choice: serial correlation "
                "can cause this (sign_block), or rank_max is too small"
            )
    return texts


def of_levels(Y: Float[Array, "n m"], W: Bool[Array, "2 n m"], rank: Int[Array, "2"]) -> list[str]:
    """Arms of rank 0, which puts their outcomes at 0, although their mean is not.

    Args:
        Y: outcomes.
        W: cells of both arms.
        rank: chosen without centring.

    Returns:
        The sentences.
    """
    if not is_concrete(Y, W, rank) or rank.ndim != 1:
        return []
    texts = []
    for arm in np.flatnonzero(np.asarray(rank) == 0):
        values = np.asarray(Y)[np.asarray(W)[arm]].astype(float)
        if values.size and abs(values.mean()) * values.size**0.5 > SURE * values.std():
            texts.append(
                f"the rank of the {ARMS[arm]} arm is 0 and puts its outcomes at 0, but their mean is "
                f"{values.mean():.3g}: the choice fails for rows with few cells, give rank, or center"
            )
    return texts


def of_sweeps(
    motion: Float[Array, " a"], converged: Bool[Array, ""], iterations: Int[Array, ""], *, counted: bool
) -> list[str]:
    """Sweeps that ended before the fit stood still.

    Args:
        motion: of the last sweep, as in `PanelFit`, of the untreated arm or of both.
        converged: whether the sweeps settled.
        iterations: sweeps done.
        counted: whether the caller chose their number: a motion of up to a quarter is then passed over.

    Returns:
        The sentences.
    """
    if not is_concrete(motion, converged) or motion.ndim != 1 or bool(converged):
        return []
    arm = int(np.argmax(np.asarray(motion)))
    moved = float(motion[arm])
    if counted and moved <= MOST_MOTION:
        return []
    remedy = "leave out refine, or give tol" if counted else "raise max_refine"
    text = (
        f"the refinement has not settled: the last of {int(iterations)} sweeps moved the {ARMS[arm]} arm by "
        f"{moved:.2g} of its sampling error, and averages can be off by more than their standard errors: {remedy}"
    )
    return [text]


def of_periods(enough: Bool[Array, " m"]) -> list[str]:
    """Averages over periods without an arm.

    Args:
        enough: whether both arms have cells enough in a period.

    Returns:
        The sentences.
    """
    if not is_concrete(enough) or enough.ndim != 1 or bool(np.all(enough)):
        return []
    text = (
        f"{int(np.sum(~np.asarray(enough)))} of {enough.size} periods have fewer cells of an arm than its rank, or "
        "none: its outcomes there are extrapolated, or 0, and tau, ATE and groups average over them: "
        "periods='overlap' leaves these periods out"
    )
    return [text]


def of_errors(found: Any, pairs: dict[str, str]) -> list[str]:
    """Averages whose weights of the cells were not found.

    Args:
        found: a result.
        pairs: name of an average -> name of its standard error.

    Returns:
        The sentences.
    """
    values = [(name, getattr(found, value), getattr(found, name)) for value, name in pairs.items()]
    if not is_concrete(*(x for _, *pair in values for x in pair)) or values[-1][1].ndim > 1:
        return []
    lost = [name for name, value, error in values if np.any(np.isfinite(value) & np.isnan(error))]
    names = ", ".join(lost)
    return [f"standard errors in {names} are NaN: the alternations for their weights did not converge"] if lost else []
