"""One peer of the panel comparison, run by its own interpreter: ``python _panel_worker.py TASK IN.npz OUT.json``.

Needs numpy and the peer, and nothing of this project. ``IN.npz`` holds Y and D, of one panel or of several (a leading
axis); ``OUT.json`` gets the versions, the seconds of every panel, and its estimates.
"""

import importlib
import json
import sys
import time
from importlib import metadata

import numpy as np


def soft_impute(Y, D):
    """Both arms completed by fancyimpute's SoftImpute at its defaults."""
    from fancyimpute import SoftImpute

    return [SoftImpute(verbose=False).fit_transform(np.where(W, Y, np.nan)) for W in (~D, D)]


def mcnnm(Y, D):
    """Both arms completed by causaltensor's MC-NNM, weight by cross-validation, K = 5."""
    from causaltensor.cauest.MCNNM import MCNNMPanelSolver

    # The list of weights is a default argument that one call would leave behind to the next.
    return [
        MCNNMPanelSolver(Z=hidden.astype(int)).solve_with_cross_validation(O=Y, K=5, list_l=[]).baseline
        for hidden in (D, ~D)
    ]


def mcnnm_att(Y, D):
    """ATT by causaltensor's MC-NNM, weight by cross-validation, K = 5."""
    from causaltensor.cauest.MCNNM import MCNNMPanelSolver

    result = MCNNMPanelSolver(Z=D.astype(int)).solve_with_cross_validation(O=Y, K=5, list_l=[])
    return float(np.sum((Y - result.baseline) * D) / np.sum(D))


def causaltensor_sdid(Y, D):
    """ATT by causaltensor's synthetic difference in differences."""
    from causaltensor.cauest.SDID import SDIDPanelSolver

    # It reads the treated block from the last column.
    solver = SDIDPanelSolver(Z=D.astype(float), O=Y)
    return float(np.squeeze(solver.fit().tau))


def causaltensor_did(Y, D):
    """ATT by causaltensor's two-way fixed effects."""
    from causaltensor.cauest.DID import DID

    return float(np.squeeze(DID(Y, D.astype(float))[1]))


def long_table(Y, D):
    """One row per unit and period."""
    import pandas as pd

    n, m = Y.shape
    return pd.DataFrame(
        {
            "unit": np.repeat([f"unit {i:03d}" for i in range(n)], m),
            "time": np.tile(np.arange(m), n),
            "y": Y.ravel(),
            "d": D.astype(int).ravel(),
            "ever": np.repeat(D.any(axis=1).astype(int), m),
        }
    )


def synthdid_sdid(Y, D):
    """ATT by synthdid."""
    from synthdid.synthdid import Synthdid

    return float(Synthdid(long_table(Y, D), "unit", "time", "d", "y").fit().att)


def diffdiff_sdid(Y, D):
    """ATT by diff-diff's synthetic difference in differences, and its placebo standard error."""
    from diff_diff import SyntheticDiD

    post = np.flatnonzero(D.any(axis=0)).tolist()
    result = SyntheticDiD(seed=0).fit(
        long_table(Y, D), outcome="y", treatment="ever", unit="unit", time="time", post_periods=post
    )
    return [float(result.att), float(result.se)]


def pysyncon_synth(Y, D):
    """ATT by synthetic control on all outcomes before treatment, equal weights of the predictors."""
    import pandas as pd
    from pysyncon import Synth

    treated = D.any(axis=1)
    before = ~D.any(axis=0)
    controls = pd.DataFrame(Y[~treated].T)
    one = pd.Series(Y[treated][0], name="treated")
    synth = Synth()
    synth.fit(
        X0=controls[before],
        X1=one[before],
        Z0=controls[before],
        Z1=one[before],
        custom_V=np.ones(before.sum()),
    )
    gap = one - controls @ np.asarray(synth.W)
    return float(gap[~before].mean())


TASKS = {
    "soft_impute": (soft_impute, "fancyimpute", "fancyimpute"),
    "mcnnm": (mcnnm, "causaltensor", "causaltensor.cauest.MCNNM"),
    "mcnnm_att": (mcnnm_att, "causaltensor", "causaltensor.cauest.MCNNM"),
    "causaltensor_sdid": (causaltensor_sdid, "causaltensor", "causaltensor.cauest.SDID"),
    "causaltensor_did": (causaltensor_did, "causaltensor", "causaltensor.cauest.DID"),
    "synthdid_sdid": (synthdid_sdid, "synthdid", "synthdid.synthdid"),
    "diffdiff_sdid": (diffdiff_sdid, "diff-diff", "diff_diff"),
    "pysyncon_synth": (pysyncon_synth, "pysyncon", "pysyncon"),
}


def main(task, source, target):
    """Run one task on every panel of a file."""
    function, package, module = TASKS[task]
    importlib.import_module(module)  # not timed
    with np.load(source) as file:
        Y, D = file["Y"], file["D"]
    panels = [(Y, D)] if Y.ndim == 2 else list(zip(Y, D, strict=True))
    estimates, seconds = [], []
    for outcomes, treatment in panels:
        start = time.perf_counter()
        found = function(outcomes, treatment)
        seconds.append(time.perf_counter() - start)
        estimates.append(np.asarray(found).tolist())
    versions = {name: metadata.version(name) for name in (package, "numpy")}
    with open(target, "w") as file:
        json.dump({"versions": versions, "seconds": seconds, "estimates": estimates}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
