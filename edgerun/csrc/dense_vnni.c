/* The sums of dense layers on x86-64 processors with AVX-512 VNNI: 64 products of 8 bits an instruction.
 *
 * The instruction multiplies unsigned by signed bytes: sum (w + 128) x - 128 sum x, where w + 128 is w with its top bit
 * turned and the second sum is the same for all rows. Values that do not fit int8 leave the work to the portable form.
 */
#include "dense_vnni.h"

#ifdef ER_VNNI
#include <immintrin.h>
#include <stddef.h>
#include <string.h>

#include "kinds.h"

enum {
    CHUNK = 8192, /* values of x that are narrowed at once, on the stack */
    LANES = 16,   /* rows of a panel */
    WIDE = 4      /* panels side by side */
};

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
#define PART(k) \
    s##k = _mm512_dpbusd_epi32(s##k, _mm512_xor_si512(_mm512_maskz_loadu_epi8(some, w + k * stride + i), top), x);
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

/* ---------------------------------------------------------------- from sums to outputs */

/* The first n of 16 lanes. */
static __mmask16 first_of(int32_t n) { return n >= LANES ? 0xffff : (__mmask16)((1u << n) - 1u); }

/* clip((sum * m + 2**(s-1)) >> s, low, high) of every other lane, as 64 bits: ((sum * m >> less) + 1) >> 1 with less =
 * s - 1, the same floor.
 */
ER_LEVEL static __m512i quotient(__m512i sums, __m512i m, __m512i less, __m512i low, __m512i high) {
    const __m512i twice = _mm512_srav_epi64(_mm512_mul_epi32(sums, m), less);
    const __m512i found = _mm512_srai_epi64(_mm512_add_epi64(twice, _mm512_set1_epi64(1)), 1);
    return _mm512_min_epi64(_mm512_max_epi64(found, low), high);
}

/* y <- requantised sums, n of 16. Bounds are less zero_point, which is added to what they leave. */
ER_LEVEL static void requant_lanes(int16_t *y, __m512i sums, const int32_t *multiplier, const uint8_t *shift,
                                   int32_t zero_point, __m512i low, __m512i high, int32_t n) {
    const __mmask16 some = first_of(n);
    const __m512i m = _mm512_maskz_loadu_epi32(some, multiplier);
    const __m512i s = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(some, shift));
    const __m512i less = _mm512_maskz_sub_epi32(some, s, _mm512_set1_epi32(1));
    const __m512i even = quotient(sums, m, _mm512_and_si512(less, _mm512_set1_epi64(0xffffffff)), low, high);
    const __m512i odd =
        quotient(_mm512_srli_epi64(sums, 32), _mm512_srli_epi64(m, 32), _mm512_srli_epi64(less, 32), low, high);
    const __m512i all = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
    const __m512i found = _mm512_add_epi32(all, _mm512_set1_epi32(zero_point));
    _mm256_mask_storeu_epi16(y, some, _mm512_cvtepi32_epi16(found));
}

ER_LEVEL int er_vnni_requant(int16_t *y, const int32_t *sums, const int32_t *multiplier, const uint8_t *shift,
                             int32_t zero_point, int32_t low, int32_t high, int32_t n) {
    if (!__builtin_cpu_supports("avx512vnni")) return 0;
    const __m512i least = _mm512_set1_epi64((int64_t)low - zero_point);
    const __m512i most = _mm512_set1_epi64((int64_t)high - zero_point);
    for (int32_t k = 0; k < n; k += LANES) {
        const __m512i some = _mm512_maskz_loadu_epi32(first_of(n - k), sums + k);
        requant_lanes(y + k, some, multiplier + k, shift + k, zero_point, least, most, n - k);
    }
    return 1;
}

