"""weights <-> the world: Hugging Face's layouts of GPT-2 and NanoChat, read and written; begin with `huggingface`."""
