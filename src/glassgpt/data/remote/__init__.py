"""Datasets and runs on object stores (S3, Google Cloud Storage, the Hugging Face Hub), through fsspec."""
