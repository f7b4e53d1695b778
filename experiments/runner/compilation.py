"""How XLA compiles for a CPU where programs are small and compilation is most of the time: quick experiments, tests."""

import gc
import os

# Neither the costly passes of the optimiser of the machine code nor the emitters that rely on them (an option that a
# version does not know is ignored), and no division of a program among threads, each piece of which sets up a code
# generator of its own (8 %).
_CHEAP = (
    "--xla_llvm_disable_expensive_passes=true "
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters --xla_cpu_parallel_codegen_split_count=1"
)
# For quick experiments: loops keep their speed. Processor seconds as users compile, so, and as `QUICKEST`: training by
# cross-entropy 50, 44, 144; a table of programs 142, 84, 61; fine-tuning 74, 45, 45.
# With AVX-512 that level meets instructions that LLVM cannot select ("Cannot select: X86ISD::SUBV_BROADCAST_LOAD", in a
# synthetic control of the panels), and the process dies: the cap, which other processors ignore, avoids it.
QUICK = f"--xla_backend_optimization_level=1 --xla_cpu_max_isa=AVX2 {_CHEAP}"
# For tests, whose programs run for milliseconds.
QUICKEST = f"--xla_backend_optimization_level=0 {_CHEAP}"


def hurry(flags: str) -> None:
    """Prepare one of several processes that mostly compile, before JAX is used in it.

    Args:
        flags: of XLA, unless ``XLA_FLAGS`` says other ones.
    """
    os.environ.setdefault("XLA_FLAGS", flags)
    # XLA's CPU client has a thread for every core, or as many as this says. Threads that wait spin, and take from the
    # other processes what they need: two experiments at a time on two cores, a thread each against two, take .94, .96,
    # .89 of the time and .88, .94, .86 of the processor's (three pairs of runs in turn). And sums that are divided
    # among threads round by their number, which a chaotic training turns into another result on another machine.
    os.environ.setdefault("NPROC", "1")
    # An eighth of the time of tests is the names of source lines in compiled programs and the garbage collector, which
    # looks again and again at what tracing keeps.
    gc.set_threshold(200_000, 20, 100)
    os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # for processes that this one starts
    import jax

    jax.config.update("jax_traceback_in_locations_limit", int(os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"]))
