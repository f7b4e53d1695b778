"""An adapter of a 7B model from its file, read and analysed: seconds, and the memory in a process of its own."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from safetensors.numpy import load_file

from experiments.benchmarks.frame import Contestant, Row, time_at_most
from jaxspec.lora import LoraConfig, identify_factors, load_peft, save_peft

# Modules of a layer as (out, in), of a model of the given widths.
MODULES = {
    "self_attn.q_proj": ("width", "width"),
    "self_attn.k_proj": ("width", "width"),
    "self_attn.v_proj": ("width", "width"),
    "self_attn.o_proj": ("width", "width"),
    "mlp.gate_proj": ("hidden", "width"),
    "mlp.up_proj": ("hidden", "width"),
    "mlp.down_proj": ("width", "hidden"),
}
# The high-water mark of the resident set is reset before the file is read. The first analysis compiles as well.
PEAK = """
import json, pathlib, sys
import jax
import jax.numpy as jnp
from jaxspec.lora import identify_factors, load_peft

def status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

jnp.ones(3).block_until_ready()
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
read = load_peft(sys.argv[1])
if sys.argv[2] == "identify":
    jax.block_until_ready(identify_factors(read.factors, scale=read.scales))
print(json.dumps(status("VmHWM") - before))
"""


def write_adapter(folder: Path, layers: int, width: int, hidden: int, rank: int) -> int:
    """An adapter of random bfloat16 numbers with 7 modules a layer.

    Args:
        folder: where.
        layers: number of layers.
        width: of the stream.
        hidden: width of the MLP.
        rank: of every module.

    Returns:
        Bytes of the file with the tensors.
    """
    rng = np.random.default_rng(0)
    sizes = {"width": width, "hidden": hidden}

    def random(*shape: int) -> Any:
        return jnp.asarray(rng.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16))

    adapter = {
        f"model.layers.{layer}.{name}": {"a": random(rank, sizes[inp]), "b": random(sizes[out], rank)}
        for layer in range(layers)
        for name, (out, inp) in MODULES.items()
    }
    save_peft(folder, adapter, LoraConfig(rank=rank, alpha=2.0 * rank))
    return (folder / "adapter_model.safetensors").stat().st_size


def peak_over_file(folder: Path, size: int, task: str = "read") -> float:
    """Memory that a task takes at most, in a fresh process, over the size of the file.

    Args:
        folder: of the adapter.
        size: of its file, bytes.
        task: ``"read"``, or ``"identify"`` to read and analyse.

    Returns:
        The ratio.
    """
    done = subprocess.run([sys.executable, "-c", PEAK, str(folder), task], capture_output=True, text=True, check=True)
    return json.loads(done.stdout) / size


def adapter_row(layers: int, width: int, hidden: int, rank: int, task: str) -> Row:
    """All factors of an adapter, checked, as JAX arrays; and the directions that its writers share."""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name)
    size = write_adapter(path, layers, width, hidden, rank)

    def analysed() -> Any:
        read = load_peft(path)
        return identify_factors(read.factors, scale=read.scales)

    def quality(_: Any) -> dict[str, float]:
        return {"peak over file": peak_over_file(path, size, task)}

    calls = {
        "read": (lambda folder=folder: load_peft(path), "load_peft, every entry checked"),  # keeps the folder alive
        "identify": (lambda folder=folder: analysed(), "load_peft and identify_factors, peak with compilation"),
    }
    ours = Contestant(*calls[task], quality=quality)
    whole = Contestant(lambda: load_file(path / "adapter_model.safetensors"), "safetensors, whole file, unchecked")
    measured = f"Adapter of {layers} layers × 7 modules, widths {width} and {hidden}, r = {rank}, {size / 1e6:.0f} MB"
    return Row(measured, ours, {"load_file": whole}, "adapter", (time_at_most(5.0),))


ROWS: dict[str, Callable[[], Row]] = {
    f"adapter_7b_{task}": partial(adapter_row, 32, 4096, 11_008, 16, task) for task in ("read", "identify")
}
