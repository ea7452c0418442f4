"""What `inspect_cpu.py` measures: a round of each system in a fresh process, and sizes of a peer that cannot be run."""
