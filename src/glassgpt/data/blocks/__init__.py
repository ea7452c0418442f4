"""Encode text in blocks, each in any process on any machine, and lay the tokens out as shards.

`plan` cuts the sources into blocks, `encode` turns a block into a part (tokens and a table of documents), `choice` decides
which documents are kept, `layout` writes shards from parts, and `writing` runs these stages. `processes` and `ray_tasks`
carry a function to its items.
"""
