"""Students' code for lesson 7: planted mistakes, and correct solutions in three styles."""

PLANTED = {
    "7.1": {
        "after-softmax": """
def probabilities(logits, temperature):
    return torch.softmax(logits, -1) / temperature
""",
        "no-effect": """
def probabilities(logits, temperature):
    p = torch.softmax(logits, -1) / temperature
    return p / p.sum(-1, keepdim=True)
""",
        "multiplied": """
def probabilities(logits, temperature):
    return torch.softmax(temperature * logits, dim=1)
""",
        "over-batch": """
def probabilities(logits, temperature):
    return torch.softmax(logits / temperature, 0)
""",
        "overflow": """
def probabilities(logits, temperature):
    e = torch.exp(logits / temperature)
    return e / e.sum(1)[:, None]
""",
    },
    "7.2": {
        "crossing-dropped": """
def top_p(logits, p):
    ordered, order = torch.sort(logits, descending=True)
    total = torch.cumsum(torch.softmax(ordered, -1), -1)
    out = logits.clone()
    for b in range(len(logits)):
        out[b, order[b][total[b] > p]] = -math.inf
    return out
""",
        "one-too-many": """
def top_p(logits, p):
    out = torch.full_like(logits, -math.inf)
    for b, row in enumerate(logits):
        shares, total, done = row.softmax(0), 0.0, False
        for token in row.argsort(descending=True):
            out[b, token] = row[token]
            if done:
                break
            total += shares[token]
            done = total >= p
    return out
""",
        "threshold": """
def top_p(logits, p):
    shares = logits.softmax(-1)
    return torch.where(shares >= 1 - p, logits, torch.tensor(-math.inf))
""",
        "sorted-order": """
def top_p(logits, p):
    ordered, _ = torch.sort(logits, descending=True)
    shares = ordered.softmax(-1)
    before = shares.cumsum(-1) - shares
    ordered[before >= p] = -math.inf
    return ordered
""",
        "mask-not-moved": """
def top_p(logits, p):
    ordered, order = torch.sort(logits, descending=True)
    shares = ordered.softmax(-1)
    result = logits.clone()
    result[shares.cumsum(-1) - shares >= p] = float("-inf")
    return result
""",
        "ascending": """
def top_p(logits, p):
    order = logits.argsort(-1)
    shares = logits.softmax(-1).gather(-1, order)
    keep = shares.cumsum(-1) - shares < p
    mask = torch.zeros_like(keep).scatter(-1, order, keep)
    return logits.masked_fill(~mask, -math.inf)
""",
        "zeros": """
def top_p(logits, p):
    order = logits.argsort(-1, descending=True)
    shares = logits.softmax(-1).gather(-1, order)
    keep = shares.cumsum(-1) - shares < p
    mask = torch.zeros_like(keep).scatter(-1, order, keep)
    return logits * mask
""",
        "probabilities-returned": """
def top_p(logits, p):
    order = logits.argsort(-1, descending=True)
    shares = logits.softmax(-1).gather(-1, order)
    keep = shares.cumsum(-1) - shares < p
    mask = torch.zeros_like(keep).scatter(-1, order, keep)
    kept = logits.softmax(-1) * mask
    return kept / kept.sum(-1, keepdim=True)
""",
    },
    "7.3": {
        "negative-divided": """
def repetition_penalty(logits, tokens, penalty):
    seen = torch.zeros(len(logits), dtype=torch.bool)
    seen[list(tokens)] = True
    return torch.where(seen, logits / penalty, logits)
""",
        "positive-multiplied": """
def repetition_penalty(logits, tokens, penalty):
    out = logits.clone()
    for t in set(tokens):
        out[t] = out[t] * penalty
    return out
""",
        "rewarded": """
def repetition_penalty(logits, tokens, penalty):
    out = logits.clone()
    for t in set(tokens):
        out[t] = out[t] / penalty if out[t] < 0 else out[t] * penalty
    return out
""",
        "subtracted": """
def repetition_penalty(logits, tokens, penalty):
    out = logits.clone()
    out[torch.tensor(sorted(set(tokens)))] -= penalty
    return out
""",
        "each-occurrence": """
def repetition_penalty(logits, tokens, penalty):
    out = logits.clone()
    for t in tokens:
        if out[t] > 0:
            out[t] /= penalty
        else:
            out[t] *= penalty
    return out
""",
        "divided-each-time": """
def repetition_penalty(logits, tokens, penalty):
    logits = logits.clone()
    for t in tokens:
        logits[t] /= penalty
    return logits
""",
        "last-token-only": """
def repetition_penalty(logits, tokens, penalty):
    out = logits.clone()
    t = tokens[-1]
    out[t] = out[t] / penalty if out[t] > 0 else out[t] * penalty
    return out
""",
    },
    "7.4": {
        "most-probable": """
def sample(probabilities, uniform):
    return probabilities.max(dim=-1).indices
""",
        "one-before": """
def sample(probabilities, uniform):
    ends = probabilities.cumsum(-1)
    out = []
    for row, u in zip(ends, uniform):
        token = 0
        while token < len(row) - 1 and row[token] <= u:
            token += 1
        out.append(token - 1)
    return torch.tensor(out)
""",
        "one-after": """
def sample(probabilities, uniform):
    ends = probabilities.cumsum(-1)
    ends[:, -1] = 1.0
    return torch.searchsorted(ends, uniform[:, None], right=True)[:, 0] + 1
""",
        "same-number": """
def sample(probabilities, uniform):
    ends = probabilities.cumsum(-1)
    ends[:, -1] = 1.0
    return (ends > uniform[0]).int().argmax(-1)
""",
        "over-batch": """
def sample(probabilities, uniform):
    ends = probabilities.cumsum(0)
    return (ends <= uniform[:, None]).sum(1).clamp(max=probabilities.shape[1] - 1)
""",
        "past-the-end": """
def sample(probabilities, uniform):
    return (probabilities.cumsum(-1) < uniform[:, None]).sum(-1)
""",
        "no-sum": """
def sample(probabilities, uniform):
    out = []
    for row, u in zip(probabilities, uniform):
        larger = [i for i, p in enumerate(row) if p > u]
        out.append(larger[0] if larger else 0)
    return torch.tensor(out)
""",
    },
    "7.5": {
        "last-token-twice": """
@torch.no_grad()
def generate(model, prompt, max_tokens, choose):
    cache = KVCache(model.config, slots=1)
    model(torch.tensor([prompt]), cache)
    last, out = prompt[-1], []
    while len(out) < max_tokens:
        last = choose(model(torch.tensor([[last]]), cache)[0, 0])
        out.append(last)
    return out
""",
        "whole-text-again": """
@torch.no_grad()
def generate(model, prompt, max_tokens, choose):
    cache = KVCache(model.config, slots=1)
    text = list(prompt)
    for _ in range(max_tokens):
        text.append(choose(model(torch.tensor([text]), cache)[0, -1]))
    return text[len(prompt):]
""",
        "first-position": """
@torch.no_grad()
def generate(model, prompt, max_tokens, choose):
    cache = KVCache(model.config, slots=1)
    new, out = list(prompt), []
    for _ in range(max_tokens):
        token = choose(model(torch.tensor([new]), cache)[0][0])
        out.append(token)
        new = [token]
    return out
""",
        "forgets": """
@torch.no_grad()
def generate(model, prompt, max_tokens, choose):
    new, out = list(prompt), []
    for _ in range(max_tokens):
        cache = KVCache(model.config, slots=1)
        token = choose(model(torch.tensor([new]), cache)[0, -1])
        out.append(token)
        new = [token]
    return out
""",
        "no-cache": """
@torch.no_grad()
def generate(model, prompt, max_tokens, choose):
    text = list(prompt)
    for _ in range(max_tokens):
        text.append(choose(model(torch.tensor([text]))[0, -1]))
    return text[len(prompt):]
""",
        "prompt-included": """
@torch.no_grad()
def generate(model, prompt, max_tokens, choose):
    cache = KVCache(model.config, slots=1)
    text, new = list(prompt), list(prompt)
    for _ in range(max_tokens):
        new = [choose(model(torch.tensor([new]), cache)[0, -1])]
        text += new
    return text
""",
        "one-too-few": """
@torch.no_grad()
def generate(model, prompt, max_tokens, choose):
    cache = KVCache(model.config, slots=1)
    new, out = list(prompt), []
    for _ in range(1, max_tokens):
        new = [choose(model(torch.tensor([new]), cache)[0, -1])]
        out += new
    return out
""",
    },
    "7.6": {
        "each-alone": """
def stream_text(tokens):
    out = []
    for t in tokens:
        out.append(t.decode("utf-8", errors="replace"))
    return out + [""]
""",
        "bytes-dropped": """
def stream_text(tokens):
    return [t.decode("utf-8", "ignore") for t in tokens] + [""]
""",
        "rest-lost": """
def stream_text(tokens):
    rest, out = b"", []
    for t in tokens:
        rest += t
        try:
            out.append(rest.decode())
            rest = b""
        except UnicodeDecodeError as error:
            out.append(rest[: error.start].decode())
            rest = rest[error.start :]
    return out + [""]
""",
        "whole-text": """
def stream_text(tokens):
    import codecs
    decoder = codecs.getincrementaldecoder("utf-8")()
    out, text = [], ""
    for t in tokens:
        text += decoder.decode(t)
        out.append(text)
    return out + [decoder.getstate()[0].decode(errors="replace")]
""",
        "not-removed": """
def stream_text(tokens):
    pending, out = b"", []
    for t in tokens:
        pending = pending + t
        out.append(pending.decode(errors="ignore"))
    out.append(pending.decode(errors="replace"))
    return out
""",
    },
}

