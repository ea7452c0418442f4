"""Preferences: prompts with a better and a worse reply, as tokens, batches and a dataset to train on."""
