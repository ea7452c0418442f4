"""Parts of the benchmark of pictures and sound."""
