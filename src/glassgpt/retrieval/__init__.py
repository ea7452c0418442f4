"""Documents to passages: cut, index and search them."""
