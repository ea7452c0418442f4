"""Sphinx's configuration of both languages; `-D language=ko` selects one."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

project = "glassgpt"
author = "glassgpt"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "tools.docs_site.korean_search",
    "tools.docs_site.docstrings",
    "tools.docs_site.switch",
]
templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_theme = "furo"
html_title = "glassgpt"
html_copy_source = False
html_show_copyright = False
html_search_language = "ko"
html_theme_options = {
    "top_of_page_buttons": ["view"],  # its template is the switch of languages
    "light_css_variables": {
        "font-stack": "system-ui, 'Noto Sans KR', 'Apple SD Gothic Neo', 'Malgun Gothic', sans-serif"
    },
}
pygments_style = "a11y-light"
pygments_dark_style = "native"
highlight_language = "none"  # blocks without a language are output or signatures
default_role = "code"  # docstrings write `name`

myst_enable_extensions = ["attrs_inline", "colon_fence"]
myst_heading_anchors = 6
# See tools/docs_site/staging.py for the last two, links to the other language's build.
myst_url_schemes = {
    "http": None,
    "https": None,
    "mailto": None,
    "built": "{{path}}",
    "built-at": "{{path}}#{{fragment}}",
}
suppress_warnings = ["myst.header"]  # a page of a finding begins below its title

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_use_type_comments = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
