"""The prompts of `export --check`, and texts on which tokenizers are compared."""

from itertools import product

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

HELD_OUT = (
    "대한민국의 수도는 서울이다. 2024년 11월 28일, 기온은 -3.5℃였고 눈이 12.7cm 왔다. ㅋㅋㅋ 정말요?!",
    "各位,明日の会議は10時30分から。ไทย عربي हिन्दी Ελληνικά кириллица עברית",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1f0\U0001f1f7 \U0001f44d\U0001f3fd!! ❤\ufe0f\u200d\U0001f525",
    "\n".join(f"{n * n} {n}.{n * 7:03d} {n:,}" for n in range(0, 20_000, 97)),
    "0 12 123 1234 12345 123456 1234567 ١٢٣٤٥ ①②③④ ½¾ ²³ Ⅷ 1e-05 0xDEADBEEF v2.10.3",
    "def f(x):\n\tif x >= 10:\n\t\treturn {'a': x**2, \"b\": [1, 22, 333]}\n\n\n# isn't it?\nfor (;;) {}\r\n\r\n",
    "it's IT'S we'll WE'LL they're I'd I'M x'Ve 'twas ''s ’s don't DON'T 'ſ",
    "a \n \n  b\t\t\n\n\n   c   \r\n d\u00a0e\u3000f\u2028g\u200bh \x85 ",
    '...\n\n!!!\n ---\n\n***\n\n\n(a).\n\n"b"?\n <|im_start|> __init__ ### $1,000.00 100% #1\n',
)
"""Text that no vocabulary was trained on, with everything that is split in different ways."""

ATOMS = (
    *(" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n"),
    *("a", "the", "Z", "한", "é", "1", "12", "345", ".", "...", "(", "'s", "'LL", "\U0001f44d"),
)


def boundary_texts() -> list[str]:
    """Return every sequence of three of the atoms: all the ways in which blanks, letters, digits and signs can meet."""
    return ["".join(parts) for parts in product(ATOMS, repeat=3)]
