/* One decoding step through all blocks of a GPT-2 with 4-bit or 8-bit matrices: one new token for each of n sequences.

   PyTorch would run some 25 small operations per block, which take longer than the products once the weights have few bits.
   The formulas are those of model/gpt2.py and attend_readable in model/attention.py. Every sequence is computed by itself,
   so its result does not depend on the others. */

#include "int4.c"
#include "int8.c"

#define INLINE __attribute__((always_inline)) static inline
#define LANES 16

typedef float floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(64), aligned(4), may_alias));

typedef struct {
    const float *norm1_gain, *norm1_bias;
    const uint8_t *qkv;
    const float *qkv_bias;
    const uint8_t *out;
    const float *out_bias, *norm2_gain, *norm2_bias;
    const uint8_t *up;
    const float *up_bias;
    const uint8_t *down;
    const float *down_bias;
} Block;

typedef struct {
    long layers, width, inner, heads, head_width;
    float eps;
    int bits; /* of the matrices' weights: 4 or 8 */
} Shape;

typedef struct { /* keys and values (layer, slot, head, position, channel); strides count floats */
    float *keys, *values;
    long layer, slot, head;
    const long *positions; /* of the new token of each slot */
} Cache;

typedef struct { /* one layer's part of a low-rank adapter: a (rank, in), b (rank, out); rank 0 is none */
    const float *a, *b;
    long rank;
} LowRank;

enum { QKV, OUT, UP, DOWN, LAYERS }; /* the layers of a block */

INLINE floats load(const float *x) { return *(const floats *)x; }
INLINE void store(float *x, floats v) { *(floats *)x = v; }
INLINE floats all(float x) { return x - (floats){0}; }

INLINE float sum(floats v) {
    float s[LANES];
    store(s, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) s[i] += s[i + half];
    return s[0];
}

/* e^x for x up to 88, with a relative error below 1e-6; Cephes' polynomial on [-ln 2 / 2, ln 2 / 2]. */
INLINE floats exponential(floats x) {
    ints low = x < all(-87.0f), high = x > all(88.0f);
    x = (floats)((~(low | high) & (ints)x) | (low & (ints)all(-87.0f)) | (high & (ints)all(88.0f)));
    const floats magic = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    floats n = (x * 1.44269504f + magic) - magic;
    floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    floats p = 1.9875691500e-4f - (floats){0};
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ints power = (__builtin_convertvector(n, ints) + 127) << 23;
    return p * (floats)power;
}

INLINE void layer_norm(const float *x, const float *gain, const float *bias, float eps, long width, float *y) {
    floats total = all(0), squares = all(0);
    for (long i = 0; i < width; i += LANES) total += load(x + i);
    floats mean = all(sum(total) / (float)width);
    for (long i = 0; i < width; i += LANES) {
        floats d = load(x + i) - mean;
        squares += d * d;
    }
    floats inverse = all(1.0f / __builtin_sqrtf(sum(squares) / (float)width + eps));
    for (long i = 0; i < width; i += LANES) {
        floats v = (load(x + i) - mean) * inverse * load(gain + i);
        if (bias) v += load(bias + i);
        store(y + i, v);
    }
}

INLINE void gelu_tanh(float *x, long count) {
    for (long i = 0; i < count; i += LANES) {
        floats v = load(x + i);
        floats u = 0.7978845608f * (v + 0.044715f * v * v * v);
        store(x + i, v - v / (exponential(2.0f * u) + 1.0f)); /* v (1 + tanh u) / 2 */
    }
}

/* One head of one sequence: the new query against keys 0 … position. */
INLINE void attend(const float *q, const float *keys, const float *values, long position, long width, float *scores, float *y) {
    float scale = 1.0f / __builtin_sqrtf((float)width), highest = -__builtin_inff();
    for (long j = 0; j <= position; j++) {
        floats dot = all(0);
        for (long i = 0; i < width; i += LANES) {
            dot += load(q + i) * load(keys + j * width + i);
            _mm_prefetch((const char *)(values + j * width + i), _MM_HINT_T0); /* all are needed as soon as the scores are known */
        }
        scores[j] = sum(dot) * scale;
        highest = scores[j] > highest ? scores[j] : highest;
    }
    for (long j = position + 1; j % LANES; j++) scores[j] = -__builtin_inff();
    floats total = all(0);
    for (long j = 0; j <= position; j += LANES) {
        floats weights = exponential(load(scores + j) - highest);
        ints seen = load(scores + j) > all(-__builtin_inff());
        weights = (floats)(seen & (ints)weights);
        store(scores + j, weights);
        total += weights;
    }
    float inverse = 1.0f / sum(total);
    for (long i = 0; i < width; i += LANES) {
        floats mixed = all(0);
        for (long j = 0; j <= position; j++) mixed += scores[j] * load(values + j * width + i);
        store(y + i, mixed * inverse);
    }
}

