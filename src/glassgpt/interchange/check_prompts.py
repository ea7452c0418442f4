"""The prompts of `export --check`."""

PROMPTS = (
    "It was",
    "The quick brown fox jumps over the lazy dog.",
    "ROMEO:\nWhat light through yonder window breaks?",
    "def fibonacci(n):\n    return",
    "1, 2, 3, 4, 1234567890 and 3.14159",
    "옛날 옛적에 호랑이가 살았습니다.",
    "It's IT'S we'll they'RE don't",
    "\U0001f600 \U0001f469‍\U0001f469‍\U0001f467 naïve café",
    "two   spaces\t\ttabs\n\n\nlines \r\n",
    "Ω≈ç√ 한국어와 English 日本語",
)
"""Ten prompts with what tokenizers and formats have been seen to get wrong: digits, Korean, emoji, white space, case."""
