"""Students' code for lesson 5: planted mistakes, and correct solutions in three styles."""

STD = """
def initial_std(name, n_layer, std=0.02):
    return std
"""

MODEL = (
    STD
    + """
class GPT(GPT):
    def embed(self, tokens, positions):
        {embed}

    def features(self, tokens, cache=None):
        t = tokens.shape[1]
        positions = torch.arange(t).unsqueeze(0)
        if cache is not None:
            cache.begin(t)
            {positions}
        x = self.embed(tokens, positions)
        for block in self.blocks:
            {block}
        if cache is not None:
            {commit}
        return {norm}

    def head(self, features):
        return torch.nn.functional.linear(features, self.token_embedding.weight)
"""
)
PARTS = {
    "embed": "return self.token_embedding(tokens) + self.position_embedding(positions)",
    "positions": "positions = cache.positions()",
    "block": "x = block(x, cache)",
    "commit": "cache.commit()",
    "norm": "self.norm(x)",
}


def model(**changed):
    """Return the source of a model in which some parts are other code."""
    source = MODEL
    for name, code in {**PARTS, **changed}.items():
        source = source.replace(f"{{{name}}}", code)
    return source


COUNT = """
def count_parameters(vocab_size, context_length, n_layer, n_embd):
    c = n_embd
    block = {block}
    return {total}
"""


def count(
    block="2 * c + 3 * c * c + 3 * c + c * c + c + 2 * c + 4 * c * c + 4 * c + 4 * c * c + c",
    total="vocab_size * c + context_length * c + n_layer * block + 2 * c",
):
    """Return the source of a count."""
    return COUNT.replace("{block}", block).replace("{total}", total)


CONVERT = """
def from_published(weights):
    new = {}
    for name, w in weights.items():
        parts = name.split(".")
        if parts[0] == "h":
            module = "blocks." + parts[1] + "." + NAMES[".".join(parts[2:-1])]
        else:
            module = NAMES[parts[0]]
        {change}
        new[module + "." + parts[-1]] = w
    return new
"""


def convert(change):
    """Return the source of a conversion that changes tensors in its own way."""
    return CONVERT.replace("{change}", change)


PLANTED = {
    "5.1": {
        "no-positions": """
def embed(tokens, token_table, position_table, start=0):
    return torch.nn.functional.embedding(tokens, token_table)
""",
        "start-ignored": """
def embed(tokens, token_table, position_table, start=0):
    t = tokens.shape[1]
    return token_table[tokens] + position_table[:t]
""",
        "from-one": """
def embed(tokens, token_table, position_table, start=0):
    positions = torch.arange(start + 1, start + tokens.shape[1] + 1)
    return token_table[tokens] + position_table[positions]
""",
        "by-token": """
def embed(tokens, token_table, position_table, start=0):
    x = torch.nn.functional.embedding(tokens, token_table)
    return x + torch.nn.functional.embedding(tokens, position_table)
""",
        "side-by-side": """
def embed(tokens, token_table, position_table, start=0):
    p = position_table[start : start + tokens.shape[1]]
    return torch.cat([token_table[tokens], p.repeat(tokens.shape[0], 1, 1)], dim=2)
""",
    },
    "5.2": {
        "head-counted": count(total="2 * vocab_size * c + context_length * c + n_layer * block + 2 * c"),
        "no-biases": count(block="4 * c + 3 * c * c + c * c + 8 * c * c"),
        "no-norms": count(block="12 * c**2 + 9 * c", total="vocab_size * c + context_length * c + n_layer * block"),
        "no-final-norm": count(total="vocab_size * c + context_length * c + n_layer * block"),
        "no-positions": count(total="vocab_size * c + n_layer * block + 2 * c"),
        "matrices-only": count(block="12 * c**2", total="(vocab_size + context_length) * c + n_layer * block"),
    },
    "5.3": {
        "not-scaled": """
def initial_std(name, n_layer, std=0.02):
    return std
""",
        "no-two": """
def initial_std(name, n_layer, std=0.02):
    if "out" in name or "down" in name:
        return std / n_layer**0.5
    return std
""",
        "no-root": """
def initial_std(name, n_layer, std=0.02):
    return std / (2 * n_layer) if "out" in name or "down" in name else std
""",
        "all-matrices": """
def initial_std(name, n_layer, std=0.02):
    return std / math.sqrt(2 * n_layer)
""",
        "all-of-blocks": """
def initial_std(name, n_layer, std=0.02):
    return std / math.sqrt(2 * n_layer) if name.startswith("blocks") else std
""",
        "attention-only": """
def initial_std(name, n_layer, std=0.02):
    return std / math.sqrt(2 * n_layer) if name.endswith("attention.out.weight") else std
""",
        "mlp-only": """
def initial_std(name, n_layer, std=0.02):
    return std * (2 * n_layer) ** -0.5 if "mlp.down" in name else std
""",
    },
    "5.4": {
        "not-transposed": convert("pass"),
        "embeddings-too": convert("w = w.t() if w.dim() == 2 else w"),
        "square-missed": convert("w = w.t() if 'c_' in name and w.dim() == 2 and w.shape[0] != w.shape[1] else w"),
        "replaced-anywhere": """
def from_published(weights):
    result = {}
    for name, w in weights.items():
        new = name
        for theirs, ours in NAMES.items():
            new = new.replace(theirs, ours)
        result[new] = w.T if ".c_" in name and name.endswith("weight") else w
    return result
""",
        "replaced-not-transposed": """
def from_published(weights):
    result = {}
    for name, w in weights.items():
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        result[name] = w
    return result
""",
        "reshaped": convert("w = w.reshape(w.shape[1], w.shape[0]) if 'c_' in name and w.dim() == 2 else w"),
    },
    "5.5": {
        "no-positions": model(embed="return self.token_embedding(tokens)"),
        "no-final-norm": model(norm="x"),
        "norm-each-block": model(block="x = self.norm(block(x, cache))", norm="x"),
        "first-block-only": model(block="x = self.blocks[0](x, cache)"),
        "positions-restart": model(positions="pass"),
        "no-cache": model(block="x = block(x)"),
        "not-committed": model(commit="pass"),
    },
}

