/* The sums of dense layers on x86-64 processors with AVX-512 VNNI: 64 products of 8 bits an instruction.
 *
 * The instruction multiplies unsigned by signed bytes: sum (w + 128) x - 128 sum x, where w + 128 is w with its top bit
 * turned and the second sum is the same for all rows. Values that do not fit int8 leave the work to the portable form.
 */
#include "dense_vnni.h"

#ifdef ER_VNNI
#include <immintrin.h>
#include <stddef.h>

enum { CHUNK = 2048 }; /* values of x that are narrowed at once: |sum (w + 128) x| < 2**27 */

#define ER_LEVEL __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

/* x8 <- x, filled up to a multiple of 64 with zeros; *total <- sum x. 0 where a value does not fit int8. */
ER_LEVEL static int narrow(int8_t *x8, int32_t *total, const int16_t *x, int32_t m) {
    const __m512i ones = _mm512_set1_epi16(1);
    __m512i sum = _mm512_setzero_si512();
    const int32_t whole = (m + 63) / 64 * 64;
    for (int32_t i = 0; i < whole; i += 32) {
        const int32_t left = m - i;
        const __mmask32 some = left >= 32 ? 0xffffffffu : left <= 0 ? 0u : (1u << left) - 1u;
        const __m512i wide = _mm512_maskz_loadu_epi16(some, x + i);
        const __m256i slim = _mm512_cvtepi16_epi8(wide);
        if (_mm512_cmpneq_epi16_mask(_mm512_cvtepi8_epi16(slim), wide)) return 0;
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(wide, ones));
        _mm256_storeu_si256((__m256i *)(void *)(x8 + i), slim);
    }
    *total = _mm512_reduce_add_epi32(sum);
    return 1;
}

/* (sum a, sum b, sum c, sum d) of 16 numbers each */
ER_LEVEL static __m128i four_sums(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

/* sums_k <- sum (w_k + 128) x of eight rows that lie `stride` apart: x is read once for all, and eight sums hide the
 * time that each takes. */
ER_LEVEL static void eight_rows(int32_t *sums, const int8_t *w, size_t stride, const int8_t *x8, int32_t m) {
/* Written out: an array of sums would lie in memory where a compiler does not unroll. */
#define EIGHT(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
#define ZERO(k) __m512i s##k = _mm512_setzero_si512();
#define WHOLE(k) s##k = _mm512_dpbusd_epi32(s##k, _mm512_xor_si512(_mm512_loadu_si512(w + k * stride + i), top), x);
#define PART(k) s##k = _mm512_dpbusd_epi32(s##k, _mm512_xor_si512(_mm512_maskz_loadu_epi8(some, w + k * stride + i), top), x);
    const __m512i top = _mm512_set1_epi8((char)0x80);
    EIGHT(ZERO)
    int32_t i = 0;
    for (; i + 64 <= m; i += 64) {
        const __m512i x = _mm512_loadu_si512(x8 + i);
        EIGHT(WHOLE)
    }
    if (i < m) {
        const __mmask64 some = ((__mmask64)1 << (m - i)) - 1;
        const __m512i x = _mm512_loadu_si512(x8 + i);
        EIGHT(PART)
    }
    _mm_storeu_si128((__m128i *)(void *)sums, four_sums(s0, s1, s2, s3));
    _mm_storeu_si128((__m128i *)(void *)(sums + 4), four_sums(s4, s5, s6, s7));
#undef PART
#undef WHOLE
#undef ZERO
#undef EIGHT
}

ER_LEVEL static int32_t one_row(const int8_t *w, const int8_t *x8, int32_t m) {
    const __m512i top = _mm512_set1_epi8((char)0x80);
    __m512i a = _mm512_setzero_si512();
    for (int32_t i = 0; i < m; i += 64) {
        const __mmask64 some = m - i >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << (m - i)) - 1;
        const __m512i row = _mm512_xor_si512(_mm512_maskz_loadu_epi8(some, w + i), top);
        a = _mm512_dpbusd_epi32(a, row, _mm512_loadu_si512(x8 + i));
    }
    return _mm512_reduce_add_epi32(a);
}

int er_vnni_sums(int32_t *sums, const int8_t *weight, const int16_t *x, const int32_t *bias, int32_t n, int32_t m) {
    int8_t x8[CHUNK];
    int32_t total;
    if (!__builtin_cpu_supports("avx512vnni") || m > CHUNK || !narrow(x8, &total, x, m)) return 0;
    const size_t stride = (size_t)m;
    int32_t k = 0;
    for (; k + 8 <= n; k += 8) eight_rows(sums + k, weight + (size_t)k * stride, stride, x8, m);
    for (; k < n; k++) sums[k] = one_row(weight + (size_t)k * stride, x8, m);
    for (k = 0; k < n; k++) /* parts of it may leave 32 bits, the sum does not */
        sums[k] = (int32_t)((uint32_t)sums[k] + (uint32_t)bias[k] - 128u * (uint32_t)total);
    return 1;
}
#endif
