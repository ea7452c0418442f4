/* Products of a few vectors with a matrix of 4-bit weights, for x86 with AVX2, faster with AVX-512 VNNI.

   A weight is integer * scale + offset; 32 neighbouring columns of a row share scale and offset (float16). Vectors are
   rounded to 8 bits with a scale for each of their groups of 32, so that a group's products are sums of integers:

       y[r] = bias[r] + sum over groups g of  scale[r,g] * (xscale[g] * sum_k w[r,k] q[k])  +  offset[r,g] * sum_k x[k]

   The matrix is packed in tiles of 16 rows. For each group of columns a tile has a block of 320 bytes: four lines of 64
   bytes, then 16 scales, then 16 offsets. Byte 4 r + b of line j holds, for row r, column 8 j + b of the group in its low
   half and column 8 j + 4 + b in its high half: an instruction multiplies 4 columns of 16 rows.

   The result of a vector does not depend on the other vectors: the order of its sums is fixed. */

#include "x86.c"

#define GROUP 32
#define BLOCK 320

/* Bytes of scratch memory for n vectors: integers, their scales, and the sums of each group. */
long int4_scratch(long n, long width) { return n * width + 2 * n * (width / GROUP) * (long)sizeof(float); }

__attribute__((target("avx2,fma,f16c")))
static void quantize(const float *x, long groups, int8_t *q, float *scales, float *sums) {
    const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    for (long g = 0; g < groups; g++, x += GROUP, q += GROUP) {
        __m256 v[4], peak, sum;
        for (int i = 0; i < 4; i++) v[i] = _mm256_loadu_ps(x + 8 * i);
        peak = _mm256_max_ps(_mm256_max_ps(_mm256_and_ps(v[0], no_sign), _mm256_and_ps(v[1], no_sign)),
                             _mm256_max_ps(_mm256_and_ps(v[2], no_sign), _mm256_and_ps(v[3], no_sign)));
        sum = _mm256_add_ps(_mm256_add_ps(v[0], v[1]), _mm256_add_ps(v[2], v[3]));
        __m128 p = _mm_max_ps(_mm256_castps256_ps128(peak), _mm256_extractf128_ps(peak, 1));
        __m128 s = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
        p = _mm_max_ps(p, _mm_movehl_ps(p, p));
        s = _mm_add_ps(s, _mm_movehl_ps(s, s));
        p = _mm_max_ss(p, _mm_shuffle_ps(p, p, 1));
        s = _mm_add_ss(s, _mm_shuffle_ps(s, s, 1));
        float scale = _mm_cvtss_f32(p) / 127.0f;
        scales[g] = scale;
        sums[g] = _mm_cvtss_f32(s);
        __m256 inverse = _mm256_set1_ps(scale > 0 ? 1.0f / scale : 0.0f);
        __m256i i32[4];
        for (int i = 0; i < 4; i++) i32[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
        /* packs works within halves of 128 bits; the permutation puts the groups of four back in order */
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(i32[0], i32[1]), _mm256_packs_epi32(i32[2], i32[3]));
        bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)q, bytes);
    }
}

VNNI void tile_vnni(const int count, const uint8_t *block, long groups, long width, const int8_t *q, const float *scales,
                    const float *sums, const float *bias, float *out, long stride) {
    const __m512i low = _mm512_set1_epi8(15);
    __m512 total[AT_ONCE];
    for (int v = 0; v < count; v++) total[v] = bias ? _mm512_loadu_ps(bias) : _mm512_setzero_ps();
    for (long g = 0; g < groups; g++, block += BLOCK) {
        __m512i w[8];
        PREFETCH(block, BLOCK);
        for (int j = 0; j < 4; j++) {
            __m512i line = _mm512_loadu_si512(block + 64 * j);
            w[2 * j] = _mm512_and_si512(line, low);
            w[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16(line, 4), low);
        }
        __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(block + 256)));
        __m512 offset = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(block + 288)));
        for (int v = 0; v < count; v++) {
            const int8_t *x = q + v * width + GROUP * g;
            __m512i even = _mm512_setzero_si512(), odd = _mm512_setzero_si512();
            for (int j = 0; j < 8; j += 2) {
                even = _mm512_dpbusd_epi32(even, w[j], _mm512_set1_epi32(four(x + 4 * j)));
                odd = _mm512_dpbusd_epi32(odd, w[j + 1], _mm512_set1_epi32(four(x + 4 * j + 4)));
            }
            __m512 dot = _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
            total[v] = _mm512_fmadd_ps(_mm512_mul_ps(scale, _mm512_set1_ps(scales[v * groups + g])), dot, total[v]);
            total[v] = _mm512_fmadd_ps(offset, _mm512_set1_ps(sums[v * groups + g]), total[v]);
        }
    }
    for (int v = 0; v < count; v++) _mm512_storeu_ps(out + v * stride, total[v]);
}

