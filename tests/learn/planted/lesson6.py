"""Students' code for lesson 6: planted mistakes, and correct solutions in three styles."""

STEP = """
from torch.nn.functional import cross_entropy as loss_of_all

def cross_entropy(logits, targets):
    return loss_of_all(logits.reshape(-1, logits.size(-1)), targets.reshape(-1))
"""
"""The loss that `train_step` needs, in case it is not solved."""

PLANTED = {
    "6.1": {
        "targets-not-shifted": """
def make_batch(tokens, starts, length):
    rows = [tokens[s : s + length] for s in starts]
    return torch.stack(rows), torch.stack(rows)
""",
        "shifted-back": """
def make_batch(tokens, starts, length):
    x = torch.stack([tokens[s : s + length] for s in starts])
    y = torch.stack([tokens[s - 1 : s + length - 1] for s in starts])
    return x, y
""",
        "shifted-by-two": """
def make_batch(tokens, starts, length):
    following = tokens[1:]
    x = torch.stack([tokens[s : s + length] for s in starts])
    y = torch.stack([following[s + 1 : s + 1 + length] for s in starts])
    return x, y
""",
        "next-window": """
def make_batch(tokens, starts, length):
    x, y = [], []
    for s in starts:
        x.append(tokens[s : s + length])
        y.append(tokens[s + length : s + 2 * length])
    return torch.stack(x), torch.stack(y)
""",
        "one-too-short": """
def make_batch(tokens, starts, length):
    rows = torch.stack([tokens[s : s + length] for s in starts])
    return rows[:, :-1], rows[:, 1:]
""",
    },
    "6.2": {
        "softmax-over-positions": """
def cross_entropy(logits, targets):
    p = torch.log_softmax(logits, 1)
    return -p.gather(2, targets.unsqueeze(2)).mean()
""",
        "summed": """
def cross_entropy(logits, targets):
    return nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="sum")
""",
        "averaged-twice": """
def cross_entropy(logits, targets):
    B, T, V = logits.shape
    return nn.functional.cross_entropy(logits.reshape(B * T, V), targets.reshape(B * T)) / (B * T)
""",
        "mean-over-batch-only": """
def cross_entropy(logits, targets):
    total = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    return total / len(logits)
""",
        "without-softmax": """
def cross_entropy(logits, targets):
    return nn.functional.nll_loss(logits.flatten(0, 1), targets.flatten())
""",
        "softmax-twice": """
def cross_entropy(logits, targets):
    return nn.functional.cross_entropy(logits.softmax(-1).flatten(0, 1), targets.flatten())
""",
        "in-bits": """
def cross_entropy(logits, targets):
    nats = nn.functional.log_softmax(logits, -1).gather(-1, targets[..., None])
    return -(nats / math.log(2)).mean()
""",
        "wrong-sign": """
def cross_entropy(logits, targets):
    return logits.log_softmax(-1).gather(-1, targets[..., None]).mean()
""",
        "mean-before-log": """
def cross_entropy(logits, targets):
    p = logits.softmax(-1).gather(-1, targets[..., None])
    return -torch.log(p.mean())
""",
        "positions-log-of-zero": """
def cross_entropy(logits, targets):
    p = torch.softmax(logits, dim=1)
    return -torch.log(p.gather(-1, targets[..., None])).mean()
""",
        "overflow": """
def cross_entropy(logits, targets):
    e = torch.exp(logits)
    p = e / e.sum(-1, keepdim=True)
    return -torch.log(p.gather(-1, targets[..., None])).mean()
""",
        "log-of-zero": """
def cross_entropy(logits, targets):
    p = torch.softmax(logits, dim=2)
    losses = []
    for b in range(p.size(0)):
        for t in range(p.size(1)):
            losses.append(-torch.log(p[b, t, targets[b, t]]))
    return sum(losses) / len(losses)
""",
    },
    "6.3": {
        "warmup-from-zero": """
def learning_rate_ratio(step, max_steps, warmup_steps, final_ratio):
    if step < warmup_steps:
        return step / warmup_steps
    x = (step - warmup_steps) / (max_steps - 1 - warmup_steps)
    return final_ratio + (1 - final_ratio) * 0.5 * (1 + math.cos(math.pi * x))
""",
        "warmup-ends-early": """
def learning_rate_ratio(step, max_steps, warmup_steps, final_ratio):
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    x = (step - warmup_steps) / (max_steps - 1 - warmup_steps)
    return final_ratio + (1 - final_ratio) * 0.5 * (1 + math.cos(math.pi * x))
""",
        "no-warmup": """
def learning_rate_ratio(step, max_steps, warmup_steps, final_ratio):
    x = step / (max_steps - 1)
    return final_ratio + (1 - final_ratio) * 0.5 * (1 + math.cos(math.pi * x))
""",
        "jump-after-warmup": """
def learning_rate_ratio(step, max_steps, warmup_steps, final_ratio):
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    x = step / (max_steps - 1)
    return final_ratio + (1 - final_ratio) * 0.5 * (1 + math.cos(math.pi * x))
""",
        "decay-to-zero": """
def learning_rate_ratio(step, max_steps, warmup_steps, final_ratio):
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    x = (step - warmup_steps) / (max_steps - 1 - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * x))
""",
        "linear-decay": """
def learning_rate_ratio(step, max_steps, warmup_steps, final_ratio):
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    left = (max_steps - 1 - step) / (max_steps - 1 - warmup_steps)
    return final_ratio + (1 - final_ratio) * left
""",
        "end-missed": """
def learning_rate_ratio(step, max_steps, warmup_steps, final_ratio):
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    x = (step - warmup_steps) / (max_steps - warmup_steps)
    return final_ratio + (1 - final_ratio) * 0.5 * (1 + math.cos(math.pi * x))
""",
        "zero-and-end": """
def learning_rate_ratio(step, max_steps, warmup_steps, final_ratio):
    if step < warmup_steps:
        return step / warmup_steps
    x = (step - warmup_steps) / (max_steps - warmup_steps)
    return final_ratio + (1 - final_ratio) * (1 + math.cos(math.pi * x)) / 2
""",
        "whole-cosine": """
def learning_rate_ratio(step, max_steps, warmup_steps, final_ratio):
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    x = (step - warmup_steps) / (max_steps - 1 - warmup_steps)
    return final_ratio + (1 - final_ratio) * (math.cos(2 * math.pi * x) + 1) / 2
""",
    },
    "6.4": {
        "all-decayed": """
def parameter_groups(model, weight_decay):
    return [{"params": list(model.parameters()), "weight_decay": weight_decay}]
""",
        "biases-decayed": """
def parameter_groups(model, weight_decay):
    embeddings = [p for n, p in model.named_parameters() if "embedding" in n]
    rest = [p for n, p in model.named_parameters() if "embedding" not in n]
    return [{"params": rest, "weight_decay": weight_decay}, {"params": embeddings, "weight_decay": 0.0}]
""",
        "gains-decayed": """
def parameter_groups(model, weight_decay):
    yes, no = [], []
    for name, p in model.named_parameters():
        if name.endswith(".bias") or "embedding" in name:
            no.append(p)
        else:
            yes.append(p)
    return [{"params": yes, "weight_decay": weight_decay}, {"params": no, "weight_decay": 0.0}]
""",
        "embeddings-decayed": """
def parameter_groups(model, weight_decay):
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0}]
""",
        "all-but-biases": """
def parameter_groups(model, weight_decay):
    return [
        {"params": [p for n, p in model.named_parameters() if "bias" not in n], "weight_decay": weight_decay},
        {"params": [p for n, p in model.named_parameters() if "bias" in n], "weight_decay": 0.0},
    ]
""",
        "groups-swapped": """
def parameter_groups(model, weight_decay):
    decayed = [p for n, p in model.named_parameters() if p.ndim == 1 or "embedding" in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 1 or "embedding" in n)]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
""",
        "default-decay": """
def parameter_groups(model, weight_decay):
    decayed = [p for n, p in model.named_parameters() if p.ndim == 2 and "embedding" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim == 1 or "embedding" in n]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others}]
""",
        "parameters-lost": """
def parameter_groups(model, weight_decay):
    decayed = [p for n, p in model.named_parameters() if p.ndim == 2 and "embedding" not in n]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": [], "weight_decay": 0.0}]
""",
    },
    "6.5": {
        "clip-before-unscaling": """
def clip_gradients(gradients, loss_scale, max_norm):
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    if norm > max_norm:
        gradients = [g * max_norm / norm for g in gradients]
    return [g / loss_scale for g in gradients], norm.item()
""",
        "not-unscaled": """
def clip_gradients(gradients, loss_scale, max_norm):
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    return [g * min(1, max_norm / norm) for g in gradients], float(norm)
""",
        "each-tensor-alone": """
def clip_gradients(gradients, loss_scale, max_norm):
    gradients = [g / loss_scale for g in gradients]
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    return [g * min(1, max_norm / g.norm()) for g in gradients], float(norm)
""",
        "values-clipped": """
def clip_gradients(gradients, loss_scale, max_norm):
    gradients = [g / loss_scale for g in gradients]
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    return [torch.clamp(g, min=-max_norm, max=max_norm) for g in gradients], float(norm)
""",
        "always-scaled": """
def clip_gradients(gradients, loss_scale, max_norm):
    gradients = [g / loss_scale for g in gradients]
    norm = sum((g * g).sum() for g in gradients).sqrt()
    return [g / norm * max_norm for g in gradients], norm
""",
        "no-square-root": """
def clip_gradients(gradients, loss_scale, max_norm):
    gradients = [g / loss_scale for g in gradients]
    norm = sum((g * g).sum() for g in gradients)
    return [g * min(1, max_norm / norm) for g in gradients], norm
""",
        "norm-after-clipping": """
def clip_gradients(gradients, loss_scale, max_norm):
    gradients = [g / loss_scale for g in gradients]
    norm = sum((g * g).sum() for g in gradients).sqrt()
    if norm > max_norm:
        gradients = [g * max_norm / norm for g in gradients]
    return gradients, sum((g * g).sum() for g in gradients).sqrt()
""",
    },
    "6.6": {
        "no-bias-correction": """
def adamw_update(p, g, m, v, step, learning_rate, beta1, beta2, epsilon=1e-8, weight_decay=0.1):
    m = m * beta1 + g * (1 - beta1)
    v = v * beta2 + g * g * (1 - beta2)
    p = p * (1 - learning_rate * weight_decay)
    return p - learning_rate * m / (v.sqrt() + epsilon), m, v
""",
        "decay-in-gradient": """
def adamw_update(p, g, m, v, step, learning_rate, beta1, beta2, epsilon=1e-8, weight_decay=0.1):
    g = g + weight_decay * p
    m = m * beta1 + g * (1 - beta1)
    v = v * beta2 + g * g * (1 - beta2)
    change = (m / (1 - beta1**step)) / ((v / (1 - beta2**step)).sqrt() + epsilon)
    return p - learning_rate * change, m, v
""",
        "decay-without-rate": """
def adamw_update(p, g, m, v, step, learning_rate, beta1, beta2, epsilon=1e-8, weight_decay=0.1):
    m = m * beta1 + g * (1 - beta1)
    v = v * beta2 + g * g * (1 - beta2)
    change = (m / (1 - beta1**step)) / ((v / (1 - beta2**step)).sqrt() + epsilon)
    return (1 - weight_decay) * p - learning_rate * change, m, v
""",
        "gradient-not-squared": """
def adamw_update(p, g, m, v, step, learning_rate, beta1, beta2, epsilon=1e-8, weight_decay=0.1):
    m = m * beta1 + g * (1 - beta1)
    v = v * beta2 + torch.abs(g) * (1 - beta2)
    change = (m / (1 - beta1**step)) / ((v / (1 - beta2**step)).sqrt() + epsilon)
    return p * (1 - learning_rate * weight_decay) - learning_rate * change, m, v
""",
        "no-root": """
def adamw_update(p, g, m, v, step, learning_rate, beta1, beta2, epsilon=1e-8, weight_decay=0.1):
    m = m * beta1 + g * (1 - beta1)
    v = v * beta2 + g * g * (1 - beta2)
    change = (m / (1 - beta1**step)) / (v / (1 - beta2**step) + epsilon)
    return p * (1 - learning_rate * weight_decay) - learning_rate * change, m, v
""",
        "uphill": """
def adamw_update(p, g, m, v, step, learning_rate, beta1, beta2, epsilon=1e-8, weight_decay=0.1):
    m = m * beta1 + g * (1 - beta1)
    v = v * beta2 + g * g * (1 - beta2)
    change = (m / (1 - beta1**step)) / ((v / (1 - beta2**step)).sqrt() + epsilon)
    return p * (1 - learning_rate * weight_decay) + learning_rate * change, m, v
""",
        "betas-swapped": """
def adamw_update(p, g, m, v, step, learning_rate, beta2, beta1, epsilon=1e-8, weight_decay=0.1):
    m, v = m * beta2 + g * (1 - beta2), v * beta1 + g * g * (1 - beta1)
    change = (m / (1 - beta2**step)) / ((v / (1 - beta1**step)).sqrt() + epsilon)
    return p * (1 - learning_rate * weight_decay) - learning_rate * change, m, v
""",
    },
    "6.7": {
        "losses-summed": STEP
        + """
def train_step(model, optimizer, micro_batches, learning_rate, max_norm):
    optimizer.zero_grad()
    total = 0
    for x, y in micro_batches:
        loss = cross_entropy(model(x), y)
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    for g in optimizer.param_groups:
        g["lr"] = learning_rate
    optimizer.step()
    return total / len(micro_batches)
""",
        "loss-averaged-twice": STEP
        + """
def train_step(model, optimizer, micro_batches, learning_rate, max_norm):
    optimizer.zero_grad()
    n, total = len(micro_batches), 0
    for x, y in micro_batches:
        loss = cross_entropy(model(x), y) / n
        loss.backward()
        total += loss.item()
    for p in model.parameters():
        p.grad /= n
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    for g in optimizer.param_groups:
        g["lr"] = learning_rate
    optimizer.step()
    return total
""",
        "gradients-kept": STEP
        + """
def train_step(model, optimizer, micro_batches, learning_rate, max_norm):
    total = 0
    for x, y in micro_batches:
        loss = cross_entropy(model(x), y) / len(micro_batches)
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    for g in optimizer.param_groups:
        g["lr"] = learning_rate
    optimizer.step()
    return total
""",
        "last-micro-batch-only": STEP
        + """
def train_step(model, optimizer, micro_batches, learning_rate, max_norm):
    total = 0
    for x, y in micro_batches:
        loss = cross_entropy(model(x), y) / len(micro_batches)
        model.zero_grad()
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    for g in optimizer.param_groups:
        g["lr"] = learning_rate
    optimizer.step()
    return total
""",
        "not-clipped": STEP
        + """
def train_step(model, optimizer, micro_batches, learning_rate, max_norm):
    optimizer.zero_grad()
    total = 0
    for x, y in micro_batches:
        loss = cross_entropy(model(x), y) / len(micro_batches)
        loss.backward()
        total += loss.item()
    for g in optimizer.param_groups:
        g["lr"] = learning_rate
    optimizer.step()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return total
""",
        "rate-ignored": STEP
        + """
def train_step(model, optimizer, micro_batches, learning_rate, max_norm):
    optimizer.zero_grad()
    loss = sum(cross_entropy(model(x), y) for x, y in micro_batches) / len(micro_batches)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return loss.item()
""",
        "last-loss": STEP
        + """
def train_step(model, optimizer, micro_batches, learning_rate, max_norm):
    optimizer.zero_grad()
    for x, y in micro_batches:
        loss = cross_entropy(model(x), y)
        (loss / len(micro_batches)).backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    for g in optimizer.param_groups:
        g["lr"] = learning_rate
    optimizer.step()
    return loss.item()
""",
    },
}

