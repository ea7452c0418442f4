"""4단원 블록: `raise NotImplementedError`를 모두 자기 코드로 바꾼 다음 실행하세요: glassgpt learn check 4

모양: 시퀀스 B개, 토큰 T개, 채널 C개. 선형 층 `layer`는 마지막 축을 바꿉니다: `layer(x)`.
"""

import math

import torch
from torch import Tensor, nn

from glassgpt.model.attention import attend  # 자기 것을 쓰려면: from lesson3.exercises import attend


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """토큰마다 채널의 평균을 0, 분산을 1로 맞춘 다음 gain을 곱하고 bias를 더합니다.

    분산은 편차 제곱의 평균입니다. 0으로 나누지 않도록 분산에 `eps`를 더합니다.

    Args:
        x: (…, C).
        gain: (C).
        bias: (C).
        eps: 작은 수.

    Returns:
        (…, C).
    """
    raise NotImplementedError("exercise 4.1")


def gelu(x: Tensor) -> Tensor:
    """수마다 GPT-2가 쓰는 GELU를 돌려줍니다: x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))."""
    raise NotImplementedError("exercise 4.2")


def self_attention(x: Tensor, qkv: nn.Linear, out: nn.Linear, n_head: int) -> Tensor:
    """토큰마다 쿼리, 키, 값을 만들고, 헤드마다 어텐션을 하고, 헤드를 다시 합칩니다.

    Args:
        x: (B, T, C).
        qkv: 채널 C개를 3 C개로 바꿉니다: 모든 헤드의 쿼리, 그다음 키, 그다음 값.
        out: 나란히 놓인 헤드, 곧 채널 C개를 C개로 바꿉니다.
        n_head: 헤드의 수. C를 나누어떨어지게 합니다.

    Returns:
        (B, T, C). `attend(q, k, v, None, 0.0)`을 쓰세요. 셋 다 (B, 헤드, T, C / 헤드)입니다.
    """
    raise NotImplementedError("exercise 4.3")


def mlp(x: Tensor, up: nn.Linear, down: nn.Linear) -> Tensor:
    """토큰마다 따로 처리합니다: 넓히고, 자신이 만든 GELU를 적용하고, 다시 좁힙니다.

    Args:
        x: (B, T, C).
        up: 채널 C개를 4 C개로 바꿉니다.
        down: 채널 4 C개를 C개로 바꿉니다.

    Returns:
        (B, T, C).
    """
    raise NotImplementedError("exercise 4.4")


class Block(nn.Module):
    """GPT-2의 블록: 어텐션, 그다음 MLP. 둘 다 앞에 노름이 있고, 둘 다 잔차 연결이 감쌉니다.

    Args:
        norm1: 어텐션 앞의 모듈.
        attention: 모듈. `attention(x, cache)`로 부릅니다.
        norm2: MLP 앞의 모듈.
        mlp: 모듈.
    """

    def __init__(self, norm1: nn.Module, attention: nn.Module, norm2: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2, self.mlp = norm1, attention, norm2, mlp

    def forward(self, x: Tensor, cache: object = None) -> Tensor:
        """새 잔차 스트림을 돌려줍니다, (B, T, C) -> (B, T, C)."""
        raise NotImplementedError("exercise 4.5")
