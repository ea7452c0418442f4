"""text -> figures: loss, perplexity and bits per byte of a model on a data set."""
