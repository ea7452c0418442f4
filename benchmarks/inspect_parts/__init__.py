"""Parts of `inspect_cpu.py`: one round per system in a fresh process, and the download sizes of a tool that cannot be run."""
