"""Models that see and hear."""

MESSAGES = {
    "the media in {} have another geometry than those of {} ({} instead of {}); prepare them again with the same": "{0}의 그림과 소리는 {1}의 것과 크기 설정이 다릅니다({3} 대신 {2}). 같은 설정으로 다시 준비하세요",
    "the model knows {}, but not {}": "이 모델은 {0}은(는) 알지만 {1}은(는) 모릅니다",
    "the documents are packed into rows of {} positions, but train.sequence_length is {}; set it to {}, or prepare them with --row-tokens {}": "문서가 {0}위치의 행으로 채워져 있는데 train.sequence_length 값이 {1}입니다. {2}(으)로 바꾸거나 --row-tokens {3}(으)로 다시 준비하세요",
    "multimodal.modalities names {}; it may have {}": "multimodal.modalities에 {0}이(가) 있습니다. {1}만 쓸 수 있습니다",
    "no text of these documents is learned, so that nothing can be trained; give each a text": "이 문서들에는 배울 글이 없어 학습할 수 없습니다. 문서마다 글을 넣으세요",
    "it has parameters outside of its modules": "모듈 밖에 매개변수가 있습니다",
    "it has no token_embedding": "token_embedding이 없습니다",
    "model.arch is {}, whose memory would mix the documents of a row; for pictures and sound use another": "model.arch 값이 {0}인데, 그 메모리는 한 행의 문서들을 섞습니다. 그림과 소리에는 다른 구조를 쓰세요",
    "{} cannot see or hear, because {}; let embed use glassgpt.model.vectors.vectors_of": "{0}은(는) 보거나 들을 수 없습니다. 이유: {1:t}. embed에서 glassgpt.model.vectors.vectors_of를 쓰세요",
    "its embed fails with vectors: {}": "embed가 벡터를 받으면 실패합니다: {0}",
    "{} does not have the encoders of config.toml: {}": "{0}의 인코더가 config.toml과 맞지 않습니다: {1}",
}
