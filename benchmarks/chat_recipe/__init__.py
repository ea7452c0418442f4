"""A recipe for small chat models: replies of the base, filtered and rewritten; evaluation by several decodings; the choice."""
