// The tokens of an answer: their texts and probabilities, from the chunks of a stream.

// Return [text bytes, log-probability, [[text, log-probability], …]] of the tokens in a choice of a chunk.
export function tokensOf(choice) {
  const { logprobs } = choice;
  if (!logprobs) return [];
  if (logprobs.content) return logprobs.content.map((each) => token(each.token, each.logprob, each.top_logprobs.map(({ token: text, logprob }) => [text, logprob])));
  return logprobs.tokens.map((text, at) => token(text, logprobs.token_logprobs[at], Object.entries(logprobs.top_logprobs[at] ?? {})));
}

function token(text, logprob, top) {
  return { bytes: bytesOf(text), text: "", name: text, logprob, top: top.sort((one, other) => other[1] - one[1]) };
}

// A token that is not valid UTF-8 alone is spelled `bytes:\xe1\x84`.
function bytesOf(text) {
  if (!/^bytes:(\\x[0-9a-f]{2})+$/.test(text)) return new TextEncoder().encode(text);
  return new Uint8Array(text.slice(6).match(/[0-9a-f]{2}/g).map((byte) => parseInt(byte, 16)));
}

// Gives each token the text that is complete with it: a character may consist of several tokens.
export class TokenReader {
  #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #isFirst = true;
  #stripsSpace;

  // `stripsSpace`: an answer begins without the space that separates it from its prompt.
  constructor(stripsSpace) {
    this.#stripsSpace = stripsSpace;
  }

  read(token) {
    token.text = this.#decoder.decode(token.bytes, { stream: true });
    if (this.#isFirst && this.#stripsSpace) token.text = token.text.replace(/^ /, "");
    if (token.text) this.#isFirst = false;
    return token;
  }
}

// Fit the texts of the tokens to that of the answer, which ends before a stop string, or within a character.
export function fitToText(tokens, text) {
  let left = text.length;
  for (const each of tokens) {
    each.text = each.text.slice(0, left);
    left -= each.text.length;
  }
  if (left && tokens.length) tokens.at(-1).text += text.slice(-left);
}