AVX2 void tile_avx2(const int count, const uint8_t *block, long groups, long width, const int8_t *q, const float *scales,
                    const float *sums, const float *bias, float *out, long stride) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256 total[AT_ONCE][2];
    for (int v = 0; v < count; v++)
        for (int h = 0; h < 2; h++) total[v][h] = bias ? _mm256_loadu_ps(bias + 8 * h) : _mm256_setzero_ps();
    for (long g = 0; g < groups; g++, block += BLOCK) {
        PREFETCH(block, BLOCK);
        for (int h = 0; h < 2; h++) { /* rows 0 to 7, then 8 to 15 */
            __m256i w[8];
            for (int j = 0; j < 4; j++) {
                __m256i line = _mm256_loadu_si256((const __m256i *)(block + 64 * j + 32 * h));
                w[2 * j] = _mm256_and_si256(line, low);
                w[2 * j + 1] = _mm256_and_si256(_mm256_srli_epi16(line, 4), low);
            }
            __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(block + 256 + 16 * h)));
            __m256 offset = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(block + 288 + 16 * h)));
            for (int v = 0; v < count; v++) {
                const int8_t *x = q + v * width + GROUP * g;
                __m256i sum = _mm256_setzero_si256(); /* 16 products of at most 15 * 127 fit into 16 bits */
                for (int j = 0; j < 8; j++)
                    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w[j], _mm256_set1_epi32(four(x + 4 * j))));
                __m256 dot = _mm256_cvtepi32_ps(_mm256_madd_epi16(sum, ones));
                total[v][h] = _mm256_fmadd_ps(_mm256_mul_ps(scale, _mm256_set1_ps(scales[v * groups + g])), dot, total[v][h]);
                total[v][h] = _mm256_fmadd_ps(offset, _mm256_set1_ps(sums[v * groups + g]), total[v][h]);
            }
        }
    }
    for (int v = 0; v < count; v++)
        for (int h = 0; h < 2; h++) _mm256_storeu_ps(out + v * stride + 8 * h, total[v][h]);
}

#define ALL_COUNTS(tile) \
    switch (count) { \
        case 1: tile(1, block, groups, width, q, scales, sums, bias, out, stride); break; \
        case 2: tile(2, block, groups, width, q, scales, sums, bias, out, stride); break; \
        case 3: tile(3, block, groups, width, q, scales, sums, bias, out, stride); break; \
        case 4: tile(4, block, groups, width, q, scales, sums, bias, out, stride); break; \
        case 5: tile(5, block, groups, width, q, scales, sums, bias, out, stride); break; \
        case 6: tile(6, block, groups, width, q, scales, sums, bias, out, stride); break; \
        case 7: tile(7, block, groups, width, q, scales, sums, bias, out, stride); break; \
        default: tile(AT_ONCE, block, groups, width, q, scales, sums, bias, out, stride); \
    }

__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,f16c")))
static void any_vnni(int count, const uint8_t *block, long groups, long width, const int8_t *q, const float *scales,
                     const float *sums, const float *bias, float *out, long stride) {
    ALL_COUNTS(tile_vnni)
}

__attribute__((target("avx2,fma,f16c")))
static void any_avx2(int count, const uint8_t *block, long groups, long width, const int8_t *q, const float *scales,
                     const float *sums, const float *bias, float *out, long stride) {
    ALL_COUNTS(tile_avx2)
}

/* out (n, rows) = x (n, width) times the packed matrix, plus bias (rows) or NULL. rows is a multiple of 16. */
void int4_product(const float *x, long n, long width, long rows, const uint8_t *packed, const float *bias, float *out,
                  uint8_t *scratch, int level, int threads) {
    long groups = width / GROUP;
    int8_t *q = (int8_t *)scratch;
    float *scales = (float *)(scratch + n * width), *sums = scales + n * groups;
    for (long v = 0; v < n; v++) quantize(x + v * width, groups, q + v * width, scales + v * groups, sums + v * groups);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (long t = 0; t < rows / TILE; t++) {
        const uint8_t *block = packed + t * groups * BLOCK;
        for (long v = 0; v < n; v += AT_ONCE) {
            int count = n - v < AT_ONCE ? (int)(n - v) : AT_ONCE;
            (level == 2 ? any_vnni : any_avx2)(count, block, groups, width, q + v * width, scales + v * groups,
                                              sums + v * groups, bias ? bias + t * TILE : 0, out + v * rows + t * TILE, rows);
        }
    }
}
