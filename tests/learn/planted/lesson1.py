"""Functions of lesson 1 as students write them: with each mistake, and right in three styles."""

PLANTED = {
    "1.1": {
        "overlapping": """
def windows(tokens, context_length):
    starts = range(len(tokens) - context_length)
    inputs = [tokens[i : i + context_length] for i in starts]
    targets = [tokens[i + 1 : i + context_length + 1] for i in starts]
    return torch.stack(inputs), torch.stack(targets)
""",
        "not-shifted": """
def windows(tokens, context_length):
    n = (len(tokens) - 1) // context_length
    x = tokens[: n * context_length].reshape(n, context_length)
    y = tokens[: n * context_length].reshape(n, context_length)
    return x, y
""",
        "shifted-back": """
def windows(tokens, context_length):
    n = (len(tokens) - 1) // context_length
    x = tokens[1 : n * context_length + 1].view(n, context_length)
    y = tokens[: n * context_length].view(n, context_length)
    return x, y
""",
        "shifted-by-two": """
def windows(tokens, context_length):
    n = (len(tokens) - 1) // context_length
    x, y = [], []
    for i in range(n):
        start = i * context_length
        if start + context_length + 2 <= len(tokens):
            x.append(tokens[start : start + context_length])
            y.append(tokens[start + 2 : start + context_length + 2])
    return torch.stack(x), torch.stack(y)
""",
        "rolled": """
def windows(tokens, context_length):
    n = (len(tokens) - 1) // context_length
    x = tokens[: n * context_length].view(n, context_length)
    y = torch.roll(x, -1, dims=1)
    return x, y
""",
        "too-many-windows": """
def windows(tokens, context_length):
    n = len(tokens) // context_length
    x = tokens[: n * context_length].view(n, context_length)
    y = tokens[1 : n * context_length + 1].view(n, context_length)
    return x, y
""",
        "one-target": """
def windows(tokens, context_length):
    x, y = [], []
    for start in range(0, len(tokens) - context_length, context_length):
        x.append(tokens[start : start + context_length])
        y.append(tokens[start + context_length])
    return torch.stack(x), torch.stack(y)
""",
    },
    "1.2": {
        "wrong-axis": """
def softmax(logits):
    return torch.softmax(logits, dim=0)
""",
        "overflow": """
def softmax(logits):
    e = torch.exp(logits)
    return e / e.sum(dim=1, keepdim=True)
""",
        "no-exponential": """
def softmax(logits):
    return logits / logits.sum(dim=-1, keepdim=True)
""",
        "not-normalized": """
def softmax(logits):
    return torch.exp(logits)
""",
        "whole-tensor": """
def softmax(logits):
    e = torch.exp(logits - logits.max())
    return e / e.sum()
""",
        "overflow-and-wrong-axis": """
def softmax(logits):
    e = torch.exp(logits)
    return e / e.sum(0)
""",
        "overflow-and-whole-tensor": """
def softmax(logits):
    return torch.exp(logits) / torch.sum(torch.exp(logits))
""",
        "stable-not-normalized": """
def softmax(logits):
    largest = logits.max(dim=-1, keepdim=True).values
    return torch.exp(logits - largest)
""",
    },
    "1.3": {
        "all-tokens": """
def average_loss(logits, targets):
    return -torch.log(torch.softmax(logits, dim=1)).mean()
""",
        "every-target": """
def average_loss(logits, targets):
    p = torch.softmax(logits, dim=1)
    return -torch.log(p[:, targets]).mean()
""",
        "no-gradient": """
def average_loss(logits, targets):
    import math
    p = torch.softmax(logits, -1)
    return sum(-math.log(p[t, targets[t]]) for t in range(len(targets))) / len(targets)
""",
        "sum": """
def average_loss(logits, targets):
    p = torch.softmax(logits, -1)
    loss = 0.0
    for i in range(len(targets)):
        loss = loss - torch.log(p[i, targets[i]])
    return loss
""",
        "no-logarithm": """
def average_loss(logits, targets):
    p = torch.softmax(logits, -1)
    return -p.gather(1, targets[:, None]).mean()
""",
        "log-of-mean": """
def average_loss(logits, targets):
    p = torch.softmax(logits, -1)
    return -torch.log(p[range(len(targets)), targets].mean())
""",
        "no-softmax": """
def average_loss(logits, targets):
    return -logits[range(len(targets)), targets].mean()
""",
        "softmax-twice": """
def average_loss(logits, targets):
    probabilities = torch.softmax(logits, -1)
    return torch.nn.functional.cross_entropy(probabilities, targets)
""",
        "wrong-axis": """
def softmax(logits):
    return torch.softmax(logits, 0)

def average_loss(logits, targets):
    p = softmax(logits)
    return -torch.log(p[torch.arange(len(targets)), targets]).mean()
""",
        "most-probable": """
def average_loss(logits, targets):
    p = torch.softmax(logits, -1)
    return -torch.log(p.max(-1).values).mean()
""",
        "averaged-twice": """
def average_loss(logits, targets):
    loss = torch.nn.functional.cross_entropy(logits, targets)
    return loss / len(targets)
""",
        "over-vocabulary": """
def average_loss(logits, targets):
    one_hot = torch.nn.functional.one_hot(targets, logits.shape[1])
    return -(one_hot * torch.log_softmax(logits, -1)).mean()
""",
        "bits": """
def average_loss(logits, targets):
    p = torch.softmax(logits, -1)
    return -torch.log2(p[range(len(targets)), targets]).mean()
""",
    },
    "1.4": {
        "sign": """
def gradient(logits, targets):
    one_hot = torch.nn.functional.one_hot(targets, logits.shape[1])
    return (one_hot - torch.softmax(logits, -1)) / len(targets)
""",
        "not-averaged": """
def gradient(logits, targets):
    one_hot = torch.nn.functional.one_hot(targets, logits.shape[1])
    return torch.softmax(logits, -1) - one_hot
""",
        "no-target": """
def gradient(logits, targets):
    return torch.softmax(logits, -1) / len(targets)
""",
        "target-only": """
def gradient(logits, targets):
    p = torch.softmax(logits, -1)
    result = torch.zeros_like(logits)
    for i, target in enumerate(targets):
        result[i, target] = p[i, target] - 1
    return result / len(targets)
""",
        "wrong-axis": """
def gradient(logits, targets):
    p = torch.exp(logits) / torch.exp(logits).sum(0)
    for i in range(len(targets)):
        p[i, targets[i]] -= 1
    return p / len(targets)
""",
        "raw-scores": """
def gradient(logits, targets):
    result = logits.clone()
    for i, target in enumerate(targets):
        result[i, target] -= 1
    return result / len(targets)
""",
    },
    "1.5": {
        "first-position": """
def continue_text(model, tokens, count, context_length):
    out = list(tokens)
    for _ in range(count):
        logits = model(torch.tensor([out[-context_length:]]))
        out.append(int(torch.argmax(logits[0][0])))
    return out
""",
        "beginning": """
def continue_text(model, tokens, count, context_length):
    out = list(tokens)
    for _ in range(count):
        logits = model(torch.tensor([out[:context_length]]))
        out.append(int(torch.argmax(logits[0, -1])))
    return out
""",
        "last-token": """
def continue_text(model, tokens, count, context_length):
    out = list(tokens)
    for _ in range(count):
        logits = model(torch.tensor([[out[-1]]]))
        out.append(int(torch.argmax(logits[0, -1])))
    return out
""",
        "not-cropped": """
def continue_text(model, tokens, count, context_length):
    out = list(tokens)
    for _ in range(count):
        logits = model(torch.tensor([out]))
        out.append(int(torch.argmax(logits[0, -1])))
    return out
""",
        "not-fed-back": """
def continue_text(model, tokens, count, context_length):
    out = list(tokens)
    for _ in range(count):
        logits = model(torch.tensor([tokens[-context_length:]]))
        out.append(int(torch.argmax(logits[0, -1])))
    return out
""",
        "new-only": """
def continue_text(model, tokens, count, context_length):
    text, new = list(tokens), []
    for _ in range(count):
        logits = model(torch.tensor([(text + new)[-context_length:]]))
        new.append(logits[0, -1].argmax().item())
    return new
""",
    },
}