/* Functions of their own: the body of an OpenMP loop is compiled without the instructions of the function around it. */
__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,f16c")))
static void attend_avx512(const float *q, const float *keys, const float *values, long position, long width, float *scores,
                          float *y) {
    attend(q, keys, values, position, width, scores, y);
}

__attribute__((target("avx2,fma,f16c")))
static void attend_avx2(const float *q, const float *keys, const float *values, long position, long width, float *scores,
                        float *y) {
    attend(q, keys, values, position, width, scores, y);
}

/* Add an adapter to the product y (out) of one vector x (in): y += (x aᵀ) bᵀ. Four columns at a time, so that their sums do not
   wait for each other and y is read and written a fourth as often. */
INLINE void add_low_rank(const float *x, long in, long out, const LowRank *part, float *y) {
    long r = 0;
    for (; r + 4 <= part->rank; r += 4) {
        const float *a = part->a + r * in, *b = part->b + r * out;
        floats low0 = all(0), low1 = all(0), low2 = all(0), low3 = all(0);
        for (long i = 0; i < in; i += LANES) {
            floats value = load(x + i);
            low0 += value * load(a + i);
            low1 += value * load(a + in + i);
            low2 += value * load(a + 2 * in + i);
            low3 += value * load(a + 3 * in + i);
        }
        low0 = all(sum(low0)), low1 = all(sum(low1)), low2 = all(sum(low2)), low3 = all(sum(low3));
        for (long i = 0; i < out; i += LANES) {
            floats added = low0 * load(b + i) + low1 * load(b + out + i);
            added += low2 * load(b + 2 * out + i) + low3 * load(b + 3 * out + i);
            store(y + i, load(y + i) + added);
        }
    }
    for (; r < part->rank; r++) {
        floats low = all(0);
        for (long i = 0; i < in; i += LANES) low += load(x + i) * load(part->a + r * in + i);
        low = all(sum(low));
        for (long i = 0; i < out; i += LANES) store(y + i, load(y + i) + low * load(part->b + r * out + i));
    }
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,f16c")))
static void add_low_rank_avx512(const float *x, long in, long out, const LowRank *part, float *y) {
    add_low_rank(x, in, out, part, y);
}

__attribute__((target("avx2,fma,f16c")))
static void add_low_rank_avx2(const float *x, long in, long out, const LowRank *part, float *y) {
    add_low_rank(x, in, out, part, y);
}

/* Add to each of n vectors its own adapter. `parts` has n pointers to an adapter's parts, LAYERS for each block, or NULL; `at` is
   the layer among them. */
INLINE void add_adapters(const float *x, long n, long in, long out, const LowRank *const *parts, long at, float *y, int level,
                         int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1 && n > 1) schedule(static)
    for (long v = 0; v < n; v++)
        if (parts[v]) (level == 2 ? add_low_rank_avx512 : add_low_rank_avx2)(x + v * in, in, out, parts[v] + at, y + v * out);
}

static long product_scratch(const Shape *shape, long n, long width) {
    return shape->bits == 4 ? int4_scratch(n, width) : int8_scratch(n, width);
}

static long larger(long a, long b) { return a > b ? a : b; }

static long rounded(long bytes) { return (bytes + 63) / 64 * 64; }

/* Bytes of scratch memory for n sequences with keys up to `extent`. */
long gpt2_scratch(const Shape *shape, long n, long extent) {
    long attention = shape->heads * shape->head_width, wide = larger(shape->width, attention);
    return rounded(product_scratch(shape, n, larger(wide, shape->inner))) + 4 * (rounded(n * wide) +
           rounded(n * larger(shape->width, 3 * attention)) + rounded(n * shape->inner) + n * shape->heads * rounded(extent));
}