/* ---------------------------------------------------------------- packed rows
 *
 * 16 rows are a panel: their starts, bias - 128 sum w, so that x + 128 may be the unsigned factor; then 4 weights of
 * each row in turn, 64 bytes for one instruction. Of as many panels as are whole eights, four lie side by side, and the
 * first half of these fours is read beside the second: two streams are what the cache gives fastest. The others follow
 * one by one. Missing rows and weights are 0.
 */
static int32_t panels_of(int32_t n) { return n / LANES + (n % LANES != 0); }
static int32_t fours_of(int32_t m) { return m / 4 + (m % 4 != 0); }
static int32_t eights_of(int32_t n) { return panels_of(n) / (2 * WIDE); }
/* Which panel is number k of those that the p-th of all eights reads together. */
static int32_t panel_of(int32_t eights, int32_t p, int32_t k) {
    return k < WIDE ? WIDE * p + k : WIDE * (eights + p - 1) + k;
}

int64_t er_vnni_packed(int32_t n, int32_t m) {
    if (!__builtin_cpu_supports("avx512vnni") || n < 1 || m < 1 || m > CHUNK) return 0;
    return (int64_t)panels_of(n) * LANES * 4 * (1 + fours_of(m));
}

/* Weights of rows k .. k + LANES * panels - 1, side by side; returns the place behind. */
static int8_t *lay_rows(int8_t *packed, const int8_t *weight, int32_t k, int32_t panels, int32_t n, int32_t m) {
    for (int32_t i = 0; i < m; i += 4)
        for (int32_t row = k; row < k + LANES * panels; row++)
            for (int32_t t = i; t < i + 4; t++)
                *packed++ = (int8_t)(row < n && t < m ? weight[(size_t)row * (size_t)m + (size_t)t] : 0);
    return packed;
}

void er_vnni_pack(int8_t *packed, const int8_t *weight, const int32_t *bias, int32_t n, int32_t m) {
    const int32_t panels = panels_of(n);
    if (!er_vnni_packed(n, m)) return;
    for (int32_t k = 0; k < panels * LANES; k++, packed += 4) {
        uint32_t start = k < n ? (uint32_t)bias[k] : 0;
        for (int32_t i = 0; k < n && i < m; i++) start -= 128u * (uint32_t)weight[(size_t)k * (size_t)m + (size_t)i];
        memcpy(packed, &start, sizeof start);
    }
    for (int32_t p = 0, wide; p < panels; p += wide) {
        wide = p < 2 * WIDE * eights_of(n) ? WIDE : 1;
        packed = lay_rows(packed, weight, p * LANES, wide, n, m);
    }
}

ER_LEVEL static __m512i four_values(const uint8_t *x8, int32_t g) {
    int32_t four;
    memcpy(&four, x8 + 4 * g, sizeof four);
    return _mm512_set1_epi32(four);
}

/* sums (8,) += the products of eight panels, four at w and four at v */
ER_LEVEL static void eight_panels(__m512i *sums, const int8_t *w, const int8_t *v, const uint8_t *x8, int32_t fours) {
#define EIGHT(DO) DO(0, w) DO(1, w) DO(2, w) DO(3, w) DO(4, v) DO(5, v) DO(6, v) DO(7, v)
#define TAKE(k, from) __m512i s##k = sums[k];
#define ADD(k, from) s##k = _mm512_dpbusd_epi32(s##k, x, _mm512_loadu_si512(from + k % WIDE * LANES * 4));
#define GIVE(k, from) sums[k] = s##k;
    EIGHT(TAKE)
    for (int32_t g = 0; g < fours; g++, w += WIDE * LANES * 4, v += WIDE * LANES * 4) {
        const __m512i x = four_values(x8, g);
        EIGHT(ADD)
    }
    EIGHT(GIVE)
#undef GIVE
#undef ADD
#undef TAKE
#undef EIGHT
}

