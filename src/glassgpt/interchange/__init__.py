"""Import and export of models in other formats; start with `huggingface`."""
