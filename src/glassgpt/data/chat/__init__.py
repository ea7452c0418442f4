"""Conversations: their formats, the templates that turn them into tokens, and which of these tokens are learned."""
