/* Which instructions this processor has: 2 is AVX-512 with VNNI, 1 is AVX2, 0 is neither. */

#ifndef X86_C
#define X86_C
#include <immintrin.h>
#include <stdint.h>

#define TILE 16   /* rows that are packed together */
#define AT_ONCE 8 /* vectors multiplied by a part of a tile while it is in registers */
#define AHEAD 2560 /* bytes: with them requested early, a core reads 10.5 instead of 9.4 GB/s (docs/log.md) */
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,f16c"), always_inline)) static inline
#define AVX2 __attribute__((target("avx2,fma,f16c"), always_inline)) static inline

int x86_level(void) {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return 2;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

/* Request the bytes that are read after the next `AHEAD`; an address that does not exist is no error. A macro, because GCC
   removes calls of a function that does nothing else. */
#define PREFETCH(block, bytes) \
    for (int line = 0; line < (bytes); line += 64) _mm_prefetch((const char *)(block) + AHEAD + line, _MM_HINT_T0)

/* Four bytes as one number, for an instruction that repeats it. */
static inline int32_t four(const void *q) {
    int32_t value;
    __builtin_memcpy(&value, q, 4);
    return value;
}
#endif
