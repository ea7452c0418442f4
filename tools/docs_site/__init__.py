"""The documentation site: `make docs` runs `python -m tools.docs_site`.

`pages` lists what the site consists of, `staging` copies it with its links rewritten, `lessons`, `charts` and `gallery` make
what is computed, Sphinx (configured in `theme/`) writes HTML, and `links` checks the result.
"""
