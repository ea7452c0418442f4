"""6단원, 학습: `raise NotImplementedError`를 여러분의 코드로 바꾸세요.

`glassgpt learn check 6`으로 전부, `glassgpt learn check 6.1`로 한 문제만 검사하고, `glassgpt learn hint 6.1`로 힌트를
봅니다. B는 시퀀스 수, T는 위치 수, V는 어휘의 크기입니다.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def make_batch(tokens: Tensor, starts: Sequence[int], length: int) -> tuple[Tensor, Tensor]:
    """배치의 입력과 정답을 돌려줍니다. 둘 다 (B, T)입니다.

    Args:
        tokens: 글 전체의 토큰 번호, (N,).
        starts: 시퀀스마다 첫 입력이 `tokens`의 몇 번째인지.
        length: T, 한 시퀀스의 입력 수.

    Returns:
        입력, 그리고 입력마다 모델이 그 자리에서 맞혀야 할 토큰.
    """
    raise NotImplementedError("exercise 6.1")


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """손실을 차원이 없는 텐서로 돌려줍니다. 손실은 정답의 로그 확률에 음의 부호를 붙인 값의 평균이고 단위는 nat입니다.

    Args:
        logits: (B, T, V). 위치와 어휘의 토큰마다 수 하나이며 어떤 실수든 됩니다.
        targets: (B, T) int64.
    """
    raise NotImplementedError("exercise 6.2")


def learning_rate_ratio(step: int, max_steps: int, warmup_steps: int, final_ratio: float) -> float:
    """어떤 스텝의 학습률을 최고값에 대한 비율(0과 1 사이)로 돌려줍니다.

    워밍업은 같은 폭으로 오릅니다. 스텝 0부터 이미 배우고, 스텝 `warmup_steps`에서 처음으로 최고값이 됩니다.
    그다음 코사인 반 주기를 따라 내려가서, 마지막 스텝인 `max_steps` - 1에서 정확히 `final_ratio`가 됩니다.

    Args:
        step: 지금까지 끝낸 스텝 수, 0부터.
        max_steps: 전체 스텝 수.
        warmup_steps: 처음에 최고값보다 낮은 스텝의 수. 0일 수 있습니다.
        final_ratio: 마지막 스텝의 학습률을 최고값으로 나눈 값.
    """
    raise NotImplementedError("exercise 6.3")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """옵티마이저에 줄 매개변수 그룹 두 개를 돌려줍니다.

    Args:
        model: `model.named_parameters()`를 보세요. 임베딩의 이름에는 "embedding"이 들어 있습니다.
        weight_decay: 행렬의 가중치 감쇠.

    Returns:
        키가 "params"(리스트)와 "weight_decay"(수)인 딕셔너리 두 개. 행렬은 감쇠하고, 임베딩과 차원이 하나뿐인 것
        (편향과 이득)은 감쇠하지 않습니다. 모든 매개변수는 정확히 한 그룹에 들어갑니다.
    """
    raise NotImplementedError("exercise 6.4")


def clip_gradients(gradients: Sequence[Tensor], loss_scale: float, max_norm: float) -> tuple[list[Tensor], float]:
    """기울기에서 손실 배율을 없앤 다음, 전체 길이를 `max_norm` 이하로 줄입니다.

    Args:
        gradients: 매개변수마다 텐서 하나. 손실에 `loss_scale`을 곱해서 계산한 것입니다.
        loss_scale: 손실에 곱한 수. 16비트 수로 학습하지 않으면 1입니다.
        max_norm: 모든 기울기를 하나의 긴 벡터로 볼 때의 가장 큰 길이.

    Returns:
        기울기, 그리고 배율을 없앤 뒤 줄이기 전의 노름.
    """
    raise NotImplementedError("exercise 6.5")


def adamw_update(
    parameter: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: int,
    learning_rate: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.95,
    epsilon: float = 1e-8,
    weight_decay: float = 0.1,
) -> tuple[Tensor, Tensor, Tensor]:
    """AdamW 한 스텝을 거친 매개변수와 새 이동 평균 둘을 돌려줍니다. 인자는 바꾸지 마세요.

    Args:
        parameter: 모양은 상관없습니다. 텐서 네 개의 모양이 모두 같습니다.
        gradient: 이번 스텝의 기울기.
        mean: 이번 스텝 전까지의 기울기의 이동 평균.
        square: 이번 스텝 전까지의 기울기 제곱의 이동 평균.
        step: 이번 스텝의 번호, 1부터.
        learning_rate: 이번 스텝의 학습률.
        beta1: `mean`의 감쇠율.
        beta2: `square`의 감쇠율.
        epsilon: 제곱근에 더하는 수.
        weight_decay: 매개변수에서 덜어 내는 비율. 학습률을 곱해서 씁니다.

    Returns:
        매개변수, mean, square.
    """
    raise NotImplementedError("exercise 6.6")


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[tuple[Tensor, Tensor]],
    learning_rate: float,
    max_norm: float,
) -> float:
    """모든 마이크로 배치를 합친 기울기로 모델의 가중치를 한 번 바꿉니다.

    여러분의 `cross_entropy`를 쓰고, 클리핑에는 `nn.utils.clip_grad_norm_`을 쓰세요.

    Args:
        model: `model(inputs)`가 로짓 (B, T, V)를 돌려줍니다.
        optimizer: 모델의 매개변수를 맡은 옵티마이저. 앞 스텝의 기울기가 섞이면 안 됩니다.
        micro_batches: 입력과 정답, 각각 (B, T). 크기가 모두 같습니다.
        learning_rate: 이번 스텝의 학습률. `optimizer.param_groups`의 모든 그룹에 씁니다.
        max_norm: 기울기의 가장 큰 노름.

    Returns:
        가중치를 바꾸기 전, 마이크로 배치들의 손실의 평균.
    """
    raise NotImplementedError("exercise 6.7")