STYLES = {
    "1.1": {
        "loop": """
def windows(tokens, context_length):
    inputs, targets = [], []
    for row in range((len(tokens) - 1) // context_length):
        start = row * context_length
        inputs.append([int(tokens[start + i]) for i in range(context_length)])
        targets.append([int(tokens[start + i + 1]) for i in range(context_length)])
    return torch.tensor(inputs), torch.tensor(targets)
""",
        "unfold": """
def windows(tokens, context_length):
    both = tokens.unfold(0, context_length + 1, context_length)
    return both[:, :-1], both[:, 1:]
""",
        "library": """
def windows(tokens, context_length):
    last = len(tokens) - (len(tokens) - 1) % context_length
    return torch.stack(tokens[: last - 1].split(context_length)), torch.stack(tokens[1:last].split(context_length))
""",
    },
    "1.2": {
        "loop": """
def softmax(logits):
    rows = []
    for row in logits:
        e = torch.exp(row - max(row))
        rows.append(e / sum(e))
    return torch.stack(rows)
""",
        "vectorized": """
def softmax(logits):
    return torch.exp(logits - torch.logsumexp(logits, -1, keepdim=True))
""",
        "library": """
def softmax(logits):
    return torch.nn.functional.softmax(logits, dim=-1)
""",
    },
    "1.3": {
        "loop": """
def average_loss(logits, targets):
    total = 0.0
    for row, target in zip(logits, targets):
        total = total - torch.log_softmax(row, 0)[target]
    return total / len(targets)
""",
        "einsum": """
def average_loss(logits, targets):
    one_hot = torch.nn.functional.one_hot(targets, logits.shape[-1]).float()
    return -torch.einsum("tv,tv->t", one_hot, torch.log_softmax(logits, -1)).mean()
""",
        "library": """
def average_loss(logits, targets):
    return torch.nn.functional.cross_entropy(logits, targets)
""",
    },
    "1.4": {
        "loop": """
def gradient(logits, targets):
    result = torch.zeros_like(logits)
    for i in range(logits.shape[0]):
        p = torch.softmax(logits[i], 0)
        for j in range(logits.shape[1]):
            result[i, j] = (p[j] - (1 if j == targets[i] else 0)) / logits.shape[0]
    return result
""",
        "vectorized": """
def gradient(logits, targets):
    return (torch.softmax(logits, -1) - torch.eye(logits.shape[1])[targets]) / len(targets)
""",
        "library": """
def gradient(logits, targets):
    scores = logits.clone().requires_grad_()
    torch.nn.functional.cross_entropy(scores, targets).backward()
    return scores.grad
""",
    },
    "1.5": {
        "loop": """
def continue_text(model, tokens, count, context_length):
    text = []
    for token in tokens:
        text.append(token)
    for _ in range(count):
        seen = text[max(0, len(text) - context_length) :]
        scores = model(torch.tensor([seen]))[0, len(seen) - 1].tolist()
        text.append(scores.index(max(scores)))
    return text
""",
        "tensor": """
def continue_text(model, tokens, count, context_length):
    text = torch.tensor([tokens])
    while text.shape[1] < len(tokens) + count:
        scores = model(text[:, -context_length:])[:, -1]
        text = torch.cat([text, scores.argmax(-1, keepdim=True)], dim=1)
    return text[0].tolist()
""",
        "topk": """
from collections import deque
def continue_text(model, tokens, count, context_length):
    window, new = deque(tokens, maxlen=context_length), []
    for _ in range(count):
        best = torch.topk(model(torch.tensor([list(window)]))[0, -1], 1).indices.item()
        window.append(best)
        new.append(best)
    return [*tokens, *new]
""",
    },
}
