"""연습 두 개."""

import torch


def softmax(scores: torch.Tensor) -> torch.Tensor:
    """마지막 축에 대한 확률을 돌려줍니다. scores는 (B, T)입니다."""
    raise NotImplementedError("exercise 9.1")


def pairs(tokens: list[int]) -> tuple[list[int], list[int]]:
    """입력과 목표(다음 토큰)를 돌려줍니다."""
    raise NotImplementedError("exercise 9.2")
