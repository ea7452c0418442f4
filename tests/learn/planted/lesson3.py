"""Students' code for lesson 3: planted mistakes, and correct solutions in three styles."""

PLANTED = {
    "3.1": {
        "no-scale": """
def attention_scores(q, k):
    return torch.einsum("...td,...sd->...ts", q, k)
""",
        "divided-by-d": """
def attention_scores(q, k):
    d = q.shape[-1]
    return torch.matmul(q, k.mT) / d
""",
        "wrong-dimension": """
def attention_scores(q, k):
    return q @ k.transpose(-2, -1) * k.shape[-2] ** -0.5
""",
        "transposed": """
def attention_scores(q, k):
    return torch.einsum("bhtd,bhsd->bhst", q, k) / math.sqrt(q.shape[-1])
""",
    },
    "3.2": {
        "transposed": """
def causal_mask(n_queries, n_keys):
    mask = torch.zeros(n_queries, n_keys, dtype=torch.bool)
    for t in range(n_queries):
        for s in range(n_keys):
            mask[t, s] = s >= t + n_keys - n_queries
    return mask
""",
        "strict": """
def causal_mask(n_queries, n_keys):
    q = torch.arange(n_queries).unsqueeze(1) + n_keys - n_queries
    return torch.arange(n_keys).unsqueeze(0) < q
""",
        "future-leak": """
def causal_mask(n_queries, n_keys):
    return torch.tril(torch.ones(n_queries, n_keys), diagonal=n_keys - n_queries + 1) == 1
""",
        "top-left": """
def causal_mask(n_queries, n_keys):
    return torch.tril(torch.ones(n_queries, n_keys)).bool()
""",
        "inverted": """
def causal_mask(n_queries, n_keys):
    return torch.triu(torch.ones(n_queries, n_keys), diagonal=n_keys - n_queries + 1).bool()
""",
        "transposed-top-left": """
def causal_mask(n_queries, n_keys):
    return torch.arange(n_queries)[:, None] <= torch.arange(n_keys)[None, :]
""",
        "inverted-top-left": """
def causal_mask(n_queries, n_keys):
    return torch.triu(torch.ones(n_queries, n_keys), diagonal=1).bool()
""",
    },
    "3.3": {
        "wrong-axis": """
def attention_weights(scores, mask):
    scores = torch.where(mask, scores, torch.tensor(-1e9))
    return torch.softmax(scores, dim=2)
""",
        "mask-after": """
def attention_weights(scores, mask):
    weights = torch.softmax(scores, dim=-1)
    weights[..., ~mask] = 0.0
    return weights
""",
        "zero-fill": """
def attention_weights(scores, mask):
    scores = scores.masked_fill(mask == 0, 0.0)
    return torch.nn.functional.softmax(scores, dim=-1)
""",
        "inverted": """
def attention_weights(scores, mask):
    return scores.masked_fill(mask, -1e9).softmax(-1)
""",
        "overflow": """
def attention_weights(scores, mask):
    powers = torch.exp(scores) * mask.float()
    return powers / powers.sum(-1, keepdim=True)
""",
        "overflow-hidden-first": """
def attention_weights(scores, mask):
    scores = scores.masked_fill(~mask, float("-inf"))
    powers = torch.exp(scores)
    return powers / torch.sum(powers, dim=-1, keepdim=True)
""",
    },
    "3.4": {
        "interleaved": """
def split_heads(x, n_head):
    heads = [x[:, :, h::n_head] for h in range(n_head)]
    return torch.stack(heads, dim=1)
""",
        "no-transpose": """
def split_heads(x, n_head):
    b, t, c = x.shape
    return x.view(b, n_head, t, c // n_head)
""",
        "tokens-first": """
def split_heads(x, n_head):
    b, t, c = x.shape
    return x.reshape(b, t, n_head, c // n_head)
""",
    },
    "3.5": {
        "no-scale": """
def attend(q, k, v, mask=None, dropout=0.0, window=0):
    if mask is None:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
    scores = (q @ k.mT).masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ v
""",
        "wrong-axis": """
def attend(q, k, v, mask=None, dropout=0.0, window=0):
    if mask is None:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-2) @ v
""",
        "future-leak": """
def attend(q, k, v, mask=None, dropout=0.0, window=0):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
""",
        "top-left-mask": """
def attend(q, k, v, mask=None, dropout=0.0, window=0):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
""",
        "mask-ignored": """
def attend(q, k, v, mask=None, dropout=0.0, window=0):
    t, s = q.shape[-2], k.shape[-2]
    mask = torch.ones(t, s).tril(diagonal=s - t)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(mask == 0, -1e9)
    return torch.softmax(scores, -1) @ v
""",
        "keys-averaged": """
def attend(q, k, v, mask=None, dropout=0.0, window=0):
    if mask is None:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
    scores = torch.einsum("bhtd,bhsd->bhts", q, k) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~mask, -1e9).softmax(-1)
    return torch.einsum("bhts,bhsd->bhtd", weights, k)
""",
        "no-scale-future-leak": """
def attend(q, k, v, mask=None, dropout=0.0, window=0):
    scores = q @ k.mT
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ v
""",
    },
    "3.6": {
        "one-too-far": """
class Cache(Cache):
    def append(self, k, v):
        for t in range(k.shape[2]):
            self.length += 1
            self.keys[:, :, self.length] = k[:, :, t]
            self.values[:, :, self.length] = v[:, :, t]
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]
""",
        "newest-missing": """
class Cache(Cache):
    def append(self, k, v):
        keys, values = self.keys[:, :, : self.length], self.values[:, :, : self.length]
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return keys, values
""",
        "whole-buffer": """
class Cache(Cache):
    def append(self, k, v):
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys, self.values
""",
        "not-advanced": """
class Cache(Cache):
    def append(self, k, v):
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]
""",
        "not-advanced-nothing-returned": """
class Cache(Cache):
    def append(self, k, v):
        new = slice(self.length, self.length + k.size(2))
        self.keys[:, :, new], self.values[:, :, new] = k, v
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]
""",
        "keys-as-values": """
class Cache(Cache):
    def append(self, k, v):
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = k
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]
""",
        "advanced-by-one": """
class Cache(Cache):
    def append(self, k, v):
        n = k.shape[2]
        self.keys[:, :, self.length : self.length + n] = k
        self.values[:, :, self.length : self.length + n] = v
        self.length += 1
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]
""",
        "advanced-by-one-all-returned": """
class Cache(Cache):
    def append(self, k, v):
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length += 1
        return self.keys[:, :, :end], self.values[:, :, :end]
""",
    },
}

