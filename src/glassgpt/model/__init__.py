"""tokens -> logits: the attention seam, its cache, the architectures and the table of foreign names.

Nothing is imported here, so that reading a configuration does not load torch; import the module you need:
`model.config`, `model.attention`, `model.cache`, `model.transformer`, `model.gpt2`, `model.names`,
`model.accounting`, or `model.build` for "the architecture that this configuration names".
"""
