"""0단원의 연습 문제. `raise NotImplementedError(...)`를 내 코드로 바꾼 뒤: glassgpt learn check 0"""

from __future__ import annotations

import math
from collections.abc import Callable


def count_next(text: str) -> dict[str, dict[str, int]]:
    """연습 0.1. 글자마다, 그 바로 뒤에 어떤 글자가 몇 번 나오는지 셉니다.

    Args:
        text: 아무 글.

    Returns:
        counts[a][b]는 a 바로 뒤에 b가 나온 횟수입니다. 한 번도 나오지 않은 쌍은 넣지 않습니다.
        count_next("abab")는 {"a": {"b": 2}, "b": {"a": 1}}입니다.
    """
    raise NotImplementedError("exercise 0.1")


def to_probabilities(counts: dict[str, int], alphabet: str, add: float) -> dict[str, float]:
    """연습 0.2. 모든 글자의 횟수에 `add`를 더한 다음 확률로 바꿉니다.

    Args:
        counts: 글자마다 나온 횟수. 없는 글자는 0번 나온 것입니다.
        alphabet: 있을 수 있는 모든 글자, 하나씩.
        add: 횟수마다 더하는 수. 불가능한 글자가 없게 합니다.

    Returns:
        alphabet의 글자마다 확률. 모두 더하면 1입니다.
        to_probabilities({"a": 3}, "ab", 1)은 {"a": 0.8, "b": 0.2}입니다.
    """
    raise NotImplementedError("exercise 0.2")


def draw(probabilities: list[float], u: float) -> int:
    """연습 0.3. 여러 가능성 가운데 하나를 무작위로 뽑습니다.

    확률들을 0에서 1까지의 선 위에 구간으로 차례대로 늘어놓습니다. 난수 u는 이 선 위의 한 점입니다.

    Args:
        probabilities: 0번, 1번, 2번, … 가능성의 확률. 모두 더하면 1입니다.
        u: 0 이상 1 미만의 난수.

    Returns:
        u가 놓인 구간의 번호. draw([0.5, 0.2, 0.3], 0.6)은 1입니다.
    """
    raise NotImplementedError("exercise 0.3")


def write(start: str, length: int, next_character: Callable[[str], str]) -> str:
    """연습 0.4. 글을 씁니다. 글자 하나를 골라 붙이고, 그다음 글자를 골라 붙이기를 되풀이합니다.

    Args:
        start: 글의 시작, 한 글자 이상.
        length: 덧붙일 글자 수.
        next_character: next_character(c)는 글자 c 뒤에 올 글자를 고릅니다.

    Returns:
        start와 그 뒤의 글자 `length`개.
    """
    raise NotImplementedError("exercise 0.4")


def average_loss(text: str, rows: dict[str, dict[str, float]]) -> float:
    """연습 0.5. 모델이 글에 얼마나 놀라는지, 예측 하나당 평균을 잽니다.

    한 글자에 대한 놀람은 -ln p입니다. p는 모델이 그 글자에 준 확률입니다. 모델이 확신했으면 0이고, 확률이 낮을수록
    커집니다. 글의 첫 글자는 예측하지 않습니다.

    Args:
        text: 두 글자 이상.
        rows: rows[a][b]는 a 뒤에 b가 올 확률입니다.

    Returns:
        놀람의 평균, 단위는 nat(자연로그).
    """
    raise NotImplementedError("exercise 0.5")
