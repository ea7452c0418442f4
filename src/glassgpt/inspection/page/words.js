// What the page says, in English and Korean; the browser's language chooses, a button switches.
const WORDS = {
  en: {
    title: "Look inside", run: "Follow this text", tokens: "Bytes and tokens",
    aboutTokens: "A text is bytes; neighbouring pieces merge, the most frequent pairs first, until they are tokens. Move the slider to merge.",
    blocks: "Attention", aboutBlocks: "Each row is a token and shows where it looks back to: darker is more. A block has several heads; click one.",
    block: "block", head: "head", off: "switch this head off", undo: "undo", lens: "Logit lens",
    aboutLens: "What the model would say next if it stopped after that block.", after: "after", embedding: "embedding",
    norms: "Residual stream", aboutNorms: "How long each token's vector is after each block.",
    next: "Next token", aboutNext: "Probabilities, from the model through each step that shapes the choice.",
    before: "before", piece: "piece", changed: "Switched off", offline: "A saved view: what is computed needs the program.",
    previous: "previous token", duplicate: "same token", induction: "induction", source: "computed in", divergence: "divergence, nats",
  },
  ko: {
    title: "안을 들여다보기", run: "이 글을 따라가기", tokens: "바이트와 토큰",
    aboutTokens: "글은 바이트입니다. 이웃한 조각이 자주 나온 쌍부터 합쳐져 토큰이 됩니다. 막대를 움직여 합쳐 보세요.",
    blocks: "어텐션", aboutBlocks: "각 줄은 토큰이며 어디를 돌아보는지 보여 줍니다. 진할수록 많이 봅니다. 블록에는 헤드가 여럿 있습니다. 하나를 누르세요.",
    block: "블록", head: "헤드", off: "이 헤드 끄기", undo: "되돌리기", lens: "로짓 렌즈",
    aboutLens: "그 블록에서 멈춘다면 모델이 다음에 할 말입니다.", after: "이후", embedding: "임베딩",
    norms: "잔차 흐름", aboutNorms: "각 블록 뒤 토큰 벡터의 길이입니다.",
    next: "다음 토큰", aboutNext: "모델에서 시작해 선택을 다듬는 각 단계를 지나는 확률입니다.",
    before: "이전", piece: "조각", changed: "꺼진 것", offline: "저장된 화면입니다. 새로 계산하려면 프로그램이 필요합니다.",
    previous: "바로 앞 토큰", duplicate: "같은 토큰", induction: "귀납", source: "계산한 곳", divergence: "발산, 내트",
  },
};

export function wordsFor(language) {
  return language.startsWith("ko") ? WORDS.ko : WORDS.en;
}
