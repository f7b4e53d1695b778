"""The committed records: what was measured on one device, as JSON to compare and as Markdown to read; no dates.

A record is ``{"environment": {...}, "rows": [...]}``. A partial run replaces its own rows in a record and keeps the
others, provided that they were measured in the same environment; the version of a peer that no kept row had is none of
their environment.
"""

import json
import platform
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg  # noqa: F401 (holds the LAPACK that JAX calls on a CPU: it is in every list of libraries)
import threadpoolctl

from experiments.benchmarks.frame import Aim, Row
from experiments.benchmarks.timing import Timing
from experiments.runner import measure, store
from experiments.runner.contract import RunnerError, number

PEERS = ("scipy", "tensorly", "cvxpy", "clarabel", "scs", "osqp", "scikit-learn", "safetensors")
BLAS_FIELDS = ("internal_api", "version", "architecture", "threading_layer", "num_threads")


def environment() -> dict[str, Any]:
    """Versions, processor, device, cores and linear-algebra libraries of this process, as JSON values."""
    import jax

    found = measure.environment()
    found["versions"] |= {name: version for name in PEERS if (version := _version(name))}
    pools = threadpoolctl.threadpool_info()
    blas = [{field: pool.get(field) for field in BLAS_FIELDS} for pool in pools if pool["user_api"] == "blas"]
    cached = bool(jax.config.jax_compilation_cache_dir)
    blas.sort(key=str)  # they come in the order of loading
    return found | {"processor": processor(), "blas": blas, "persistent_compilation_cache": cached}


def processor() -> str:
    """Name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or platform.machine()


def device_name(environment: dict[str, Any]) -> str:
    """The device that ran our side, as a reader knows it."""
    device = environment["device"]
    if device["backend"] == "cpu":
        return f"{environment['processor']}, {environment['cores']} cores"
    return f"{device['count']} × {device['kind']}" if device["count"] > 1 else device["kind"]


def slug(name: str) -> str:
    """A device's name as a file name."""
    name = re.sub(r"\((r|tm)\)", "", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def row_record(name: str, row: Row, timings: dict[str, Timing]) -> dict[str, Any]:
    """What was measured of a row, as JSON values.

    Args:
        name: Name of the row.
        row: The row.
        timings: From `experiments.benchmarks.timing.measure`.

    Returns:
        Times in seconds per unit of work as median, least and most over the rounds; ratios likewise, of the ratios that
        the rounds had, so that what slowed a whole round cancels.
    """
    ours = timings["ours"]
    contestants = {}
    for key, contestant in row.contestants.items():
        timing = timings[key]
        entry = {"settings": contestant.settings, "work": timing.work, "seconds": _spread(timing.seconds)}
        if key == "ours":
            entry["compile_seconds"] = _rounded(timing.compile_seconds)
        else:
            entry["ratio"] = _spread(ours.seconds / timing.seconds)
        entry["quality"] = {what: _rounded(value) for what, value in timing.quality.items()}
        contestants[key] = entry
    return {
        "name": name,
        "measured": row.measured,
        "unit": row.unit,
        "rounds": len(ours.seconds),
        "contestants": contestants,
        "aims": [_aim_record(aim, contestants) for aim in row.aims],
    }


def kept_rows(path: Path, now: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an existing record that a partial run may keep.

    Args:
        path: The record, which need not exist.
        now: This environment.

    Raises:
        RunnerError: The record cannot be read, or was measured in another environment.
    """
    if not path.exists():
        return []
    hint = "run all benchmarks to replace it, or write elsewhere with --out"
    try:
        record = json.loads(path.read_text())
        before, rows = record["environment"], record["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunnerError(f"{path} is no record of benchmarks ({error}): {hint}") from error
    shared = {name: version for name, version in now["versions"].items() if name in before.get("versions", {})}
    differences = [key for key in now if before.get(key) != (shared if key == "versions" else now[key])]
    if differences:
        raise RunnerError(f"{path} was measured with other {', '.join(differences)}: {hint}")
    return rows


def merged(rows: Sequence[dict[str, Any]], kept: Sequence[dict[str, Any]], order: Sequence[str]) -> list[dict]:
    """New rows in place of kept ones of the same name, in a given order of names; other names are dropped."""
    by_name = {row["name"]: row for row in [*kept, *rows]}
    return [by_name[name] for name in order if name in by_name]


def write(path: Path, record: dict[str, Any], markdown: str) -> tuple[Path, Path]:
    """Write a record and its table, each whole or not at all.

    Args:
        path: Where the JSON goes; the Markdown goes beside it.
        record: Environment and rows.
        markdown: The table.

    Returns:
        The two files.

    Raises:
        RunnerError: They cannot be written; what was there stays.
    """
    table = path.with_suffix(".md")
    store.write_file(path, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())
    store.write_file(table, markdown.encode())
    return path, table


def _aim_record(aim: Aim, contestants: dict[str, Any]) -> dict[str, Any]:
    if aim.quantity == "ratio":
        measured = contestants[aim.peer]["ratio"]["median"]
    else:
        ours = contestants["ours"]
        measured = ours["compile_seconds"] if aim.quantity == "compile" else ours["seconds"]["median"]
    return {"text": aim.text, "peer": aim.peer, "measured": measured, "met": measured <= aim.bound}


def _spread(values: np.ndarray) -> dict[str, float]:
    return {
        "median": _rounded(np.median(values)),
        "least": _rounded(np.min(values)),
        "most": _rounded(np.max(values)),
    }


def _rounded(value: Any) -> float | str:
    """Four significant digits; JSON has no NaN and no infinity, so those become text."""
    return float(f"{value:.4g}") if np.isfinite(value) else number(float(value))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
