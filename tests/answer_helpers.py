"""A small index of given passages, scored by the number of shared words, and a random model that reads them."""

from glassgpt.data.chat.chat_template import TRANSCRIPT
from glassgpt.data.tokenizers import load_tokenizer
from glassgpt.retrieval.index import Hit
from glassgpt.retrieval.overlap import stems
from glassgpt.retrieval.passages import Passage
from glassgpt.retrieval.quoting import QuotingModel
from small_models import attentive_model


def passage_of(text, number=0, source="notes/bridges.md", heading="Bridges > History", start=0):
    return Passage(number, source, source, heading, start, start + len(text), text)


class WordIndex:
    """Finds the passages that share most words with a question."""

    def __init__(self, *texts):
        self.passages = [passage_of(text, number, f"document {number}") for number, text in enumerate(texts)]

    def __len__(self):
        return len(self.passages)

    def search(self, question, limit=5):
        asked = stems(question)
        scores = [float(len(asked & stems(each.text))) for each in self.passages]
        hits = [Hit(each, score, {"words": score}) for each, score in zip(self.passages, scores, strict=True)]
        return sorted((hit for hit in hits if hit.score), key=lambda hit: -hit.score)[:limit]


def random_reader(max_tokens=12, **shape):
    model = attentive_model(**({"context_length": 512} | shape))
    return QuotingModel(model, load_tokenizer("bytes"), TRANSCRIPT, max_tokens)
