/* From 16 sums to 16 outputs by one rounded multiply-add of floats, to the bit.
 *
 * y = clip(floor(v)), v = sum * m / 2**s + zero_point + 1/2. m < 2**24, so m / 2**s is a float, and so are a sum within
 * +-2**24 and zero_point + 1/2. The multiply-add rounds v, and nothing before it, down: to the largest float f <= v.
 * Integers within +-2**24 are floats: n <= v is n <= f, and floor(f) = floor(v). Beyond them f and v lie on the same side
 * of the clip, which is of 16 bits. Other sums take doubles, of which all this holds up to 2**53.
 */
#ifndef EDGERUN_ROUNDING_VNNI_H
#define EDGERUN_ROUNDING_VNNI_H

#include "dense_vnni.h"

#ifdef ER_VNNI
#include <immintrin.h>
#include <string.h>

#define ER_LEVEL __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define ER_DOWN (_MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)
#define ER_EXACT (1 << 24) /* integers up to it are floats */

/* What is the same for all of a layer. */
typedef struct er_rounding {
    __m512 start; /* zero_point + 1/2 */
    __m512i low, high; /* qmin, qmax in 16 bits */
} er_rounding;

/* Whether zero_point and clip are as small as all this takes them to be. */
static inline int er_rounds(int32_t zero_point, int32_t qmin, int32_t qmax) {
    return er_sat16(zero_point) == zero_point && er_sat16(qmin) == qmin && er_sat16(qmax) == qmax && qmin <= qmax;
}

ER_LEVEL static inline er_rounding er_rounding_of(int32_t zero_point, int32_t qmin, int32_t qmax) {
    const er_rounding found = {_mm512_set1_ps((float)zero_point + 0.5f), _mm512_set1_epi16((short)qmin),
                               _mm512_set1_epi16((short)qmax)};
    return found;
}

ER_LEVEL static inline __m256 er_half(__m512 lanes, int upper) {
    const __m512d all = _mm512_castps_pd(lanes);
    return _mm256_castpd_ps(upper ? _mm512_extractf64x4_pd(all, 1) : _mm512_castpd512_pd256(all));
}

ER_LEVEL static inline __m256i er_floor_half(__m256i sums, __m512 factor, __m512 start, int upper) {
    const __m512d m = _mm512_cvtps_pd(er_half(factor, upper)), begin = _mm512_cvtps_pd(er_half(start, upper));
    const __m512d v = _mm512_fmadd_round_pd(_mm512_cvtepi32_pd(sums), m, begin, ER_DOWN);
    const __m512d most = _mm512_set1_pd(ER_EXACT); /* what lies beyond 32 bits becomes INT32_MIN */
    return _mm512_cvt_roundpd_epi32(_mm512_min_pd(v, most), ER_DOWN);
}

/* floor(v); factor is m / 2**s. By doubles where `wide`, and then at most ER_EXACT. */
ER_LEVEL static inline __m512i er_floor(__m512i sums, __m512 factor, const er_rounding *to, const int wide) {
    if (wide) {
        const __m256i low = er_floor_half(_mm512_castsi512_si256(sums), factor, to->start, 0);
        const __m256i high = er_floor_half(_mm512_extracti64x4_epi64(sums, 1), factor, to->start, 1);
        return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
    const __m512 v = _mm512_fmadd_round_ps(_mm512_cvtepi32_ps(sums), factor, to->start, ER_DOWN);
    return _mm512_cvt_roundps_epi32(v, ER_DOWN);
}

/* What er_floor gave, two times 16 of them, in 16 bits and clipped: 4 of a, 4 of b, 4 of a, and so on. */
ER_LEVEL static inline __m512i er_clipped(__m512i a, __m512i b, const er_rounding *to) {
    return _mm512_min_epi16(_mm512_max_epi16(_mm512_packs_epi32(a, b), to->low), to->high);
}

/* What rounding a filter takes, beside its weights w (taps,): lane `lane` of three rows of `row` bytes, where its sums
 * start, its factor and its zero point. The byte behind them is 1 where sums of any of their lanes are not for er_floor.
 */
static inline void er_lay_tail(int8_t *tail, int32_t row, int32_t lane, const int8_t *w, int32_t taps, int32_t bias,
                               int32_t m, int32_t s, int32_t zero) {
    int64_t sum = 0, reach = bias < 0 ? -(int64_t)bias : bias;
    for (int32_t t = 0; t < taps; t++) {
        sum += w[t] - zero;
        reach += 128 * (w[t] < zero ? zero - w[t] : w[t] - zero);
    }
    const uint32_t start = (uint32_t)bias - 128u * (uint32_t)sum; /* of sums over x + 128 */
    const float factor = (float)m / (float)((int64_t)1 << s);
    memcpy(tail + 4 * lane, &start, sizeof start);
    memcpy(tail + row + 4 * lane, &factor, sizeof factor);
    memcpy(tail + 2 * row + 4 * lane, &zero, sizeof zero);
    tail[3 * row] |= reach > ER_EXACT || reach * m >> s >= ER_EXACT;
}

ER_LEVEL static inline __m512i er_load(const void *lanes) { return _mm512_loadu_si512(lanes); }
ER_LEVEL static inline __m512 er_load_factors(const void *lanes) { return _mm512_castsi512_ps(er_load(lanes)); }
#endif

#endif
