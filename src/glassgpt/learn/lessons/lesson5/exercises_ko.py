"""5단원 모델 전체: `raise NotImplementedError`를 모두 자기 코드로 바꾼 다음 실행하세요: glassgpt learn check 5

모양: 시퀀스 B개, 토큰 T개, 채널 C개, 어휘의 토큰 V개.
"""

import math

import torch
from torch import Tensor, nn

from glassgpt.model.attention import attend  # 자기 것을 쓰려면: from lesson3.exercises import attend
from glassgpt.model.config import ModelConfig
from glassgpt.model.gpt2 import MLP, CausalSelfAttention
from glassgpt.model.transformer import Block, LanguageModel  # 자기 것을 쓰려면: from lesson4.exercises import Block

NAMES = {
    "wte": "token_embedding",
    "wpe": "position_embedding",
    "ln_f": "norm",
    "h": "blocks",
    "ln_1": "norm1",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.out",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.down",
}
"""공개된 GPT-2의 모듈 이름과 이 프로그램의 이름."""


def embed(tokens: Tensor, token_table: Tensor, position_table: Tensor, start: int = 0) -> Tensor:
    """토큰마다 그 토큰의 벡터와 그 위치의 벡터를 더하여 돌려줍니다.

    Args:
        tokens: (B, T) int64.
        token_table: (V, C), i번째 행이 토큰 i의 것.
        position_table: (컨텍스트, C), i번째 행이 위치 i의 것.
        start: 토큰 T개 중 첫 토큰의 위치.

    Returns:
        (B, T, C).
    """
    raise NotImplementedError("exercise 5.1")


def count_parameters(vocab_size: int, context_length: int, n_layer: int, n_embd: int) -> int:
    """이 모양의 GPT-2가 배워야 하는 수의 개수를 돌려줍니다.

    선형 층과 노름에는 모두 bias가 있고, MLP의 너비는 4 · n_embd이며, 출력 층은 토큰 표를 그대로 씁니다.
    """
    raise NotImplementedError("exercise 5.2")


def initial_std(name: str, n_layer: int, std: float = 0.02) -> float:
    """행렬의 처음 표준편차를 돌려줍니다.

    Args:
        name: `token_embedding.weight`, `blocks.3.mlp.up.weight` 같은 이름. 결과가 잔차 스트림에 더해지는 행렬은
            `….attention.out.weight`와 `….mlp.down.weight`이고, 이들은 std / √(2 · n_layer)입니다.
        n_layer: 블록의 수.
        std: 나머지 행렬의 표준편차.
    """
    raise NotImplementedError("exercise 5.3")


def from_published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """공개된 GPT-2의 가중치에 이 프로그램의 이름을 붙이고 꼴을 맞춥니다.

    Args:
        weights: `wte.weight`, `h.0.attn.c_attn.bias` 같은 이름별 가중치. `NAMES`를 보세요. 선형 층의 행렬(이름에 `c_`가 있는
            것)은 (입력, 출력) 꼴이고, `nn.Linear`의 행렬은 (출력, 입력) 꼴입니다.

    Returns:
        `token_embedding.weight`, `blocks.0.attention.qkv.bias` 같은 이름별로 같은 수.
    """
    raise NotImplementedError("exercise 5.4")


class GPT(LanguageModel):
    """모델 전체. 마지막 세 메서드를 쓰세요. 기반 클래스의 `forward`가 `head(features(tokens))`를 부릅니다.

    Args:
        config: 모델의 모양.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.context_length, config.n_embd)
        self.blocks = nn.ModuleList(
            Block(
                nn.LayerNorm(config.n_embd),
                CausalSelfAttention(config, i, attend),
                nn.LayerNorm(config.n_embd),
                MLP(config),
            )
            for i in range(config.n_layer)
        )
        self.norm = nn.LayerNorm(config.n_embd)
        self.initialize()  # 행렬마다 `initial_std`에 묻습니다

    def initial_std(self, name: str) -> float:
        """행렬의 처음 표준편차를 연습 5.3으로 돌려줍니다."""
        return initial_std(name, self.config.n_layer, self.config.init_std)

    def parameter_kinds(self) -> dict[str, str]:
        """매개변수마다 어느 옵티마이저와 가중치 감쇠를 쓸지 돌려줍니다."""
        kinds = {name: "vector" if p.ndim < 2 else "matrix" for name, p in self.named_parameters()}
        return kinds | {"token_embedding.weight": "embedding", "position_embedding.weight": "embedding"}

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """두 임베딩의 합을 돌려줍니다: 토큰 (B, T)와 위치 (B 또는 1, T)에서 (B, T, C)."""
        raise NotImplementedError("exercise 5.5")

    def features(self, tokens: Tensor, cache=None) -> Tensor:
        """모든 블록과 마지막 노름을 지난 벡터를 돌려줍니다, (B, T)에서 (B, T, C).

        캐시가 없으면 위치는 0 … T - 1입니다. 있으면 먼저 `cache.begin(T)`를 부르고, `cache.positions()`에서 위치를 얻고, 블록마다
        캐시를 주고, 마지막 블록 다음에 `cache.commit()`을 부릅니다.
        """
        raise NotImplementedError("exercise 5.5")

    def head(self, features: Tensor) -> Tensor:
        """어휘의 토큰마다 점수, 곧 그 임베딩과의 내적을 돌려줍니다, (B, T, C)에서 (B, T, V)."""
        raise NotImplementedError("exercise 5.5")
