"""3단원 어텐션: `raise NotImplementedError`를 모두 자기 코드로 바꾼 다음 실행하세요: glassgpt learn check 3

모양: 시퀀스 B개, 헤드 H개, 쿼리 T개, 키 S개, 헤드마다 채널 D개. 채널은 모두 C = H · D개입니다.
"""

import math

import torch
from torch import Tensor


def attention_scores(q: Tensor, k: Tensor) -> Tensor:
    """쿼리와 키가 얼마나 잘 맞는지 돌려줍니다: 둘의 내적을 D의 제곱근으로 나눈 값입니다.

    Args:
        q: 쿼리, (…, T, D).
        k: 키, (…, S, D).

    Returns:
        점수, (…, T, S).
    """
    raise NotImplementedError("exercise 3.1")


def causal_mask(n_queries: int, n_keys: int) -> Tensor:
    """쿼리마다 볼 수 있는 키를 돌려줍니다: 자기 위치와 그보다 앞선 위치입니다.

    쿼리는 `n_keys`개 위치 가운데 마지막 `n_queries`개입니다. 쿼리 t의 위치는 n_keys - n_queries + t입니다.

    Returns:
        (T, S) bool, 쿼리가 키를 볼 수 있는 곳이 True.
    """
    raise NotImplementedError("exercise 3.2")


def attention_weights(scores: Tensor, mask: Tensor) -> Tensor:
    """쿼리마다 볼 수 있는 키의 점수를 합이 1인 비율로 바꾸어 돌려줍니다.

    Args:
        scores: (…, T, S).
        mask: (T, S) bool, 쿼리가 키를 볼 수 있는 곳이 True. 쿼리마다 적어도 하나는 True입니다.

    Returns:
        가중치, (…, T, S). 가려진 키의 가중치는 0입니다.
    """
    raise NotImplementedError("exercise 3.3")


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """채널을 헤드에 나누어 줍니다: 처음 D개는 헤드 0, 다음 D개는 헤드 1, 이렇게 이어집니다.

    Args:
        x: (B, T, C).
        n_head: H. C는 H로 나누어떨어집니다.

    Returns:
        (B, H, T, D).
    """
    raise NotImplementedError("exercise 3.4")


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0, window: int = 0
) -> Tensor:
    """쿼리마다 값들을 어텐션 가중치로 평균하여 돌려줍니다.

    Args:
        q: 쿼리, (B, H, T, D).
        k: 키, (B, H, S, D).
        v: 값, (B, H, S, D).
        mask: (B, 1, T, S) bool, 쿼리가 키를 볼 수 있는 곳이 True. None이면 인과 마스크입니다.
        dropout: 여기서는 0.
        window: 여기서는 0.

    Returns:
        (B, H, T, D).
    """
    if dropout or window:
        raise ValueError("이 어텐션에는 드롭아웃도 윈도도 없습니다")
    raise NotImplementedError("exercise 3.5")


class Cache:
    """지금까지 나온 토큰의 키와 값을, 한 번만 만드는 버퍼 두 개에 담습니다.

    Args:
        shape: 버퍼의 모양 (B, H, S, D). 토큰 S개가 들어갑니다.
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self.keys = torch.zeros(shape)
        self.values = torch.zeros(shape)
        self.length = 0  # 담긴 토큰의 수

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """새 토큰 T개의 키와 값을 이미 있는 것 뒤에 담습니다.

        Args:
            k: (B, H, T, D).
            v: (B, H, T, D).

        Returns:
            이전 것과 새것을 합친 모든 키와 모든 값, 각각 (B, H, 지금까지의 토큰 수, D).
        """
        raise NotImplementedError("exercise 3.6")
