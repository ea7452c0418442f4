/* Which instructions this processor has: 2 is AVX-512 with VNNI, 1 is AVX2, 0 is neither. */

#ifndef X86_C
#define X86_C
#include <immintrin.h>
#include <stdint.h>

#define TILE 16   /* rows that are packed together */
#define AT_ONCE 8 /* vectors multiplied by a part of a tile while it is in registers */
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,f16c"), always_inline)) static inline
#define AVX2 __attribute__((target("avx2,fma,f16c"), always_inline)) static inline

int x86_level(void) {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return 2;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

/* Four bytes as one number, for an instruction that repeats it. */
static inline int32_t four(const void *q) {
    int32_t value;
    __builtin_memcpy(&value, q, 4);
    return value;
}
#endif
