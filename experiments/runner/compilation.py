"""How XLA compiles for a CPU where programs are small and compilation is most of the time: quick experiments, tests."""

# No optimiser of the machine code, nor the emitters that serve it (an option that a version does not know is ignored),
# and no division of a program among threads, each piece of which sets up a code generator of its own (8 %).
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters --xla_cpu_parallel_codegen_split_count=1"
)
