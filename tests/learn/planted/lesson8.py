"""Students' code for lesson 8: planted mistakes, and correct solutions in three styles."""

PLANTED = {
    "8.1": {
        "warmup-counted": """
def benchmark(work, clock, warmup, repeats):
    times = []
    for i in range(warmup + repeats):
        start = clock()
        work()
        times.append(clock() - start)
    return statistics.median(times)
""",
        "no-warmup": """
def benchmark(work, clock, warmup, repeats):
    times = []
    while len(times) < repeats:
        t = clock()
        work()
        times += [clock() - t]
    return statistics.median(times)
""",
        "mean": """
def benchmark(work, clock, warmup, repeats):
    for _ in range(warmup):
        work()
    start = clock()
    for _ in range(repeats):
        work()
    return (clock() - start) / repeats
""",
        "fastest": """
def benchmark(work, clock, warmup, repeats):
    best = math.inf
    for i in range(warmup + repeats):
        start = clock()
        work()
        if i >= warmup:
            best = min(best, clock() - start)
    return best
""",
        "sum": """
def benchmark(work, clock, warmup, repeats):
    for _ in range(warmup):
        work()
    start = clock()
    for _ in range(repeats):
        work()
    return clock() - start
""",
    },
    "8.2": {
        "keys-only": """
def kv_cache_bytes(n_layer, n_head, head_width, tokens, sequences, bytes_per_number):
    return n_layer * n_head * head_width * tokens * sequences * bytes_per_number
""",
        "one-layer": """
def kv_cache_bytes(n_layer, n_head, head_width, tokens, sequences, bytes_per_number):
    return 2 * n_head * head_width * tokens * sequences * bytes_per_number
""",
        "one-head": """
def kv_cache_bytes(n_layer, n_head, head_width, tokens, sequences, bytes_per_number):
    return 2 * n_layer * head_width * tokens * sequences * bytes_per_number
""",
        "one-sequence": """
def kv_cache_bytes(n_layer, n_head, head_width, tokens, sequences, bytes_per_number):
    return 2 * n_layer * n_head * head_width * tokens * bytes_per_number
""",
        "numbers": """
def kv_cache_bytes(n_layer, n_head, head_width, tokens, sequences, bytes_per_number):
    return 2 * n_layer * n_head * head_width * tokens * sequences
""",
        "bits": """
def kv_cache_bytes(n_layer, n_head, head_width, tokens, sequences, bytes_per_number):
    bits = 8 * bytes_per_number
    return 2 * n_layer * n_head * head_width * tokens * sequences * bits
""",
        "scores": """
def kv_cache_bytes(n_layer, n_head, head_width, tokens, sequences, bytes_per_number):
    return sequences * n_layer * n_head * tokens**2 * bytes_per_number
""",
    },
    "8.3": {
        "one-scale": """
def quantize(weights, bits):
    top = 2 ** (bits - 1) - 1
    scale = weights.abs().max() / top
    scales = torch.full((weights.size(0), 1), scale.item())
    return torch.round(weights / scales).to(torch.int8), scales
""",
        "single-scale": """
def quantize(weights, bits):
    scale = weights.abs().max() / (2 ** (bits - 1) - 1)
    return (weights / scale).round().to(torch.int8), scale
""",
        "single-scale-cut-off": """
def quantize(weights, bits):
    scale = weights.abs().max() / (2 ** (bits - 1) - 1)
    return (weights / scale).to(torch.int8), scale
""",
        "columns": """
def quantize(weights, bits):
    top = 2 ** (bits - 1) - 1
    scales = weights.abs().max(dim=0, keepdim=True).values / top
    return torch.round(weights / scales).to(torch.int8), scales
""",
        "cut-off": """
def quantize(weights, bits):
    top = 2 ** (bits - 1) - 1
    scales = weights.abs().max(dim=1, keepdim=True).values / top
    return (weights / scales).to(torch.int8), scales
""",
        "signed-maximum": """
def quantize(weights, bits):
    top = 2 ** (bits - 1) - 1
    scales = weights.max(dim=1, keepdim=True).values / top
    return torch.round(weights / scales).to(torch.int8), scales
""",
        "overflow": """
def quantize(weights, bits):
    scales = weights.abs().max(dim=1, keepdim=True).values / 2 ** (bits - 1)
    return torch.round(weights / scales).to(torch.int32).to(torch.int8), scales
""",
        "half-range": """
def quantize(weights, bits):
    top = 2 ** (bits - 2) - 1
    scales = weights.abs().max(dim=1, keepdim=True).values / top
    return torch.round(weights / scales).to(torch.int8), scales
""",
        "inverse-scale": """
def quantize(weights, bits):
    top = 2 ** (bits - 1) - 1
    factors = top / weights.abs().max(dim=1, keepdim=True).values
    return torch.round(weights * factors).to(torch.int8), factors
""",
    },
    "8.4": {
        "nats": """
def bits_per_byte(nats_per_token, tokens, n_bytes):
    return nats_per_token * tokens / n_bytes
""",
        "multiplied": """
def bits_per_byte(nats_per_token, tokens, n_bytes):
    bits = nats_per_token * math.log(2)
    return bits * tokens / n_bytes
""",
        "per-token": """
def bits_per_byte(nats_per_token, tokens, n_bytes):
    return nats_per_token * math.log2(math.e)
""",
        "inverse": """
def bits_per_byte(nats_per_token, tokens, n_bytes):
    bytes_per_token = n_bytes / tokens
    return nats_per_token / math.log(2) * bytes_per_token
""",
        "perplexity": """
def bits_per_byte(nats_per_token, tokens, n_bytes):
    total = nats_per_token * tokens
    return math.e ** (total / n_bytes)
""",
    },
    "8.5": {
        "blind-to-nan": """
def first_spike(losses, window, factor):
    for i in range(window, len(losses)):
        before = statistics.median(losses[i - window : i])
        if losses[i] > factor * before:
            return i
    return None
""",
        "includes-itself": """
def first_spike(losses, window, factor):
    for i, loss in enumerate(losses):
        if math.isnan(loss) or math.isinf(loss):
            return i
        if i >= window and loss > factor * statistics.median(losses[i + 1 - window : i + 1]):
            return i
    return None
""",
        "mean": """
def first_spike(losses, window, factor):
    for i, loss in enumerate(losses):
        if not math.isfinite(loss):
            return i
        if i >= window and loss > factor * sum(losses[i - window : i]) / window:
            return i
    return None
""",
        "mean-blind-to-nan": """
def first_spike(losses, window, factor):
    for i, loss in enumerate(losses):
        if i < window:
            continue
        if loss > factor * statistics.mean(losses[i - window : i]):
            return i
    return None
""",
        "all-before": """
def first_spike(losses, window, factor):
    for i, loss in enumerate(losses):
        if not math.isfinite(loss):
            return i
        if i >= window and loss > factor * statistics.median(losses[:i]):
            return i
    return None
""",
        "step-before": """
def first_spike(losses, window, factor):
    for i, loss in enumerate(losses):
        if not math.isfinite(loss):
            return i
        if i >= window and loss > factor * losses[i - 1]:
            return i
    return None
""",
        "last-spike": """
def first_spike(losses, window, factor):
    spike = None
    for i, loss in enumerate(losses):
        if not math.isfinite(loss):
            spike = i
        elif i >= window and loss > factor * statistics.median(losses[i - window : i]):
            spike = i
    return spike
""",
    },
}