STYLES = {
    "6.1": {
        "loops": """
def make_batch(tokens, starts, length):
    x = torch.zeros(len(starts), length, dtype=torch.long)
    y = torch.zeros(len(starts), length, dtype=torch.long)
    for b, start in enumerate(starts):
        for t in range(length):
            x[b, t] = tokens[start + t]
            y[b, t] = tokens[start + t + 1]
    return x, y
""",
        "indexing": """
def make_batch(tokens, starts, length):
    places = torch.tensor(starts)[:, None] + torch.arange(length + 1)
    rows = tokens[places]
    return rows[:, :-1], rows[:, 1:]
""",
        "library": """
def make_batch(tokens, starts, length):
    windows = tokens.unfold(0, length + 1, 1)
    rows = windows[list(starts)]
    return rows[:, :length], rows[:, 1:]
""",
    },
    "6.2": {
        "loops": """
def cross_entropy(logits, targets):
    B, T, V = logits.shape
    total = 0.0
    for b in range(B):
        for t in range(T):
            row = logits[b, t]
            top = row.max()
            total = total + top + torch.log(torch.exp(row - top).sum()) - row[targets[b, t]]
    return total / (B * T)
""",
        "one-hot": """
def cross_entropy(logits, targets):
    right = nn.functional.one_hot(targets, logits.size(-1)).to(logits.dtype)
    return -torch.einsum("btv,btv->bt", torch.log_softmax(logits, -1), right).mean()
""",
        "library": """
def cross_entropy(logits, targets):
    return nn.functional.cross_entropy(logits.permute(0, 2, 1), targets)
""",
    },
    "6.3": {
        "branches": """
def learning_rate_ratio(step, max_steps, warmup_steps, final_ratio):
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    x = (step - warmup_steps) / (max_steps - 1 - warmup_steps)
    return final_ratio + 0.5 * (1 - final_ratio) * (1 + math.cos(math.pi * x))
""",
        "half angle": """
def learning_rate_ratio(step, max_steps, warmup_steps, final_ratio):
    rising = (step + 1) / (warmup_steps + 1)
    x = max(0, step - warmup_steps) / (max_steps - 1 - warmup_steps)
    falling = final_ratio + (1 - final_ratio) * math.cos(math.pi / 2 * x) ** 2
    return min(rising, falling, 1)
""",
        "tensors": """
def learning_rate_ratio(step, max_steps, warmup_steps, final_ratio):
    rising = torch.arange(1, warmup_steps + 1, dtype=torch.float64) / (warmup_steps + 1)
    angles = torch.linspace(0, math.pi, max_steps - warmup_steps, dtype=torch.float64)
    falling = final_ratio + (1 - final_ratio) * (1 + angles.cos()) / 2
    return torch.cat([rising, falling])[step]
""",
    },
    "6.4": {
        "loop": """
def parameter_groups(model, weight_decay):
    yes, no = [], []
    for name, p in model.named_parameters():
        if p.ndim < 2 or "embedding" in name:
            no.append(p)
        else:
            yes.append(p)
    return [{"params": yes, "weight_decay": weight_decay}, {"params": no, "weight_decay": 0}]
""",
        "modules": """
def parameter_groups(model, weight_decay):
    matrices = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    ids = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in ids]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
""",
        "sets": """
def parameter_groups(model, weight_decay):
    named = dict(model.named_parameters())
    decayed = {n for n, p in named.items() if p.dim() == 2} - {n for n in named if "embedding" in n}
    return (
        {"weight_decay": 0.0, "params": [named[n] for n in named.keys() - decayed]},
        {"weight_decay": weight_decay, "params": [named[n] for n in decayed]},
    )
""",
    },
    "6.5": {
        "loops": """
def clip_gradients(gradients, loss_scale, max_norm):
    total = 0.0
    unscaled = []
    for g in gradients:
        g = g / loss_scale
        unscaled.append(g)
        for number in g.flatten().tolist():
            total += number * number
    norm = math.sqrt(total)
    if norm <= max_norm:
        return unscaled, norm
    return [g / norm * max_norm for g in unscaled], norm
""",
        "vectorized": """
def clip_gradients(gradients, loss_scale, max_norm):
    flat = torch.cat([g.reshape(-1) for g in gradients]) / loss_scale
    norm = torch.einsum("i,i->", flat, flat).sqrt()
    flat = flat * torch.clamp(max_norm / norm, max=1.0)
    parts = flat.split([g.numel() for g in gradients])
    return [part.view(g.shape) for part, g in zip(parts, gradients)], norm
""",
        "library": """
def clip_gradients(gradients, loss_scale, max_norm):
    holders = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for holder, g in zip(holders, gradients):
        holder.grad = g / loss_scale
    norm = nn.utils.clip_grad_norm_(holders, max_norm)
    return [holder.grad for holder in holders], norm.item()
""",
    },
    "6.6": {
        "formulas": """
def adamw_update(
    parameter, gradient, mean, square, step,
    learning_rate=1e-3, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1,
):
    mean = beta1 * mean + (1 - beta1) * gradient
    square = beta2 * square + (1 - beta2) * gradient.square()
    mean_hat, square_hat = mean / (1 - beta1**step), square / (1 - beta2**step)
    parameter = parameter * (1 - learning_rate * weight_decay)
    return parameter - learning_rate * mean_hat / (square_hat.sqrt() + epsilon), mean, square
""",
        "loops": """
def adamw_update(
    parameter, gradient, mean, square, step,
    learning_rate=1e-3, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1,
):
    p, m, v = parameter.clone(), mean.clone(), square.clone()
    for i in range(p.numel()):
        g = gradient.view(-1)[i].item()
        a = beta1 * m.view(-1)[i].item() + (1 - beta1) * g
        b = beta2 * v.view(-1)[i].item() + (1 - beta2) * g * g
        m.view(-1)[i], v.view(-1)[i] = a, b
        change = a / (1 - beta1**step) / (math.sqrt(b / (1 - beta2**step)) + epsilon)
        p.view(-1)[i] -= learning_rate * (weight_decay * p.view(-1)[i].item() + change)
    return p, m, v
""",
        "library": """
def adamw_update(
    parameter, gradient, mean, square, step,
    learning_rate=1e-3, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1,
):
    p = nn.Parameter(parameter.clone())
    p.grad = gradient.clone()
    optimizer = torch.optim.AdamW(
        [p], lr=learning_rate, betas=(beta1, beta2), eps=epsilon, weight_decay=weight_decay
    )
    m, v = mean.clone(), square.clone()
    optimizer.state[p] = {"step": torch.tensor(float(step - 1)), "exp_avg": m, "exp_avg_sq": v}
    optimizer.step()
    return p.detach(), m, v
""",
    },
    "6.7": {
        "accumulated": STEP
        + """
def train_step(model, optimizer, micro_batches, learning_rate, max_norm):
    optimizer.zero_grad()
    total = 0
    for x, y in micro_batches:
        loss = cross_entropy(model(x), y) / len(micro_batches)
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    for g in optimizer.param_groups:
        g["lr"] = learning_rate
    optimizer.step()
    return total
""",
        "one pass": STEP
        + """
def train_step(model, optimizer, micro_batches, learning_rate, max_norm):
    for g in optimizer.param_groups:
        g["lr"] = learning_rate
    x = torch.cat([x for x, _ in micro_batches])
    y = torch.cat([y for _, y in micro_batches])
    loss = cross_entropy(model(x), y)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()
""",
        "explicit gradients": STEP
        + """
def train_step(model, optimizer, micro_batches, learning_rate, max_norm):
    parameters = list(model.parameters())
    loss = sum(cross_entropy(model(x), y) for x, y in micro_batches) / len(micro_batches)
    gradients = torch.autograd.grad(loss, parameters)
    norm = sum(g.pow(2).sum() for g in gradients).sqrt()
    for p, g in zip(parameters, gradients):
        p.grad = g * min(1.0, max_norm / norm.item())
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    return loss.detach()
""",
    },
}
