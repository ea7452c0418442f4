"""Students' code for the example lesson: planted mistakes, and correct solutions in three styles."""

PLANTED = {
    "9.1": {
        "wrong-axis": """
def softmax(scores):
    scores = scores - scores.max()
    return torch.exp(scores) / torch.exp(scores).sum(dim=0)
""",
        "no-maximum": """
def softmax(scores):
    e = torch.exp(scores)
    return e / e.sum(dim=-1, keepdim=True)
""",
        "no-division": """
def softmax(scores):
    return torch.exp(scores - scores.max(dim=-1, keepdim=True).values)
""",
        "wrong-axis-no-maximum": """
def softmax(scores):
    e = torch.exp(scores)
    return e / e.sum(dim=0, keepdim=True)
""",
    },
    "9.2": {
        "not-shifted": """
def pairs(tokens):
    return list(tokens[:-1]), list(tokens[:-1])
""",
        "shifted-twice": """
def pairs(tokens):
    x = tokens[:-1]
    y = tokens[2:] + [tokens[-1]]
    return x, y
""",
        "previous": """
def pairs(tokens):
    return tokens[1:], tokens[:-1]
""",
    },
}

STYLES = {
    "9.1": {
        "loops": """
import math

def softmax(scores):
    rows = []
    for row in scores.tolist():
        top = max(row)
        powers = [math.exp(s - top) for s in row]
        rows.append([p / sum(powers) for p in powers])
    return torch.tensor(rows)
""",
        "vectorized": """
def softmax(scores):
    return (scores - torch.logsumexp(scores, -1, keepdim=True)).exp()
""",
        "library": """
def softmax(scores):
    return torch.nn.functional.softmax(scores, dim=-1)
""",
    },
    "9.2": {
        "loops": """
def pairs(tokens):
    x, y = [], []
    for i in range(len(tokens) - 1):
        x.append(tokens[i])
        y.append(tokens[i + 1])
    return x, y
""",
        "zip": """
def pairs(tokens):
    return [list(each) for each in zip(*zip(tokens, tokens[1:]))]
""",
        "slices": """
def pairs(tokens):
    return tokens[:-1], tokens[1:]
""",
    },
}
