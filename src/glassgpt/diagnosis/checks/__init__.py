"""Checks of settings, data, a model, a run and generated text. Each check returns a finding or nothing."""
