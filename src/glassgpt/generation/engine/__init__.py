"""The batched generation engine: requests in, text out."""
