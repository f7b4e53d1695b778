"""What a flow carries from step to step, and what it reports."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, PyTree


class FlowState(NamedTuple):
    """Particles at one time; weights belong to the flow.

    Attributes:
        position: ``X``, a pytree of matrices with particles on the leading axis, (N, ..., m, n).
        momentum: ``P``, like the position.
        time: ``t``.
        dissipated: energy that friction has taken since the state was initialised: exact for ``leapfrog_split``,
            ``suzuki4`` and ``discrete_gradient``, else the trapezoid sum of ``gamma E_w <P, Orth(P)>``.
        force: ``G`` at the position, so that a step needs only one new force.
    """

    position: PyTree
    momentum: PyTree
    time: Float[Array, ""]
    dissipated: Float[Array, ""]
    force: PyTree


class FlowDiagnostics(NamedTuple):
    """Energies at the saved times, the first of which is the start: arrays of shape (num_steps / save_every + 1,).

    Attributes:
        objective: ``J``.
        kinetic: ``K = E_w sum_k b_k Phi(P_k)``.
        hamiltonian: ``H = J + K``.
        dissipation_rate: ``gamma E_w sum_k b_k <P_k, Orth(P_k)>``, which is ``-dH/dt`` of the exact flow.
        identity_defect: ``H - H_0`` plus the trapezoid sum of the dissipation rate over every step since the start.
        momentum_max: largest Frobenius norm of a momentum matrix, which bounds its largest singular value.
        converged: all values are finite; and, implicit method: every step since the last saved time was solved;
            explicit methods: ``energy_rise`` is at most a twentieth of the largest ``K`` at the saved times so far
            (and rounding), a criterion of ours that steps beyond the stable ones fail. True says nothing about the
            distance to a minimum.
        energy_rise: how far ``H`` is above its lowest value at the saved times of this run so far; 0 for the exact
            flow. No method but ``discrete_gradient`` keeps it at 0 for every step.
    """

    objective: Float[Array, " saved"]
    kinetic: Float[Array, " saved"]
    hamiltonian: Float[Array, " saved"]
    dissipation_rate: Float[Array, " saved"]
    identity_defect: Float[Array, " saved"]
    momentum_max: Float[Array, " saved"]
    converged: Bool[Array, " saved"]
    energy_rise: Float[Array, " saved"] | None = None
