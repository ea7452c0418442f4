"""Code models at work: fill-in-the-middle, isolated execution, and benchmarks of code."""
