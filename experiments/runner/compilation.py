"""How XLA compiles for a CPU where programs are small and compilation is most of the time: quick experiments, tests."""

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
