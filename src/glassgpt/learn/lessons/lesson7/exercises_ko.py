"""7단원, 생성: `raise NotImplementedError`를 여러분의 코드로 바꾸세요.

`glassgpt learn check 7`로 검사하고, `glassgpt learn hint 7.1`로 힌트를 봅니다. B는 시퀀스 수, T는 위치 수, V는 어휘의
크기입니다.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from glassgpt.model.cache import KVCache


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """온도를 적용한 모든 토큰의 확률을 돌려줍니다.

    Args:
        logits: (B, V). 어떤 실수든 됩니다.
        temperature: 0보다 큰 수. 1은 그대로이고, 작으면 확률이 높은 토큰을 더 고르고, 크면 고르게 합니다.

    Returns:
        (B, V). 행마다 더하면 1입니다.
    """
    raise NotImplementedError("exercise 7.1")


def top_p(logits: Tensor, p: float) -> Tensor:
    """더해서 확률 p에 이르는, 확률이 높은 토큰을 가장 적게 남깁니다.

    p를 넘는 그 토큰은 남깁니다. 적어도 하나는 언제나 남습니다.

    Args:
        logits: (B, V).
        p: 0과 1 사이.

    Returns:
        로짓 (B, V). 자리는 그대로이고, 남지 않은 토큰은 음의 무한대입니다.
    """
    raise NotImplementedError("exercise 7.2")


def repetition_penalty(logits: Tensor, tokens: Sequence[int], penalty: float) -> Tensor:
    """이미 나온 토큰의 확률을 낮춥니다. 몇 번 나왔든 한 번만 낮춥니다.

    Args:
        logits: (V,).
        tokens: 프롬프트와 지금까지의 글.
        penalty: 1보다 큰 수. 양의 로짓은 나누고 음의 로짓은 곱합니다.

    Returns:
        새 로짓 (V,). 원래 것은 바꾸지 마세요.
    """
    raise NotImplementedError("exercise 7.3")


def sample(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """행마다 토큰을 하나 고릅니다.

    0부터 1까지의 선을 확률만큼의 길이로, 순서대로 V개의 구간으로 나눈다고 생각하세요. 무작위 수가 놓인 구간이 그 토큰입니다.

    Args:
        probabilities: (B, V). 반올림을 빼면 행마다 더해서 1입니다.
        uniform: (B,). 행마다 0 이상 1 미만의 무작위 수.

    Returns:
        (B,) int64. 반올림 때문에 수가 놓일 구간이 없으면 마지막 토큰입니다.
    """
    raise NotImplementedError("exercise 7.4")


def generate(model: Any, prompt: Sequence[int], max_tokens: int, choose: Callable[[Tensor], int]) -> list[int]:
    """KV 캐시를 써서, 토큰마다 모델을 한 번만 거치도록 토큰을 만듭니다.

    `cache = KVCache(model.config, slots=1)`은 빈 캐시를 만듭니다. `model(tokens, cache)`는 캐시에 든 것 다음에 오는 토큰
    (1, T)의 로짓 (1, T, V)를 계산하고, 그 토큰을 캐시에 더합니다.

    Args:
        model: 언어 모델.
        prompt: 토큰 번호, 하나 이상.
        max_tokens: 만들 토큰의 수.
        choose: 마지막 위치의 로짓 (V,)를 받아 토큰 번호를 돌려줍니다.

    Returns:
        새 토큰 번호.
    """
    raise NotImplementedError("exercise 7.5")


def stream_text(tokens: Sequence[bytes]) -> list[str]:
    """도착하는 토큰의 바이트를 글로 바꿉니다.

    토큰은 글자 가운데서 끝날 수 있습니다. UTF-8에서 글자 하나는 4바이트까지입니다. 글자가 완성될 때까지 그 바이트를 남겨 둡니다.

    Args:
        tokens: 토큰마다 그 바이트. 모두 이으면 올바른 UTF-8이지만, 끝은 잘려 있을 수 있습니다.

    Returns:
        토큰마다 그 뒤에 보여 줄 수 있는 새 글, 그리고 하나 더: errors="replace"로 바꾼 나머지.
    """
    raise NotImplementedError("exercise 7.6")


def processor(logits: Tensor, histories: Sequence[Any]) -> Tensor:
    """`glassgpt generate --processor`가 샘플링할 로짓 (B, V)를 돌려줍니다. 이미 완성되어 있고, 여러분의 함수를 씁니다."""
    rows = [
        repetition_penalty(row, [*history.prompt, *history.output], 1.2)
        for row, history in zip(logits, histories, strict=True)
    ]
    return top_p(torch.stack(rows) / 0.8, 0.9)
