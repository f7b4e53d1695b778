"""The energy identity in five discretisations: orders of the state, of the identity and of the ledger.

A tanh layer of particles; the reference is an adaptive solver of order eight at tolerance 1e-13.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.muon_flow._problems import PAPER, orders, particles, run_in_chunks, tanh_problem
from experiments.runner.contract import Claim, Progress
from experiments.runner.style import COLORS, LINES, MARKERS, subplots
from jaxspec.flow import hamiltonian_flow

METHODS = ("muon", "leapfrog", "leapfrog_split", "suzuki4", "discrete_gradient")
ORDER = {"muon": 1, "leapfrog": 2, "leapfrog_split": 2, "suzuki4": 4, "discrete_gradient": 2}
SPEC = "specification, section 3.3 and E1"


@dataclass(frozen=True)
class Config:
    """Settings of the runs."""

    seed: int = 0  # unused: the problem is deterministic
    rows: int = 3
    columns: int = 4
    particles: int = 16
    points: int = 16  # data
    eps: tuple[float, ...] = (0.1,)
    gamma: float = 1.0
    time: float = 4.0
    counts: tuple[int, ...] = (20, 40, 80, 160, 320)  # steps, multiples of the first
    shown: int = 80  # steps of the runs in the figure of energies


PRESETS = {"quick": Config(), "full": Config(rows=32, columns=32, particles=4096, eps=(0.1, 0.01))}


class Result(NamedTuple):
    """What was measured.

    Attributes:
        eps: floors, shape (E,).
        counts: numbers of steps, shape (C,).
        errors: root mean square error of the positions at the end, shape (E, methods, C).
        defects: largest ``|H - H_0 + trapezoid sum|`` of a run, shape (E, methods, C).
        ledgers: ``|H + dissipated - H_0|`` at the end, shape (E, methods, C).
        rises: largest increase of H in a step, shape (E, methods, C).
        converged: whether all steps were solved and finite, shape (E, methods, C).
        time: of the runs that are shown, shape (T,).
        objective: J of those, first floor, shape (methods, T).
        hamiltonian: H of those, shape (methods, T).
        defect: the identity's defect of those, shape (methods, T).
    """

    eps: Any
    counts: Any
    errors: Any
    defects: Any
    ledgers: Any
    rises: Any
    converged: Any
    time: Any
    objective: Any
    hamiltonian: Any
    defect: Any


def run(config: Config, progress: Progress) -> Result:
    """Compute only."""
    with jax.enable_x64(True):
        return _run(config, progress)


def _run(config, progress):
    objective = tanh_problem(config.rows, config.columns, config.points)
    start = jnp.asarray(particles(config.particles, config.rows, config.columns))
    table, shown = [], []
    for eps in config.eps:
        exact = _reference(hamiltonian_flow(objective, eps=eps, gamma=config.gamma), start, config.time)
        rows = []
        for method in progress.track(f"eps = {eps:g}", METHODS):
            flow = hamiltonian_flow(objective, eps=eps, gamma=config.gamma, method=method, polar_engine="gram_ns")
            row = []
            for count in config.counts:
                dt = config.time / count
                trace = run_in_chunks(flow, flow.init(start), dt=dt, num_steps=count, chunk=config.counts[0])
                row.append(_numbers(trace, exact))
                if count == config.shown and eps == config.eps[0]:
                    shown.append((trace.objective, trace.hamiltonian, trace.defect))
            rows.append(row)
        table.append(rows)
    numbers = np.moveaxis(np.array(table), -1, 0)
    series = np.moveaxis(np.array(shown), 1, 0)
    time = np.linspace(0, config.time, series.shape[-1])
    return Result(np.array(config.eps), np.array(config.counts), *numbers[:4], numbers[4] > 0, time, *series)


def _reference(flow, start, time):
    control = diffrax.PIDController(rtol=1e-13, atol=1e-13)
    solution = diffrax.diffeqsolve(
        flow.as_ode_terms(),
        diffrax.Dopri8(),
        0.0,
        time,
        0.01,
        (start, jnp.zeros_like(start)),
        stepsize_controller=control,
        max_steps=100_000,
    )
    return np.asarray(solution.ys[0][-1])


def _numbers(trace, exact):
    error = np.sqrt(np.mean((np.asarray(trace.state.position) - exact) ** 2))
    ledger = abs(trace.hamiltonian[-1] + float(trace.state.dissipated) - trace.hamiltonian[0])
    rise = np.diff(trace.hamiltonian).max()
    return error, np.abs(trace.defect).max(), ledger, rise, float(trace.converged)


def claims(result: Result) -> list[Claim]:
    """What the paper and the specification say."""
    place = {name: METHODS.index(name) for name in METHODS}
    found = [
        Claim.close_to(
            f"{name}: the state converges at order {ORDER[name]}",
            SPEC,
            orders(result.errors[:, place[name]])[:, -2:],
            ORDER[name],
            0.15,
            quantity="observed order",
        )
        for name in METHODS
    ]
    for order in (1, 2):
        which = [place[name] for name in METHODS if min(ORDER[name], 2) == order]
        found.append(
            Claim.close_to(
                f"The trapezoid defect of the energy identity falls at order {order}"
                + (" for the muon step" if order == 1 else " for the others"),
                SPEC,
                orders(result.defects[:, which])[..., -2:],
                order,
                0.15,
                quantity="observed order",
            )
        )
    for name, order in (("leapfrog_split", 2), ("suzuki4", 4)):
        measured = orders(result.ledgers[:, place[name]])[:, -2:]
        found.append(
            Claim.close_to(
                f"{name}: the exact ledger is off by the error of the scheme",
                SPEC,
                measured,
                order,
                0.15,
                quantity="order",
            )
        )
    implicit = place["discrete_gradient"]
    solved = result.converged[:, implicit]
    ledger = np.where(solved, result.ledgers[:, implicit], np.nan)
    return [
        *found,
        Claim.at_most("The implicit method balances its ledger exactly", SPEC, ledger, 1e-13, quantity="|H + D - H_0|"),
        Claim.at_most("The energy H falls in every step of every method", PAPER, result.rises, 0.0, quantity="max dH"),
    ]


def figures(result: Result) -> dict[str, Figure]:
    """Energies over time, and defects against the step."""
    return {
        "Energy and objective over time, and the defect of the energy identity": _energy_figure(result),
        "Errors against the number of steps (dotted: orders 1, 2 and 4)": _order_figure(result),
    }


def _energy_figure(result):
    figure, axes = subplots(1, 2, size=(4.6, 3.4))
    axes[0, 0].plot(result.time, result.hamiltonian[-1], color=COLORS[0], label="H")
    axes[0, 0].plot(result.time, result.objective[-1], color=COLORS[1], ls=LINES[1], label="J")
    axes[0, 0].set(xlabel="time", ylabel="energy")
    axes[0, 0].legend()
    for name, defect, color in zip(METHODS, result.defect, COLORS, strict=False):
        axes[0, 1].semilogy(result.time[1:], np.abs(defect[1:]), color=color, label=name)
    axes[0, 1].set(xlabel="time", ylabel="|defect of the identity|")
    axes[0, 1].legend()
    return figure


def _order_figure(result):
    figure, axes = subplots(1, 3, size=(4.0, 3.4))
    panels = (result.errors, result.defects, result.ledgers)
    titles = ("error of the state", "trapezoid defect", "|H + dissipated - H_0|")
    for axis, values, title in zip(axes[0], panels, titles, strict=True):
        for name, line, color, marker in zip(METHODS, values[0], COLORS, MARKERS, strict=False):
            axis.loglog(result.counts, np.maximum(line, 1e-17), marker=marker, color=color, label=name)
        for order in (1, 2, 4):
            guide = 0.1 * (result.counts[0] / result.counts) ** order
            axis.loglog(result.counts, guide, ":", color="grey", lw=1)
        axis.set(xlabel="steps", title=title)
        axis.set_xticks(result.counts, [str(count) for count in result.counts])
        axis.minorticks_off()
    axes[0, 0].legend()
    return figure