STYLES = {
    "7.1": {
        "loops": """
def probabilities(logits, temperature):
    out = torch.zeros_like(logits)
    for b, row in enumerate(logits.tolist()):
        top = max(row)
        powers = [math.exp((x - top) / temperature) for x in row]
        for v, power in enumerate(powers):
            out[b, v] = power / sum(powers)
    return out
""",
        "vectorized": """
def probabilities(logits, temperature):
    scaled = logits / temperature
    return torch.exp(scaled - torch.logsumexp(scaled, -1, keepdim=True))
""",
        "library": """
def probabilities(logits, temperature):
    return torch.nn.functional.softmax(logits.div(temperature), dim=-1)
""",
    },
    "7.2": {
        "loops": """
def top_p(logits, p):
    out = torch.full_like(logits, -math.inf)
    for b, row in enumerate(logits):
        shares, total = row.softmax(0), 0.0
        for token in sorted(range(len(row)), key=lambda t: -row[t]):
            out[b, token] = row[token]
            total += shares[token].item()
            if total >= p:
                break
    return out
""",
        "vectorized": """
def top_p(logits, p):
    shares = logits.softmax(-1)
    more_probable = logits[:, None, :] > logits[:, :, None]  # (B, V, V): the last is more probable than the middle one
    before = torch.einsum("bvw,bw->bv", more_probable.float(), shares)
    return torch.where(before < p, logits, torch.full_like(logits, -math.inf))
""",
        "library": """
def top_p(logits, p):
    from glassgpt.generation.processors.top_p import apply_top_p
    return apply_top_p(logits, p)
""",
    },
    "7.3": {
        "loops": """
def repetition_penalty(logits, tokens, penalty):
    numbers = logits.tolist()
    for token in set(tokens):
        numbers[token] = numbers[token] * penalty if numbers[token] < 0 else numbers[token] / penalty
    return torch.tensor(numbers)
""",
        "vectorized": """
def repetition_penalty(logits, tokens, penalty):
    seen = torch.bincount(torch.tensor(list(tokens)), minlength=len(logits)) > 0
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
""",
        "library": """
def repetition_penalty(logits, tokens, penalty):
    places = torch.tensor(list(tokens))
    scores = logits.gather(0, places)
    return logits.scatter(0, places, torch.where(scores < 0, scores * penalty, scores / penalty))
""",
    },
    "7.4": {
        "loops": """
def sample(probabilities, uniform):
    out = []
    for row, u in zip(probabilities.tolist(), uniform.tolist()):
        end, chosen = 0.0, len(row) - 1
        for token, share in enumerate(row):
            end += share
            if u < end:
                chosen = token
                break
        out.append(chosen)
    return torch.tensor(out)
""",
        "vectorized": """
def sample(probabilities, uniform):
    ends = probabilities.cumsum(-1)
    ends[:, -1] = 2.0
    return (uniform.unsqueeze(1) < ends).int().argmax(dim=1)
""",
        "library": """
def sample(probabilities, uniform):
    ends = probabilities.cumsum(-1)
    return torch.searchsorted(ends, uniform[:, None], right=True)[:, 0].clamp(max=probabilities.size(1) - 1)
""",
    },
    "7.5": {
        "loop": """
@torch.no_grad()
def generate(model, prompt, max_tokens, choose):
    cache = KVCache(model.config, slots=1)
    new, out = list(prompt), []
    for _ in range(max_tokens):
        token = choose(model(torch.tensor([new]), cache)[0, -1])
        out.append(token)
        new = [token]
    return out
""",
        "prefill apart": """
def generate(model, prompt, max_tokens, choose):
    cache = KVCache(model.config, 1)
    out = []
    with torch.inference_mode():
        logits = model(torch.tensor(prompt)[None], cache)
        while len(out) < max_tokens:
            out.append(choose(logits[:, -1].squeeze(0)))
            logits = model(torch.tensor([[out[-1]]]), cache)
    return out
""",
        "token by token": """
@torch.no_grad()
def generate(model, prompt, max_tokens, choose):
    cache = KVCache(model.config, slots=1)
    text = list(prompt)
    position = 0
    while len(text) < len(prompt) + max_tokens:
        logits = model(torch.tensor([[text[position]]]), cache)
        position += 1
        if position == len(text):
            text.append(choose(logits[0, 0]))
    return text[len(prompt):]
""",
    },
    "7.6": {
        "try": """
def stream_text(tokens):
    rest, out = b"", []
    for t in tokens:
        rest += t
        try:
            out.append(rest.decode())
            rest = b""
        except UnicodeDecodeError as error:
            out.append(rest[: error.start].decode())
            rest = rest[error.start :]
    out.append(rest.decode(errors="replace"))
    return out
""",
        "first bytes": """
def stream_text(tokens):
    rest, out = b"", []
    for t in tokens:
        rest += t
        cut = len(rest)
        for back in range(1, min(4, len(rest)) + 1):
            first = rest[-back]
            if first & 0b11000000 != 0b10000000:
                needed = 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
                if needed > back:
                    cut = len(rest) - back
                break
        out.append(rest[:cut].decode())
        rest = rest[cut:]
    return out + [rest.decode(errors="replace")]
""",
        "library": """
def stream_text(tokens):
    import codecs
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return [decoder.decode(t) for t in tokens] + [decoder.decode(b"", final=True)]
""",
    },
}