/* The same of one: four sums hide the time that each takes. */
ER_LEVEL static __m512i one_panel(__m512i s0, const int8_t *w, const uint8_t *x8, int32_t fours) {
    __m512i s1 = _mm512_setzero_si512(), s2 = s1, s3 = s1;
    int32_t g = 0;
    for (; g + 4 <= fours; g += 4, w += 256) {
        s0 = _mm512_dpbusd_epi32(s0, four_values(x8, g), _mm512_loadu_si512(w));
        s1 = _mm512_dpbusd_epi32(s1, four_values(x8, g + 1), _mm512_loadu_si512(w + 64));
        s2 = _mm512_dpbusd_epi32(s2, four_values(x8, g + 2), _mm512_loadu_si512(w + 128));
        s3 = _mm512_dpbusd_epi32(s3, four_values(x8, g + 3), _mm512_loadu_si512(w + 192));
    }
    for (; g < fours; g++, w += 64) s0 = _mm512_dpbusd_epi32(s0, four_values(x8, g), _mm512_loadu_si512(w));
    return _mm512_add_epi32(_mm512_add_epi32(s0, s1), _mm512_add_epi32(s2, s3));
}

/* n packed rows of weights and how they are walked through: eights, then single panels. */
typedef struct walk {
    const int8_t *starts, *w;
    int32_t eights, panels, fours;
} walk;

static walk walk_of(const int8_t *packed, int32_t n, int32_t m) {
    return (walk){packed, packed + (size_t)panels_of(n) * LANES * 4, eights_of(n), panels_of(n), fours_of(m)};
}

ER_LEVEL static __m512i start_of(const walk *all, int32_t panel) {
    return _mm512_loadu_si512(all->starts + (size_t)panel * LANES * 4);
}

static const int8_t *weights_of(const walk *all, int32_t panel) {
    return all->w + (size_t)panel * (size_t)all->fours * LANES * 4;
}

/* sums (8,) <- those of the p-th eight */
ER_LEVEL static void eight_sums(__m512i *sums, const walk *all, int32_t p, const uint8_t *x8) {
    for (int32_t k = 0; k < 2 * WIDE; k++) sums[k] = start_of(all, panel_of(all->eights, p, k));
    eight_panels(sums, weights_of(all, WIDE * p), weights_of(all, WIDE * (all->eights + p)), x8, all->fours);
}

ER_LEVEL static __m512i one_sums(const walk *all, int32_t panel, const uint8_t *x8) {
    return one_panel(start_of(all, panel), weights_of(all, panel), x8, all->fours);
}

/* bytes <- x + 128, filled up to a multiple of 32. 0 where a value does not fit int8. */
ER_LEVEL static int raise(uint8_t *bytes, const int16_t *x, int32_t m) {
    __m512i all = _mm512_setzero_si512();
    for (int32_t i = 0; i < m; i += 32) {
        const __mmask32 some = m - i >= 32 ? 0xffffffffu : (1u << (m - i)) - 1u;
        const __m512i raised = _mm512_add_epi16(_mm512_maskz_loadu_epi16(some, x + i), _mm512_set1_epi16(128));
        all = _mm512_or_si512(all, raised);
        _mm256_storeu_si256((__m256i *)(void *)(bytes + i), _mm512_cvtepi16_epi8(raised));
    }
    return !_mm512_test_epi16_mask(all, _mm512_set1_epi16((int16_t)0xff00));
}

/* zero * sum x of 16 rows, first of them row k. */
ER_LEVEL static __m512i zeros_part(const er_dense *r, int32_t k) {
    uint32_t total = 0;
    for (int32_t i = 0; i < r->inputs; i++) total += (uint32_t)r->x[i];
    const __m128i zero = _mm_maskz_loadu_epi8(first_of(r->outputs - k), r->weight_zero + k);
    return _mm512_mullo_epi32(_mm512_cvtepi8_epi32(zero), _mm512_set1_epi32((int32_t)total));
}