STYLES = {
    "5.1": {
        "loops": """
def embed(tokens, token_table, position_table, start=0):
    rows = []
    for row in tokens.tolist():
        rows.append(torch.stack([token_table[t] + position_table[start + i] for i, t in enumerate(row)]))
    return torch.stack(rows)
""",
        "one-hot": """
def embed(tokens, token_table, position_table, start=0):
    one_hot = torch.nn.functional.one_hot(tokens, len(token_table)).float()
    positions = torch.arange(start, start + tokens.shape[1])
    return torch.einsum("btv,vc->btc", one_hot, token_table) + position_table[positions][None]
""",
        "library": """
def embed(tokens, token_table, position_table, start=0):
    positions = torch.arange(tokens.shape[1]) + start
    return nn.functional.embedding(tokens, token_table) + nn.functional.embedding(positions, position_table)
""",
    },
    "5.2": {
        "formula": count(),
        "short": """
def count_parameters(vocab_size, context_length, n_layer, n_embd):
    return n_embd * (vocab_size + context_length + n_layer * (12 * n_embd + 13) + 2)
""",
        "library": """
def count_parameters(vocab_size, context_length, n_layer, n_embd):
    with torch.device("meta"):
        block = [nn.LayerNorm(n_embd), nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd), nn.LayerNorm(n_embd)]
        block += [nn.Linear(n_embd, 4 * n_embd), nn.Linear(4 * n_embd, n_embd)]
        rest = [nn.Embedding(vocab_size, n_embd), nn.Embedding(context_length, n_embd), nn.LayerNorm(n_embd)]
    count = lambda modules: sum(p.numel() for m in modules for p in m.parameters())
    return n_layer * count(block) + count(rest)
""",
    },
    "5.3": {
        "ends": """
def initial_std(name, n_layer, std=0.02):
    if name.endswith("out.weight") or name.endswith("down.weight"):
        return std / math.sqrt(2 * n_layer)
    return std
""",
        "parts": """
def initial_std(name, n_layer, std=0.02):
    module = name.split(".")[-2]
    return std * (1 if module not in {"out", "down"} else (2 * n_layer) ** -0.5)
""",
        "tensor": """
def initial_std(name, n_layer, std=0.02):
    return torch.tensor(std) * torch.tensor(2.0 * n_layer).rsqrt() ** ("out" in name or "down" in name)
""",
    },
    "5.4": {
        "names": convert("w = w.t() if 'c_' in name and parts[-1] == 'weight' else w"),
        "replacing": """
def from_published(weights):
    new = {}
    for name, w in weights.items():
        if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            w = w.transpose(0, 1).contiguous()
        for theirs, ours in NAMES.items():
            if theirs != "h":
                name = name.replace(theirs + ".", ours + ".")
        new["blocks" + name[1:] if name.startswith("h.") else name] = w
    return new
""",
        "expressions": """
import re

def from_published(weights):
    pattern = re.compile(r"(h\\.\\d+\\.)?(.+)\\.(weight|bias)")
    def renamed(name):
        block, module, kind = pattern.fullmatch(name).groups()
        return (block or "").replace("h.", "blocks.") + NAMES[module] + "." + kind
    return {renamed(n): torch.einsum("io->oi", w) if "c_" in n and w.ndim > 1 else w for n, w in weights.items()}
""",
    },
    "5.5": {
        "steps": model(),
        "functional": STD
        + """
from functools import reduce

class GPT(GPT):
    def embed(self, tokens, positions):
        return embed_both(self, tokens, positions)

    def features(self, tokens, cache=None):
        if cache is not None:
            cache.begin(tokens.size(1))
        positions = torch.arange(tokens.size(1)).view(1, -1) if cache is None else cache.positions()
        x = reduce(lambda x, block: block(x, cache), self.blocks, self.embed(tokens, positions))
        if cache is not None:
            cache.commit()
        return self.norm(x)

    def head(self, features):
        return torch.einsum("btc,vc->btv", features, self.token_embedding.weight)

def embed_both(model, tokens, positions):
    return model.token_embedding.weight[tokens] + model.position_embedding.weight[positions]
""",
        "library": STD
        + """
class GPT(GPT):
    def embed(self, tokens, positions):
        return self.token_embedding(tokens).add(self.position_embedding(positions))

    def features(self, tokens, cache=None):
        return LanguageModel.features(self, tokens, cache)

    def head(self, features):
        return nn.functional.linear(features, self.token_embedding.weight)
""",
    },
}
