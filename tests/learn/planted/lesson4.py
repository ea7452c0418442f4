"""Students' code for lesson 4: planted mistakes, and correct solutions in three styles."""

PLANTED = {
    "4.1": {
        "unbiased": """
def layer_norm(x, gain, bias, eps=1e-5):
    mean = x.mean(-1, keepdim=True)
    var = x.var(-1, keepdim=True)
    return gain * (x - mean) / torch.sqrt(var + eps) + bias
""",
        "wrong-axis": """
def layer_norm(x, gain, bias, eps=1e-5):
    mean = x.mean(1, keepdim=True)
    var = ((x - mean) ** 2).mean(1, keepdim=True)
    return gain * (x - mean) / torch.sqrt(var + eps) + bias
""",
        "all-tokens": """
def layer_norm(x, gain, bias, eps=1e-5):
    return torch.nn.functional.layer_norm(x, x.shape[1:]) * gain + bias
""",
        "eps-outside": """
def layer_norm(x, gain, bias, eps=1e-5):
    mean = x.mean(-1, keepdim=True)
    std = x.std(-1, unbiased=False, keepdim=True)
    return (x - mean) / (std + eps) * gain + bias
""",
        "unbiased-eps-outside": """
def layer_norm(x, gain, bias, eps=1e-5):
    mean = x.mean(-1, keepdim=True)
    std = x.std(-1, keepdim=True)
    return gain * (x - mean) / (std + eps) + bias
""",
        "no-mean": """
def layer_norm(x, gain, bias, eps=1e-5):
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), eps=eps) * gain + bias
""",
        "no-root": """
def layer_norm(x, gain, bias, eps=1e-5):
    centered = x - x.mean(-1, keepdim=True)
    return centered / ((centered * centered).mean(-1, keepdim=True) + eps) * gain + bias
""",
        "no-gain": """
def layer_norm(x, gain, bias, eps=1e-5):
    mean = x.mean(-1, keepdim=True)
    return (x - mean) * torch.rsqrt(((x - mean) ** 2).mean(-1, keepdim=True) + eps)
""",
    },
    "4.2": {
        "exact": """
def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))
""",
        "sigmoid": """
def gelu(x):
    return x / (1 + torch.exp(-1.702 * x))
""",
        "no-cube": """
def gelu(x):
    return 0.5 * x * (1 + torch.tanh((2 / math.pi) ** 0.5 * x))
""",
        "no-factor": """
def gelu(x):
    return 0.5 * x * (1 + torch.tanh(x + 0.044715 * x * x * x))
""",
        "no-half": """
def gelu(x):
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))))
""",
    },
    "4.3": {
        "interleaved": """
def self_attention(x, qkv, out, n_head):
    b, t, c = x.shape
    q, k, v = (part.view(b, t, c // n_head, n_head).permute(0, 3, 1, 2) for part in qkv(x).split(c, dim=2))
    y = attend(q, k, v, None, 0.0)
    return out(y.transpose(1, 2).reshape(b, t, c))
""",
        "per-head": """
def self_attention(x, qkv, out, n_head):
    b, t, c = x.shape
    q, k, v = qkv(x).view(b, t, n_head, 3, c // n_head).permute(3, 0, 2, 1, 4)
    y = attend(q, k, v, None, 0.0)
    return out(y.transpose(1, 2).reshape(b, t, c))
""",
        "not-moved": """
def self_attention(x, qkv, out, n_head):
    b, t, c = x.shape
    q, k, v = [part.reshape(b, n_head, t, c // n_head) for part in qkv(x).chunk(3, dim=-1)]
    y = attend(q, k, v, None, 0.0)
    return out(y.transpose(1, 2).reshape(b, t, c))
""",
        "not-moved-both": """
def self_attention(x, qkv, out, n_head):
    b, t, c = x.shape
    q, k, v = [part.reshape(b, n_head, t, c // n_head) for part in qkv(x).chunk(3, dim=-1)]
    return out(attend(q, k, v, None, 0.0).reshape(b, t, c))
""",
        "per-head-not-merged": """
def self_attention(x, qkv, out, n_head):
    B, T, C = x.shape
    q, k, v = qkv(x).view(B, T, n_head, 3 * C // n_head).transpose(1, 2).chunk(3, dim=-1)
    y = attend(q, k, v, None, 0.0)
    return out(y.reshape(B, T, C))
""",
        "not-merged": """
def self_attention(x, qkv, out, n_head):
    b, t, c = x.shape
    q, k, v = [part.view(b, t, n_head, -1).transpose(1, 2) for part in qkv(x).chunk(3, dim=-1)]
    return out(attend(q, k, v, None, 0.0).contiguous().view(b, t, c))
""",
        "swapped": """
def self_attention(x, qkv, out, n_head):
    b, t, c = x.shape
    k, q, v = [part.view(b, t, n_head, -1).transpose(1, 2) for part in qkv(x).chunk(3, dim=-1)]
    y = attend(q, k, v, None, 0.0)
    return out(y.transpose(1, 2).reshape(b, t, c))
""",
        "no-projection": """
def self_attention(x, qkv, out, n_head):
    b, t, c = x.shape
    q, k, v = [part.view(b, t, n_head, -1).transpose(1, 2) for part in qkv(x).chunk(3, dim=-1)]
    return torch.cat(attend(q, k, v, None, 0.0).unbind(1), dim=-1)
""",
        "future-leak": """
def self_attention(x, qkv, out, n_head):
    b, t, c = x.shape
    q, k, v = [part.view(b, t, n_head, -1).transpose(1, 2) for part in qkv(x).chunk(3, dim=-1)]
    scores = q @ k.mT / math.sqrt(c // n_head)
    return out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, c))
""",
    },
    "4.4": {
        "no-activation": """
def mlp(x, up, down):
    hidden = up(x)
    return down(hidden)
""",
        "activation-last": """
def mlp(x, up, down):
    return torch.nn.functional.gelu(down(up(x)), approximate="tanh")
""",
        "exact-gelu": """
def mlp(x, up, down):
    return down(torch.nn.functional.gelu(up(x)))
""",
        "residual-inside": """
def mlp(x, up, down):
    hidden = torch.nn.functional.gelu(up(x), approximate="tanh")
    return x + down(hidden)
""",
    },
    "4.5": {
        "no-residual": """
class Block(Block):
    def forward(self, x, cache=None):
        x = self.attention(self.norm1(x), cache)
        x = self.mlp(self.norm2(x))
        return x
""",
        "no-second-residual": """
class Block(Block):
    def forward(self, x, cache=None):
        x = x + self.attention(self.norm1(x), cache)
        x = self.mlp(self.norm2(x))
        return x
""",
        "norm-after": """
class Block(Block):
    def forward(self, x, cache=None):
        x = self.norm1(self.attention(x, cache) + x)
        x = self.norm2(self.mlp(x) + x)
        return x
""",
        "normed-stream": """
class Block(Block):
    def forward(self, x, cache=None):
        x = self.norm1(x)
        x = x + self.attention(x, cache)
        x = self.norm2(x)
        x = x + self.mlp(x)
        return x
""",
        "one-norm": """
class Block(Block):
    def forward(self, x, cache=None):
        x = x + self.attention(self.norm1(x), cache)
        x = x + self.mlp(self.norm1(x))
        return x
""",
        "parallel": """
class Block(Block):
    def forward(self, x, cache=None):
        a = self.attention(self.norm1(x), cache)
        m = self.mlp(self.norm2(x))
        return x + a + m
""",
        "no-cache": """
class Block(Block):
    def forward(self, x, cache=None):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))
""",
    },
}

