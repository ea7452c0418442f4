"""1단원의 연습 문제. `raise NotImplementedError(...)`를 내 코드로 바꾼 뒤: glassgpt learn check 1"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def windows(tokens: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
    """연습 1.1. 글을 입력과 정답으로 나눕니다.

    Args:
        tokens: (N,) 글의 토큰 번호를 차례대로 늘어놓은 것.
        context_length: T, 윈도 하나에 들어가는 토큰 수.

    Returns:
        inputs: (W, T) 윈도를 한 행에 하나씩, 틈도 겹침도 없이. W = (N - 1) // T이고 나머지는 버립니다.
        targets: (W, T) 입력마다 글에서 그 바로 뒤에 오는 토큰.
        windows(tensor([10, 11, 12, 13, 14, 15]), 2)는 [[10, 11], [12, 13]]과 [[11, 12], [13, 14]]입니다.
    """
    raise NotImplementedError("exercise 1.1")


def softmax(logits: Tensor) -> Tensor:
    """연습 1.2. 점수를 확률로 바꿉니다: exp(점수) / 모든 exp(점수)의 합.

    Args:
        logits: (T, V) T개 위치마다 V개 토큰의 점수. 큰 수를 포함해 어떤 수든 될 수 있습니다.

    Returns:
        (T, V) 위치마다 확률 V개. 더하면 1입니다.
    """
    raise NotImplementedError("exercise 1.2")


def average_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """연습 1.3. 모델이 정답에 얼마나 놀라는지 잽니다: -ln p의 평균.

    Args:
        logits: (T, V) 점수.
        targets: (T,) 위치마다 실제로 뒤에 오는 토큰의 번호.

    Returns:
        수 하나가 든 텐서, 단위는 nat. 앞에서 만든 softmax를 써도 됩니다.
    """
    raise NotImplementedError("exercise 1.3")


def gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """연습 1.4. 점수 하나하나에 따라 평균 손실이 어떻게 달라지는지 계산합니다.

    한 위치에서 -ln p(정답)을 점수로 미분하면 p에서 정답 자리만 1을 뺀 것입니다.

    Args:
        logits: (T, V) 점수.
        targets: (T,) 토큰 번호.

    Returns:
        (T, V) `average_loss(logits, targets)`를 점수 하나하나로 미분한 값.
    """
    raise NotImplementedError("exercise 1.4")


def continue_text(model: Callable[[Tensor], Tensor], tokens: list[int], count: int, context_length: int) -> list[int]:
    """연습 1.5. 글을 이어 씁니다. 예측하고, 점수가 가장 높은 토큰을 붙이고, 다시 예측합니다.

    Args:
        model: model(ids)는 글 하나의 번호 (1, T)를 받아 점수 (1, T, V)를 돌려줍니다. T는 context_length 이하이고,
            위치마다 그다음 토큰의 점수입니다.
        tokens: 지금까지 쓴 글의 번호, 하나 이상.
        count: 덧붙일 토큰 수.
        context_length: 모델이 볼 수 있는 토큰 수. 글이 더 길면 마지막 토큰들을 줍니다.

    Returns:
        글과 그 뒤에 이어 쓴 것의 번호.
    """
    raise NotImplementedError("exercise 1.5")
