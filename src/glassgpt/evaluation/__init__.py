"""text -> figures: how well a model predicts held-out text, how its own texts compare with people's, which settings suit.

Begin with `perplexity` (prediction), `quality` (all figures of a set of texts) and `sweep` (the search); `report` puts
together what `glassgpt evaluate` is asked for, and `docs/evaluation.md` says what each figure means.
"""
