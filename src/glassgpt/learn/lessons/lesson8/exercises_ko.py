"""8단원, 엔지니어링: `raise NotImplementedError`를 여러분의 코드로 바꾸세요.

`glassgpt learn check 8`로 검사하고, `glassgpt learn hint 8.1`로 힌트를 봅니다.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def benchmark(work: Callable[[], Any], clock: Callable[[], float], warmup: int, repeats: int) -> float:
    """`work`를 한 번 부르는 시간의 중앙값을 돌려줍니다.

    Args:
        work: 잴 대상.
        clock: 시각을 돌려줍니다. `time.perf_counter` 같은 것입니다.
        warmup: 재기 전에 부르는 횟수. 셈에 넣지 않습니다.
        repeats: 재는 횟수. 한 번 한 번 따로 잽니다.
    """
    raise NotImplementedError("exercise 8.1")


def kv_cache_bytes(
    n_layer: int, n_head: int, head_width: int, tokens: int, sequences: int, bytes_per_number: int
) -> int:
    """KV 캐시의 메모리를 바이트로 돌려줍니다.

    층마다, 헤드마다, 모든 시퀀스의 모든 토큰에 키 하나와 값 하나가 있습니다.

    Args:
        n_layer: 층의 수.
        n_head: 한 층의 헤드 수.
        head_width: 키 하나(또는 값 하나)에 든 수의 개수.
        tokens: 한 시퀀스의 토큰 수.
        sequences: 시퀀스의 수.
        bytes_per_number: float32는 4, 16비트는 2.
    """
    raise NotImplementedError("exercise 8.2")


def quantize(weights: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """가중치 하나하나를 정수 곱하기 그 행의 배율로 나타냅니다.

    b비트이면 정수는 -(2 ** (b - 1) - 1)부터 2 ** (b - 1) - 1까지, 8비트이면 -127부터 127까지입니다. 행에서 절댓값이 가장 큰
    가중치가 가장 큰 정수(또는 그 음수)가 됩니다.

    Args:
        weights: (R, C). 모두 0인 행은 없습니다.
        bits: 2부터 8까지.

    Returns:
        가장 가까운 정수로 반올림한 torch.int8 정수 (R, C)와 배율 (R, 1). 둘을 곱하면 가중치에 가깝습니다.
    """
    raise NotImplementedError("exercise 8.3")


def bits_per_byte(nats_per_token: float, tokens: int, n_bytes: int) -> float:
    """손실을 바이트당 비트로 돌려줍니다. 토크나이저가 달라도 비교할 수 있습니다.

    Args:
        nats_per_token: 글의 평균 손실.
        tokens: 그 글의 토큰 수.
        n_bytes: 그 글의 바이트 수.
    """
    raise NotImplementedError("exercise 8.4")


def first_spike(losses: Sequence[float], window: int, factor: float) -> int | None:
    """손실 곡선에서 처음으로 튀는 곳의 번호를, 없으면 None을 돌려줍니다.

    NaN이나 무한대는 어느 자리에서든 튄 것입니다. 또 앞에 손실이 `window`개 있고, 자기를 뺀 바로 앞 `window`개의 중앙값에
    `factor`를 곱한 것보다 크면 튄 것입니다.

    Args:
        losses: 스텝 순서대로의 손실.
        window: 비교할 바로 앞 손실의 수.
        factor: 1보다 큰 수.
    """
    raise NotImplementedError("exercise 8.5")