INLINE void blocks(float *x, long n, const Block *block, const Shape *shape, const Cache *cache, long extent,
                   const LowRank *const *parts, uint8_t *scratch, int level, int threads) {
    __typeof__(&int4_product) product = shape->bits == 4 ? int4_product : int8_product;
    long width = shape->width, inner = shape->inner, heads = shape->heads, d = shape->head_width, attention = heads * d;
    long wide = larger(width, attention);
    float *normed = (float *)(scratch + rounded(product_scratch(shape, n, larger(wide, inner))));
    float *qkv = normed + rounded(n * wide), *hidden = qkv + rounded(n * larger(width, 3 * attention));
    float *scores = hidden + rounded(n * inner);
    for (long layer = 0; layer < shape->layers; layer++, block++) {
        for (long v = 0; v < n; v++)
            layer_norm(x + v * width, block->norm1_gain, block->norm1_bias, shape->eps, width, normed + v * width);
        product(normed, n, width, 3 * attention, block->qkv, block->qkv_bias, qkv, scratch, level, threads);
        if (parts) add_adapters(normed, n, width, 3 * attention, parts, layer * LAYERS + QKV, qkv, level, threads);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
        for (long task = 0; task < n * heads; task++) {
            long v = task / heads, h = task % heads, position = cache->positions[v];
            long at = layer * cache->layer + v * cache->slot + h * cache->head;
            float *keys = cache->keys + at, *values = cache->values + at, *q = qkv + v * 3 * attention + h * d;
            __builtin_memcpy(keys + position * d, q + attention, d * sizeof(float));
            __builtin_memcpy(values + position * d, q + 2 * attention, d * sizeof(float));
            (level == 2 ? attend_avx512 : attend_avx2)(q, keys, values, position, d, scores + task * rounded(extent),
                                                      normed + v * attention + h * d);
        }
        product(normed, n, attention, width, block->out, block->out_bias, qkv, scratch, level, threads);
        if (parts) add_adapters(normed, n, attention, width, parts, layer * LAYERS + OUT, qkv, level, threads);
        for (long i = 0; i < n * width; i += LANES) store(x + i, load(x + i) + load(qkv + i));
        for (long v = 0; v < n; v++)
            layer_norm(x + v * width, block->norm2_gain, block->norm2_bias, shape->eps, width, normed + v * width);
        product(normed, n, width, inner, block->up, block->up_bias, hidden, scratch, level, threads);
        if (parts) add_adapters(normed, n, width, inner, parts, layer * LAYERS + UP, hidden, level, threads);
        gelu_tanh(hidden, n * inner);
        product(hidden, n, inner, width, block->down, block->down_bias, qkv, scratch, level, threads);
        if (parts) add_adapters(hidden, n, inner, width, parts, layer * LAYERS + DOWN, qkv, level, threads);
        for (long i = 0; i < n * width; i += LANES) store(x + i, load(x + i) + load(qkv + i));
    }
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,f16c")))
static void blocks_avx512(float *x, long n, const Block *block, const Shape *shape, const Cache *cache, long extent,
                          const LowRank *const *parts, uint8_t *scratch, int level, int threads) {
    blocks(x, n, block, shape, cache, extent, parts, scratch, level, threads);
}

__attribute__((target("avx2,fma,f16c")))
static void blocks_avx2(float *x, long n, const Block *block, const Shape *shape, const Cache *cache, long extent,
                        const LowRank *const *parts, uint8_t *scratch, int level, int threads) {
    blocks(x, n, block, shape, cache, extent, parts, scratch, level, threads);
}

/* Replace x (n, width) by the output of the last block; new keys and values are stored in the cache. `parts` is NULL if no
   vector has an adapter. */
void gpt2_blocks(float *x, long n, const Block *block, const Shape *shape, const Cache *cache, long extent,
                 const LowRank *const *parts, uint8_t *scratch, int level, int threads) {
    (level == 2 ? blocks_avx512 : blocks_avx2)(x, n, block, shape, cache, extent, parts, scratch, level, threads);
}
