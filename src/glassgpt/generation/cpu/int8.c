/* Products of a few vectors with a matrix of 8-bit weights, for x86 with AVX2, faster with AVX-512 VNNI.

   A weight is integer * scale, with a scale per row. Vectors are rounded to 8 bits with a scale each, so that a product is
   one sum of integers, which is exact in any order:

       y[r] = bias[r] + scale[r] * xscale * sum_k w[r,k] q[k]

   The matrix is packed in tiles of 16 rows. A tile has a line of 64 bytes for each four columns, byte 4 r + b being column b of
   row r, then 16 scales, then 16 integers: -128 times the sum of the row. VNNI multiplies by bytes without sign, so it is given
   q + 128, and the sum begins with that integer. */

#include "x86.c"

#define SUPPLEMENT 128 /* bytes of a tile after its weights */

/* Bytes of scratch memory for n vectors: integers and their scales. */
long int8_scratch(long n, long width) { return n * width + n * (long)sizeof(float); }

/* Round a vector, whose scale is returned: NaN if one of the numbers is not finite. `flip` is 128 to add 128. */
__attribute__((target("avx2,fma,f16c")))
static float round_to_int8(const float *x, long width, uint8_t flip, uint8_t *q) {
    const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 peaks = _mm256_setzero_ps(), zeros = _mm256_setzero_ps();
    for (long k = 0; k < width; k += 8) {
        __m256 v = _mm256_loadu_ps(x + k);
        peaks = _mm256_max_ps(peaks, _mm256_and_ps(v, no_sign));
        zeros = _mm256_fmadd_ps(v, _mm256_setzero_ps(), zeros); /* 0 * NaN is NaN, while max drops it */
    }
    float peak[8], zero[8];
    _mm256_storeu_ps(peak, peaks);
    _mm256_storeu_ps(zero, zeros);
    for (int i = 1; i < 8; i++) {
        peak[0] = peak[i] > peak[0] ? peak[i] : peak[0];
        zero[0] += zero[i];
    }
    __m256 inverse = _mm256_set1_ps(peak[0] > 0 ? 127.0f / peak[0] : 0.0f);
    const __m128i flips = _mm_set1_epi8((char)flip);
    for (long k = 0; k < width; k += 16) {
        __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + k), inverse));
        __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + k + 8), inverse));
        __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
        __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128((__m128i *)(q + k), _mm_xor_si128(bytes, flips));
    }
    return peak[0] / 127.0f + zero[0];
}

VNNI void int8_tile_vnni(const int count, const uint8_t *tile, long width, const uint8_t *q, const float *scales,
                         const float *bias, float *out, long stride) {
    const uint8_t *end = tile + TILE * width;
    __m512i even[AT_ONCE], odd[AT_ONCE];
    for (int v = 0; v < count; v++) {
        even[v] = _mm512_loadu_si512(end + 64);
        odd[v] = _mm512_setzero_si512();
    }
    for (long k = 0; k < width; k += 8) {
        PREFETCH(tile + TILE * k, 2 * 64);
        __m512i w0 = _mm512_loadu_si512(tile + TILE * k), w1 = _mm512_loadu_si512(tile + TILE * k + 64);
        for (int v = 0; v < count; v++) {
            even[v] = _mm512_dpbusd_epi32(even[v], _mm512_set1_epi32(four(q + v * width + k)), w0);
            odd[v] = _mm512_dpbusd_epi32(odd[v], _mm512_set1_epi32(four(q + v * width + k + 4)), w1);
        }
    }
    __m512 scale = _mm512_loadu_ps(end), start = bias ? _mm512_loadu_ps(bias) : _mm512_setzero_ps();
    for (int v = 0; v < count; v++) {
        __m512 dot = _mm512_cvtepi32_ps(_mm512_add_epi32(even[v], odd[v]));
        _mm512_storeu_ps(out + v * stride, _mm512_fmadd_ps(_mm512_mul_ps(scale, _mm512_set1_ps(scales[v])), dot, start));
    }
}