STYLES = {
    "8.1": {
        "loop": """
def benchmark(work, clock, warmup, repeats):
    for _ in range(warmup):
        work()
    times = []
    for _ in range(repeats):
        start = clock()
        work()
        times.append(clock() - start)
    return statistics.median(times)
""",
        "sorted": """
def benchmark(work, clock, warmup, repeats):
    def once():
        start = clock()
        work()
        return clock() - start
    times = sorted([once() for _ in range(warmup + repeats)][warmup:])
    middle = repeats // 2
    return times[middle] if repeats % 2 else (times[middle - 1] + times[middle]) / 2
""",
        "library": """
def benchmark(work, clock, warmup, repeats):
    import timeit
    timer = timeit.Timer(work, timer=clock)
    return statistics.median(timer.repeat(warmup + repeats, number=1)[warmup:])
""",
    },
    "8.2": {
        "product": """
def kv_cache_bytes(n_layer, n_head, head_width, tokens, sequences, bytes_per_number):
    return 2 * n_layer * n_head * head_width * tokens * sequences * bytes_per_number
""",
        "loops": """
def kv_cache_bytes(n_layer, n_head, head_width, tokens, sequences, bytes_per_number):
    total = 0
    for layer in range(n_layer):
        for head in range(n_head):
            keys = tokens * sequences * head_width
            values = tokens * sequences * head_width
            total += (keys + values) * bytes_per_number
    return total
""",
        "library": """
def kv_cache_bytes(n_layer, n_head, head_width, tokens, sequences, bytes_per_number):
    return math.prod((2, n_layer, n_head, head_width, tokens, sequences, bytes_per_number))
""",
    },
    "8.3": {
        "loops": """
def quantize(weights, bits):
    top = 2 ** (bits - 1) - 1
    integers = torch.zeros(weights.shape, dtype=torch.int8)
    scales = torch.zeros(len(weights), 1)
    for r, row in enumerate(weights.tolist()):
        scale = max(abs(w) for w in row) / top
        scales[r, 0] = scale
        for c, w in enumerate(row):
            integers[r, c] = round(w / scale)
    return integers, scales
""",
        "vectorized": """
def quantize(weights, bits):
    top = 2 ** (bits - 1) - 1
    scales = torch.einsum("r,->r", weights.abs().max(1).values, torch.tensor(1 / top))[:, None]
    return torch.clamp(torch.round(weights / scales), -top, top).to(torch.int8), scales
""",
        "library": """
def quantize(weights, bits):
    import numpy as np
    array = weights.numpy()
    scales = np.abs(array).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    return torch.from_numpy(np.rint(array / scales).astype(np.int8)), torch.from_numpy(scales)
""",
    },
    "8.4": {
        "step by step": """
def bits_per_byte(nats_per_token, tokens, n_bytes):
    nats = nats_per_token * tokens
    bits = nats / math.log(2)
    return bits / n_bytes
""",
        "logarithm": """
def bits_per_byte(nats_per_token, tokens, n_bytes):
    return nats_per_token * math.log2(math.e) * (tokens / n_bytes)
""",
        "library": """
def bits_per_byte(nats_per_token, tokens, n_bytes):
    from glassgpt.training.loss import ValidationLoss
    return ValidationLoss(nats_per_token * tokens, tokens, n_bytes).bits_per_byte
""",
    },
    "8.5": {
        "loop": """
def first_spike(losses, window, factor):
    for i, loss in enumerate(losses):
        if not math.isfinite(loss):
            return i
        if i >= window and loss > factor * statistics.median(losses[i - window : i]):
            return i
    return None
""",
        "deque": """
def first_spike(losses, window, factor):
    from collections import deque
    recent = deque(maxlen=window)
    for i, loss in enumerate(losses):
        if math.isnan(loss) or loss == math.inf:
            return i
        if len(recent) == window and loss > factor * sorted(recent)[window // 2]:
            return i
        recent.append(loss)
""",
        "vectorized": """
def first_spike(losses, window, factor):
    x = torch.tensor(losses, dtype=torch.float64)
    spikes = ~x.isfinite()
    if len(x) > window:
        medians = x.nan_to_num().unfold(0, window, 1).median(dim=1).values[:-1]
        spikes[window:] |= x[window:] > factor * medians
    places = spikes.nonzero()
    return int(places[0]) if len(places) else None
""",
    },
}