STYLES = {
    "3.1": {
        "loops": """
def attention_scores(q, k):
    out = torch.empty(*q.shape[:-1], k.shape[-2])
    for t in range(q.shape[-2]):
        for s in range(k.shape[-2]):
            out[..., t, s] = (q[..., t, :] * k[..., s, :]).sum(-1) / math.sqrt(q.shape[-1])
    return out
""",
        "einsum": """
def attention_scores(q, k):
    return torch.einsum("...td,...sd->...ts", q, k) * q.shape[-1] ** -0.5
""",
        "scaled queries": """
def attention_scores(q, k):
    return torch.matmul(q / q.shape[-1] ** 0.5, k.mT)
""",
    },
    "3.2": {
        "loops": """
def causal_mask(n_queries, n_keys):
    rows = []
    for t in range(n_queries):
        rows.append([s <= t + n_keys - n_queries for s in range(n_keys)])
    return torch.tensor(rows)
""",
        "comparison": """
def causal_mask(n_queries, n_keys):
    return torch.arange(n_keys)[None] <= torch.arange(n_queries)[:, None] + (n_keys - n_queries)
""",
        "library": """
def causal_mask(n_queries, n_keys):
    return torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)
""",
    },
    "3.3": {
        "loops": """
def attention_weights(scores, mask):
    out = torch.zeros_like(scores)
    for t in range(scores.shape[-2]):
        seen = mask[t]
        row = scores[..., t, seen]
        powers = (row - row.amax(-1, keepdim=True)).exp()
        out[..., t, seen] = powers / powers.sum(-1, keepdim=True)
    return out
""",
        "logarithm": """
def attention_weights(scores, mask):
    scores = torch.where(mask, scores, torch.tensor(float("-inf")))
    return torch.exp(scores - torch.logsumexp(scores, dim=-1, keepdim=True))
""",
        "library": """
def attention_weights(scores, mask):
    return torch.softmax(scores.masked_fill(mask == 0, -1e9), dim=-1)
""",
        "mask afterwards, but divided again": """
def attention_weights(scores, mask):
    weights = scores.double().softmax(-1) * mask
    return (weights / weights.sum(-1, keepdim=True)).float() if weights.sum(-1).min() > 0 else (
        scores.masked_fill(~mask, float("-inf")).softmax(-1))
""",
    },
    "3.4": {
        "loops": """
def split_heads(x, n_head):
    d = x.shape[-1] // n_head
    return torch.stack([x[..., h * d : (h + 1) * d] for h in range(n_head)], dim=1)
""",
        "view": """
def split_heads(x, n_head):
    b, t, c = x.shape
    return x.view(b, t, n_head, c // n_head).permute(0, 2, 1, 3)
""",
        "library": """
def split_heads(x, n_head):
    return torch.stack(x.chunk(n_head, dim=-1), dim=1)
""",
    },
    "3.5": {
        "loops": """
def attend(q, k, v, mask=None, dropout=0.0, window=0):
    out = torch.zeros(*q.shape[:3], v.shape[-1])
    for b in range(q.shape[0]):
        for t in range(q.shape[2]):
            at = t + k.shape[2] - q.shape[2]
            seen = [s for s in range(k.shape[2]) if (s <= at if mask is None else mask[b, 0, t, s])]
            scores = (q[b, :, t, None] * k[b][:, seen]).sum(-1) / math.sqrt(q.shape[-1])
            out[b, :, t] = (scores.softmax(-1)[..., None] * v[b][:, seen]).sum(1)
    return out
""",
        "einsum": """
def attend(q, k, v, mask=None, dropout=0.0, window=0):
    t, s = q.shape[2], k.shape[2]
    if mask is None:
        mask = torch.arange(s) <= torch.arange(s - t, s)[:, None]
    scores = torch.einsum("bhtd,bhsd->bhts", q, k) / math.sqrt(q.shape[-1])
    weights = torch.softmax(scores.masked_fill(~mask, -1e9), dim=-1)
    return torch.einsum("bhts,bhsd->bhtd", weights, v)
""",
        "library": """
def attend(q, k, v, mask=None, dropout=0.0, window=0):
    if mask is None:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
""",
    },
    "3.6": {
        "loops": """
class Cache(Cache):
    def append(self, k, v):
        for t in range(k.shape[2]):
            self.keys[:, :, self.length] = k[:, :, t]
            self.values[:, :, self.length] = v[:, :, t]
            self.length += 1
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]
""",
        "library": """
class Cache(Cache):
    def append(self, k, v):
        n = k.shape[2]
        self.keys.narrow(2, self.length, n).copy_(k)
        self.values.narrow(2, self.length, n).copy_(v)
        self.length += n
        return self.keys.narrow(2, 0, self.length), self.values.narrow(2, 0, self.length)
""",
        "lists": """
class Cache(Cache):
    def __init__(self, shape):
        super().__init__(shape)
        self.ks, self.vs = [], []

    def append(self, k, v):
        self.ks.append(k)
        self.vs.append(v)
        return torch.cat(self.ks, dim=2), torch.cat(self.vs, dim=2)
""",
    },
}
