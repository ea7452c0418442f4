"""Source code as training text: trees of files, filters, and fill-in-the-middle (FIM)."""
