"""The parts of `benchmarks/cpu.py`: one module for each thing measured, and the measuring itself."""