STYLES = {
    "4.1": {
        "loops": """
def layer_norm(x, gain, bias, eps=1e-5):
    rows = []
    for row in x.reshape(-1, x.shape[-1]):
        mean = sum(row) / len(row)
        variance = sum((each - mean) ** 2 for each in row) / len(row)
        rows.append((row - mean) / torch.sqrt(variance + eps) * gain + bias)
    return torch.stack(rows).reshape(x.shape)
""",
        "vectorized": """
def layer_norm(x, gain, bias, eps=1e-5):
    var, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(var + eps) * gain + bias
""",
        "library": """
def layer_norm(x, gain, bias, eps=1e-5):
    return nn.functional.layer_norm(x, gain.shape, gain, bias, eps)
""",
    },
    "4.2": {
        "loops": """
def gelu(x):
    out = [v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x.flatten().tolist()]
    return torch.tensor(out).view(x.shape)
""",
        "vectorized": """
def gelu(x):
    return x * torch.sigmoid(2 * 0.7978845608 * (x + 0.044715 * x * x * x))
""",
        "library": """
def gelu(x):
    return torch.nn.functional.gelu(x, approximate="tanh")
""",
    },
    "4.3": {
        "loops": """
def self_attention(x, qkv, out, n_head):
    d = x.shape[-1] // n_head
    made = qkv(x)
    heads = []
    for h in range(n_head):
        q, k, v = (made[:, None, :, i * x.shape[-1] + h * d : i * x.shape[-1] + (h + 1) * d] for i in range(3))
        heads.append(attend(q, k, v, None, 0.0)[:, 0])
    return out(torch.cat(heads, dim=-1))
""",
        "einsum": """
def self_attention(x, qkv, out, n_head):
    b, t, c = x.shape
    q, k, v = qkv(x).view(b, t, 3, n_head, c // n_head).unbind(2)
    scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(c // n_head)
    scores = scores.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), float("-inf"))
    return out(torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v).reshape(b, t, c))
""",
        "library": """
def self_attention(x, qkv, out, n_head):
    t, c = x.shape[1:]
    mask = torch.ones(t, t, dtype=torch.bool).triu(1)
    y, _ = nn.functional.multi_head_attention_forward(
        x.transpose(0, 1), x.transpose(0, 1), x.transpose(0, 1), c, n_head, qkv.weight, qkv.bias, None, None, False,
        0.0, out.weight, out.bias, attn_mask=mask, need_weights=False,
    )
    return y.transpose(0, 1)
""",
    },
    "4.4": {
        "steps": """
def mlp(x, up, down):
    hidden = up(x)
    hidden = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    return down(hidden)
""",
        "matrices": """
def mlp(x, up, down):
    hidden = torch.einsum("btc,hc->bth", x, up.weight) + up.bias
    hidden = nn.functional.gelu(hidden, approximate="tanh")
    return torch.einsum("bth,ch->btc", hidden, down.weight) + down.bias
""",
        "library": """
def mlp(x, up, down):
    return nn.Sequential(up, nn.GELU("tanh"), down)(x)
""",
    },
    "4.5": {
        "two lines": """
class Block(Block):
    def forward(self, x, cache=None):
        x = x + self.attention(self.norm1(x), cache)
        return x + self.mlp(self.norm2(x))
""",
        "sums": """
class Block(Block):
    def forward(self, x, cache=None):
        middle = self.attention(self.norm1(x), cache).add(x)
        return middle.add(self.mlp(self.norm2(middle)))
""",
        "loop": """
class Block(nn.Module):
    def __init__(self, norm1, attention, norm2, mlp):
        super().__init__()
        self.parts = nn.ModuleList([nn.ModuleList([norm1, attention]), nn.ModuleList([norm2, mlp])])

    def forward(self, x, cache=None):
        for i, (norm, sublayer) in enumerate(self.parts):
            x = x + (sublayer(norm(x), cache) if i == 0 else sublayer(norm(x)))
        return x
""",
    },
}
