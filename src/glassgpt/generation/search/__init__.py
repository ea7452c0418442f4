"""Texts that are searched for instead of drawn: the most probable ones, or those that repeat themselves least."""
