"""Tokens to logits: configuration, attention, KV cache, architectures and parameter counts.

Import the submodule you need. This package itself imports nothing, so that reading a configuration does not load
torch. To build the architecture that a configuration names, use `model.build.build_model`.
"""
