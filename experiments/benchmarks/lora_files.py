"""An adapter of a 7B model from its file: seconds, and the memory that it takes in a process of its own."""

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
from jaxspec.lora import LoraConfig, load_peft, save_peft

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
# The high-water mark of the resident set is reset before the file is read.
PEAK = """
import json, pathlib, sys
import jax.numpy as jnp
from jaxspec.lora import load_peft

def status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

jnp.ones(3).block_until_ready()
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
read = load_peft(sys.argv[1])
print(json.dumps([status("VmHWM") - before, status("VmRSS") - before]))
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


def peak_over_file(folder: Path, size: int) -> float:
    """Memory that `load_peft` takes at most, in a fresh process, over the size of the file."""
    done = subprocess.run([sys.executable, "-c", PEAK, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)[0] / size


def adapter_row(layers: int, width: int, hidden: int, rank: int) -> Row:
    """All factors of an adapter, checked, as JAX arrays."""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name)
    size = write_adapter(path, layers, width, hidden, rank)

    def quality(read: Any) -> dict[str, float]:
        return {"modules": len(read.factors), "peak over file": peak_over_file(path, size)}

    # The folder lives as long as the row that reads it. Arrays only: the frame waits for what comes out.
    ours = Contestant(lambda folder=folder: load_peft(path), "load_peft, every entry checked", quality=quality)
    whole = Contestant(lambda: load_file(path / "adapter_model.safetensors"), "safetensors, whole file, unchecked")
    measured = f"Adapter of {layers} layers × 7 modules, widths {width} and {hidden}, r = {rank}, {size / 1e6:.0f} MB"
    return Row(measured, ours, {"load_file": whole}, "read", (time_at_most(5.0),))


ROWS: dict[str, Callable[[], Row]] = {"adapter_7b": partial(adapter_row, 32, 4096, 11_008, 16)}
