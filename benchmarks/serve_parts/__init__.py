"""Parts of `benchmarks/serve.py`: clients, servers to compare with, and an engine that only keeps time."""