AVX2 void int8_tile_avx2(const int count, const uint8_t *tile, long width, const uint8_t *q, const float *scales,
                         const float *bias, float *out, long stride) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int h = 0; h < 2; h++) { /* rows 0 to 7, then 8 to 15 */
        __m256i sum[AT_ONCE];
        for (int v = 0; v < count; v++) sum[v] = _mm256_setzero_si256();
        for (long k = 0; k < width; k += 4) {
            if (!h) PREFETCH(tile + TILE * k, 64);
            __m256i w = _mm256_loadu_si256((const __m256i *)(tile + TILE * k + 32 * h)), size = _mm256_abs_epi8(w);
            for (int v = 0; v < count; v++) { /* |w| times q with w's sign: two of at most 127 * 127 fit into 16 bits */
                __m256i x = _mm256_sign_epi8(_mm256_set1_epi32(four(q + v * width + k)), w);
                sum[v] = _mm256_add_epi32(sum[v], _mm256_madd_epi16(_mm256_maddubs_epi16(size, x), ones));
            }
        }
        __m256 scale = _mm256_loadu_ps((const float *)(tile + TILE * width) + 8 * h);
        __m256 start = bias ? _mm256_loadu_ps(bias + 8 * h) : _mm256_setzero_ps();
        for (int v = 0; v < count; v++) {
            __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(scales[v]));
            _mm256_storeu_ps(out + v * stride + 8 * h, _mm256_fmadd_ps(factor, _mm256_cvtepi32_ps(sum[v]), start));
        }
    }
}

#define INT8_COUNTS(tile_of) \
    switch (count) { \
        case 1: tile_of(1, tile, width, q, scales, bias, out, stride); break; \
        case 2: tile_of(2, tile, width, q, scales, bias, out, stride); break; \
        case 3: tile_of(3, tile, width, q, scales, bias, out, stride); break; \
        case 4: tile_of(4, tile, width, q, scales, bias, out, stride); break; \
        case 5: tile_of(5, tile, width, q, scales, bias, out, stride); break; \
        case 6: tile_of(6, tile, width, q, scales, bias, out, stride); break; \
        case 7: tile_of(7, tile, width, q, scales, bias, out, stride); break; \
        default: tile_of(AT_ONCE, tile, width, q, scales, bias, out, stride); \
    }

__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,f16c")))
static void int8_vnni(int count, const uint8_t *tile, long width, const uint8_t *q, const float *scales, const float *bias,
                      float *out, long stride) {
    INT8_COUNTS(int8_tile_vnni)
}

__attribute__((target("avx2,fma,f16c")))
static void int8_avx2(int count, const uint8_t *tile, long width, const uint8_t *q, const float *scales, const float *bias,
                      float *out, long stride) {
    INT8_COUNTS(int8_tile_avx2)
}

/* out (n, rows) = x (n, width) times the packed matrix, plus bias (rows) or NULL. rows and width are multiples of 16. */
void int8_product(const float *x, long n, long width, long rows, const uint8_t *packed, const float *bias, float *out,
                  uint8_t *scratch, int level, int threads) {
    uint8_t *q = scratch;
    float *scales = (float *)(scratch + n * width);
    for (long v = 0; v < n; v++) scales[v] = round_to_int8(x + v * width, width, level == 2 ? 128 : 0, q + v * width);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (long t = 0; t < rows / TILE; t++) {
        const uint8_t *tile = packed + t * (TILE * width + SUPPLEMENT);
        for (long v = 0; v < n; v += AT_ONCE) {
            int count = n - v < AT_ONCE ? (int)(n - v) : AT_ONCE;
            (level == 2 ? int8_vnni : int8_avx2)(count, tile, width, q + v * width, scales + v, bias ? bias + t * TILE : 0,
                                                out + v * rows + t * TILE, rows);
        }
    }
}
