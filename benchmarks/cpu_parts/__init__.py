"""Parts of `benchmarks/cpu.py`: one module per measurement, and the shared timing code."""
