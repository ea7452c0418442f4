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
    "the model was trained on text alone; pictures and sound need one that was trained on them": "글로만 학습한 모델입니다. 그림과 소리에는 그것으로 학습한 모델이 필요합니다",
    "a draft model cannot see or hear; look drafts up in the text instead (without a draft model)": "초안 모델은 보거나 듣지 못합니다. 초안 모델 없이 글에서 초안을 찾게 하세요",
    "text alone": "글",
    "{} needs a run that was trained on it; {} was trained on {}": "{0}에는 그것으로 학습한 실행 폴더가 필요합니다. {1}은(는) {2:t}(으)로 학습했습니다",
    "decoding pictures and sound": "그림과 소리 디코딩하기",
    "a sound is a pair of samples and their rate, such as (samples, 16000)": "소리는 (samples, 16000)처럼 샘플과 샘플레이트의 쌍입니다",
    "a sound has samples of {}; they must be int16, or numbers from -1 to 1": "소리의 샘플이 {0}입니다. int16이거나 -1에서 1까지의 수여야 합니다",
    "a sound has samples that are not finite (NaN or infinity)": "소리에 유한하지 않은 샘플(NaN이나 무한대)이 있습니다",
    "the prompt with its media takes {} positions, more than the model's context of {}; shorten it, or give fewer or shorter media": "프롬프트와 그 그림·소리가 {0}위치를 차지해 모델의 컨텍스트 {1}보다 깁니다. 줄이거나, 더 적거나 짧은 그림·소리를 주세요",
    "the model was trained on {}, but not on {}; leave that out": "이 모델은 {0}(으)로 학습했지만 {1}(으)로는 학습하지 않았습니다. 그것을 빼세요",
    "the prompt has {} {} times, but there are {} media of that kind; each marks the place of one, and without any mark all come first": "프롬프트에 {0}이(가) {1}번 나오는데 그 종류의 그림·소리는 {2}개입니다. 하나가 한 자리를 나타내며, 하나도 없으면 모두 맨 앞에 놓입니다",
    "{} has no embeddings of the begin tokens of pictures and sound, which an adapter cannot add; train the encoders first, with --multimodal.freeze true, and then an adapter on that run": "{0}에는 그림과 소리의 시작 토큰 임베딩이 없고 어댑터로는 더할 수 없습니다. 먼저 --multimodal.freeze true로 인코더를 학습한 뒤, 그 실행에서 어댑터를 학습하세요",
    "only the language model is exported: the encoders of pictures and sound are left out": "언어 모델만 내보냅니다. 그림과 소리의 인코더는 들어가지 않습니다",
    "only the language model is compressed: the encoders of pictures and sound are left out": "언어 모델만 압축합니다. 그림과 소리의 인코더는 들어가지 않습니다",
}
HELP = {
    "Names emoji in English and Korean after some minutes on two CPU cores: the model of make demo-pictures.": "CPU 코어 두 개로 몇 분 학습해 이모지의 이름을 영어와 한국어로 말합니다. make demo-pictures의 모델",
    "Recognizes spoken digits after some minutes on two CPU cores.": "CPU 코어 두 개로 몇 분 학습해 말한 숫자를 알아듣습니다",
    "Text, pictures and sound together in GPT-2's size, for one GPU. Its settings were not searched for; those of the text are textbooks-124m-fast's.": "GPT-2 크기로 글, 그림, 소리를 함께 배웁니다. GPU 하나용. 설정을 찾아보지는 않았으며, 글에 관한 것은 textbooks-124m-fast와 같습니다",
}
