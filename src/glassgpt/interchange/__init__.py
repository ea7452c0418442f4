"""weights <-> the world: Hugging Face's GPT-2 layout."""
