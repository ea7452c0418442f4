"""2단원의 연습 문제. `raise NotImplementedError(...)`를 내 코드로 바꾼 뒤: glassgpt learn check 2"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import regex

from glassgpt.data.tokenizers.bpe import PATTERNS

Pair = tuple[int, int]
"""나란히 놓인 두 번호. 0에서 255까지는 바이트, 256은 첫 번째 병합의 결과, 257은 두 번째, …"""


def count_pairs(words: dict[tuple[int, ...], int]) -> dict[Pair, int]:
    """연습 2.1. 낱말 안에서 두 번호가 몇 번 나란히 놓이는지 셉니다.

    Args:
        words: 낱말의 번호와, 그 낱말이 글에 나오는 횟수.

    Returns:
        쌍마다 글에 나오는 횟수. 쌍은 서로 겹칩니다.
        count_pairs({(1, 2, 1): 10, (2, 1): 5})는 {(1, 2): 10, (2, 1): 15}입니다.
    """
    raise NotImplementedError("exercise 2.1")


def merge(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    """연습 2.2. 쌍이 나올 때마다 번호 하나로 바꿉니다. 왼쪽에서 오른쪽으로 갑니다.

    Args:
        ids: 낱말의 번호들.
        pair: 바꿀 두 번호.
        new_id: 그 자리에 넣을 번호.

    Returns:
        바꾼 뒤의 번호들. merge([1, 2, 3, 1, 2], (1, 2), 300)은 [300, 3, 300], merge([1, 1, 1], (1, 1), 300)은 [300, 1]입니다.
    """
    raise NotImplementedError("exercise 2.2")


def train_merges(words: dict[bytes, int], n_merges: int) -> list[Pair]:
    """연습 2.3. 병합을 배웁니다. 가장 자주 나오는 쌍을 합치고, 다시 세고, 또 합칩니다.

    Args:
        words: 낱말의 바이트와, 그 낱말이 글에 나오는 횟수.
        n_merges: 배울 병합의 수. 쌍이 더 없으면 그보다 적습니다.

    Returns:
        합친 쌍을 차례대로. 첫 번째가 256번, 두 번째가 257번, …이 됩니다. 똑같이 자주 나오는 쌍이 여럿이면
        가장 작은 것을 합칩니다(파이썬에서 (97, 98) < (97, 99) < (98, 0)).
    """
    raise NotImplementedError("exercise 2.3")


def encode(word: bytes, merges: list[Pair]) -> list[int]:
    """연습 2.4. 낱말에 병합을 적용해 토큰으로 바꿉니다. 먼저 배운 병합이 먼저입니다.

    Args:
        word: 낱말의 바이트.
        merges: `train_merges`가 돌려준 것.

    Returns:
        번호들.
    """
    raise NotImplementedError("exercise 2.4")


def decode(ids: list[int], merges: list[Pair]) -> str:
    """연습 2.5. 토큰을 다시 글로 바꿉니다.

    Args:
        ids: 글 또는 글 일부의 토큰.
        merges: `train_merges`가 돌려준 것.

    Returns:
        글. 완전한 글자가 되지 못하는 바이트는 bytes.decode(errors="replace")처럼 "\ufffd"가 됩니다.
    """
    raise NotImplementedError("exercise 2.5")


def bits_per_byte(loss: float, n_tokens: int, text: str) -> float:
    """연습 2.6. 토큰당 손실을 토크나이저에 달려 있지 않은 값으로 바꿉니다.

    Args:
        loss: 글에 대한 모델의 평균 손실, 토큰당 nat.
        n_tokens: 글의 토큰 수.
        text: 글.

    Returns:
        글 전체의 손실을 비트로 바꾸어(1비트는 ln 2 nat) UTF-8 바이트 수로 나눈 값.
    """
    raise NotImplementedError("exercise 2.6")


def split_into_words(text: str) -> list[str]:
    """글을 낱말, 수, 문장 부호, 공백으로 자릅니다. 병합은 그 안에서만 합니다. (완성된 함수이니 고칠 것이 없습니다.)"""
    return regex.findall(PATTERNS["glassgpt"], text)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> list[Pair]:
    """어휘를 이루는 병합을 배웁니다: 바이트 256개, 병합들, 글의 끝을 나타내는 번호 하나. (완성된 함수입니다.)"""
    words = Counter(word.encode() for text in texts for word in split_into_words(text))
    return train_merges(dict(words), vocab_size - 256 - 1)
