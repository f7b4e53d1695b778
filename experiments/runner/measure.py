"""What a run cost and what it ran on: seconds, peak memory, versions, device."""

import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "numpy")


@contextmanager
def cost() -> Iterator[dict[str, Any]]:
    """Yield a dictionary: when the block started, the compiler's flags; after it seconds and peak memory, bytes.

    The processor's seconds, of all threads, do not depend on what else the machine does.
    """
    measured: dict[str, Any] = {"started_at": datetime.now(UTC).isoformat(timespec="seconds")}
    measured["xla_flags"] = os.environ.get("XLA_FLAGS", "")
    _reset_peak()
    start, processor = time.perf_counter(), time.process_time()
    yield measured
    measured["seconds"] = round(time.perf_counter() - start, 3)
    measured["processor_seconds"] = round(time.process_time() - processor, 3)
    measured["peak_memory_bytes"] = _peak()
    device_peak = _device_peak()
    if device_peak is not None:
        measured["peak_device_memory_bytes"] = device_peak


def environment() -> dict[str, Any]:
    """Versions, device and platform of this process, as JSON values."""
    import jax

    import jaxspec

    devices = jax.devices()
    versions = {"python": platform.python_version(), "jaxspec": jaxspec.__version__}
    versions |= {name: metadata.version(name) for name in PACKAGES}
    return {
        "versions": versions,
        "device": {"backend": jax.default_backend(), "kind": devices[0].device_kind, "count": len(devices)},
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": usable_cores(),
    }


def usable_cores() -> int:
    """Cores this process may use, which a container may hold below the machine's count."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _reset_peak() -> None:
    """Forget the process's earlier peak where Linux allows it; elsewhere a peak is the process's, not the part's."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak() -> int:
    """Largest resident set since the last reset, bytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(lines["VmHWM"].split()[0]) * 1024


def _device_peak() -> int | None:
    """Peak bytes on the first accelerator since the process started, where its runtime counts them."""
    import jax

    statistics = jax.devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use")
