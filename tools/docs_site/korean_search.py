"""Search that finds Korean words inside longer ones: a Sphinx extension.

Korean attaches endings and other nouns to a word: "어텐션" occurs as "어텐션은", "토큰" in "토큰화". Sphinx has no Korean splitter
and compares words of two characters only as a whole. Here each run of Hangul is indexed as its syllables and as its pairs of
syllables, and a query is split into pairs in the same way, all of which a page must have. Other words are treated as in English.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish

HANGUL = re.compile(r"([가-힣]+)")
WORD = re.compile(r"\w+")


def indexed_terms(text: str) -> list[str]:
    """Return the terms of a text: syllables and pairs of syllables of Korean words, and all other words."""
    terms: list[str] = []
    for word in WORD.findall(text):
        for i, part in enumerate(HANGUL.split(word)):
            if i % 2:
                terms += [*part, *(part[j : j + 2] for j in range(len(part) - 1))]
            elif part:
                terms.append(part)
    return terms


SPLITTER = r"""
/* Split a query like `indexed_terms`, but a Korean word of several syllables into pairs only. */
function splitQuery(query) {
  const terms = [];
  for (const word of query.match(/[\p{L}\p{N}_]+/gu) || []) {
    for (const part of word.match(/[가-힣]+|[^가-힣]+/gu)) {
      if (!/[가-힣]/.test(part) || part.length === 1) terms.push(part);
      else for (let i = 0; i + 1 < part.length; i++) terms.push(part.slice(i, i + 2));
    }
  }
  return terms;
}
"""


class SearchKoreanAndEnglish(SearchEnglish):
    """Search in Korean and English text."""

    lang = "ko"
    language_name = "English"  # names the class of its JavaScript stemmer
    js_splitter_code = SPLITTER

    def split(self, input: str) -> list[str]:
        """Split a text into the terms of the index."""
        return indexed_terms(input)

    def word_filter(self, stemmed_word: str) -> bool:
        """Return whether a term is indexed."""
        return bool(stemmed_word) and stemmed_word not in self.stopwords and not stemmed_word.isdigit()


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the language; the configuration selects it with `html_search_language = "ko"`."""
    app.add_search_language(SearchKoreanAndEnglish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