ER_LEVEL static void give_outputs(const er_dense *r, int32_t panel, __m512i sums, __m512i low, __m512i high) {
    const int32_t row = panel * LANES;
    if (r->weight_zero) sums = _mm512_sub_epi32(sums, zeros_part(r, row));
    requant_lanes(r->y + row, sums, r->multiplier + row, r->shift + row, r->zero_point, low, high, r->outputs - row);
}

ER_LEVEL int er_vnni_dense(const er_dense *r) {
    uint8_t x8[CHUNK];
    if (!er_vnni_packed(r->outputs, r->inputs) || !raise(x8, r->x, r->inputs)) return 0;
    const __m512i low = _mm512_set1_epi64((int64_t)r->qmin - r->zero_point);
    const __m512i high = _mm512_set1_epi64((int64_t)r->qmax - r->zero_point);
    const walk all = walk_of(r->packed, r->outputs, r->inputs);
    for (int32_t p = 0; p < all.eights; p++) {
        __m512i sums[2 * WIDE];
        eight_sums(sums, &all, p, x8);
        for (int32_t k = 0; k < 2 * WIDE; k++) give_outputs(r, panel_of(all.eights, p, k), sums[k], low, high);
    }
    for (int32_t p = 2 * WIDE * all.eights; p < all.panels; p++)
        give_outputs(r, p, one_sums(&all, p, x8), low, high);
    return 1;
}

/* sums * m >> s, half up, as ((sums * m >> (s - 1)) + 1) >> 1: even lanes and odd ones, for products have 64 bits. */
ER_LEVEL static __m512i rescaled(__m512i sums, __m512i m, __m512i s) {
    const __m512i but_one = _mm512_sub_epi32(s, _mm512_set1_epi32(1));
    const __m512i even = _mm512_srav_epi64(_mm512_mul_epi32(sums, m), _mm512_and_si512(but_one, _mm512_set1_epi64(63)));
    const __m512i odd = _mm512_srav_epi64(_mm512_mul_epi32(_mm512_srli_epi64(sums, 32), _mm512_srli_epi64(m, 32)),
                                          _mm512_srli_epi64(but_one, 32));
    const __m512i both = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
    return _mm512_srai_epi32(_mm512_add_epi32(both, _mm512_set1_epi32(1)), 1);
}

/* The end of a panel's rows, from `row` on. */
ER_LEVEL static void finish(const er_rows *r, int32_t row, __m512i sums) {
    const int32_t left = r->last - row;
    if (left <= 0 || row + LANES <= r->first) return;
    const __mmask16 some = left < LANES ? (__mmask16)((1u << left) - 1u) : (__mmask16)0xffff;
    if (r->multiplier)
        sums = rescaled(sums, _mm512_maskz_loadu_epi32(some, r->multiplier + row),
                        _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(some, r->shift + row)));
    _mm512_mask_storeu_epi32(r->sums + row, some, sums);
}

/* Whether `panels` panels from `panel` on have rows that are asked for. */
static int asked(const er_rows *r, int32_t panel, int32_t panels) {
    return panel * LANES < r->last && (panel + panels) * LANES > r->first;
}

ER_LEVEL int er_vnni_rows(const er_rows *r, const int16_t *x, int32_t m) {
    uint8_t x8[CHUNK];
    if (!er_vnni_packed(r->rows, m) || !raise(x8, x, m)) return 0;
    const walk all = walk_of(r->packed, r->rows, m);
    for (int32_t p = 0; p < all.eights; p++) {
        __m512i sums[2 * WIDE];
        if (!asked(r, WIDE * p, WIDE) && !asked(r, WIDE * (all.eights + p), WIDE)) continue;
        eight_sums(sums, &all, p, x8);
        for (int32_t k = 0; k < 2 * WIDE; k++) finish(r, panel_of(all.eights, p, k) * LANES, sums[k]);
    }
    for (int32_t p = 2 * WIDE * all.eights; p < all.panels; p++)
        if (asked(r, p, 1)) finish(r, p * LANES, one_sums(&all, p, x8));
    return 1;
}
#endif
