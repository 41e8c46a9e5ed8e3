/* How near the kernels come to what the machine can do: times of each, and of loops that do nothing but read or multiply.
 * Prints a line a thing: kind, name, microseconds of a call, multiply-accumulates, bytes. Built and run by limits.py. */
#include "edgerun.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void *filled(size_t bytes) {
    unsigned char *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    for (size_t i = 0; i < bytes; i++) p[i] = (unsigned char)(rand() >> 7);
    return p;
}

/* The least of nine timings of `calls` calls. */
#define TIMED(kind, name, macs, bytes, calls, call) \
    do { \
        double best = 1e30; \
        for (int round = 0; round < 9; round++) { \
            const double began = now(); \
            for (int k = 0; k < (calls); k++) { call; } \
            const double took = (now() - began) / (calls); \
            if (took < best) best = took; \
        } \
        printf("%s|%s|%.4f|%.0f|%.0f\n", kind, name, best, (double)(macs), (double)(bytes)); \
    } while (0)

static volatile int64_t sink;

/* ---------------------------------------------------------------- what the machine can do */

#ifdef __AVX512BW__
static int64_t read_all(const char *p, size_t bytes) {
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (size_t i = 0; i + 256 <= bytes; i += 256) {
        a = _mm512_or_si512(a, _mm512_load_si512(p + i));
        b = _mm512_or_si512(b, _mm512_load_si512(p + i + 64));
        c = _mm512_or_si512(c, _mm512_load_si512(p + i + 128));
        d = _mm512_or_si512(d, _mm512_load_si512(p + i + 192));
    }
    return _mm512_reduce_add_epi64(_mm512_or_si512(_mm512_or_si512(a, b), _mm512_or_si512(c, d)));
}

/* Sums by name: an array of them would lie in memory where a compiler does not unroll. Eight hide the time of each. */
#define EIGHT(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
#define ZERO(k) __m512i s##k = _mm512_setzero_si512();
#define TOTAL(k) total += _mm512_reduce_add_epi32(s##k);

static int64_t multiply_words(int times) { /* int16 pairs: 32 a call of the instruction */
    const __m512i x = _mm512_set1_epi16(3), y = _mm512_set1_epi16(5);
    int64_t total = 0;
    EIGHT(ZERO)
#ifdef __AVX512VNNI__
#define PRODUCTS(sum) _mm512_dpwssd_epi32(sum, x, y)
#else
#define PRODUCTS(sum) _mm512_add_epi32(sum, _mm512_madd_epi16(x, y))
#endif
#define MADD(k) \
    s##k = PRODUCTS(s##k); \
    __asm__ volatile("" : "+v"(s##k));
    for (int i = 0; i < times; i++) { EIGHT(MADD) }
    EIGHT(TOTAL)
    return total;
}
#else
static int64_t read_all(const char *p, size_t bytes) {
    uint64_t a = 0;
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        uint64_t word;
        memcpy(&word, p + i, 8);
        a |= word;
    }
    return (int64_t)a;
}

static int64_t multiply_words(int times) {
    int32_t s[64] = {0};
    for (int i = 0; i < times; i++)
        for (int k = 0; k < 64; k++) s[k] += (int16_t)(s[k] ^ 3) * 5;
    int64_t total = 0;
    for (int k = 0; k < 64; k++) total += s[k];
    return total;
}
#endif

#ifdef __AVX512VNNI__
static int64_t multiply_bytes(int times) { /* 64 a call of the instruction */
    const __m512i x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(5);
    int64_t total = 0;
    EIGHT(ZERO)
#define DOT(k) \
    s##k = _mm512_dpbusd_epi32(s##k, x, y); \
    __asm__ volatile("" : "+v"(s##k));
    for (int i = 0; i < times; i++) { EIGHT(DOT) }
    EIGHT(TOTAL)
    return total;
}
#endif

static void machine(void) {
    static const int kilobytes[] = {16, 256, 512, 4096, 65536};
    for (size_t k = 0; k < sizeof kilobytes / sizeof *kilobytes; k++) {
        const size_t bytes = (size_t)kilobytes[k] << 10;
        char *p = filled(bytes), name[32];
        snprintf(name, sizeof name, "%d", kilobytes[k]);
        TIMED("read", name, 0, bytes, (int)(1 + ((size_t)1 << 26) / bytes), sink += read_all(p, bytes));
        free(p);
    }
    TIMED("multiply", "int16", 8.0 * 32 * 1000, 0, 200, sink += multiply_words(1000));
#ifdef __AVX512VNNI__
    TIMED("multiply", "int8", 8.0 * 64 * 1000, 0, 200, sink += multiply_bytes(1000));
#endif
}

/* ---------------------------------------------------------------- the kernels */

/* Numbers of a layer's requantisation, one a channel. */
static int32_t *multipliers(int32_t n) {
    int32_t *found = filled((size_t)n * 4);
    for (int32_t k = 0; k < n; k++) found[k] = 1 << 23;
    return found;
}

static uint8_t *shifts(int32_t n) {
    uint8_t *found = filled((size_t)n);
    for (int32_t k = 0; k < n; k++) found[k] = 36;
    return found;
}

static int16_t *values(size_t count) {
    int16_t *found = filled(count * 2);
    for (size_t i = 0; i < count; i++) found[i] = (int8_t)found[i];
    return found;
}

/* Weights as a processor multiplies them where no learning writes them; else as they lie. */
static void dense(int32_t m, int32_t n, int learns) {
    er_dense layer = {.inputs = m, .outputs = n, .qmin = -128, .qmax = 127, .weight = filled((size_t)m * (size_t)n),
                      .bias = calloc((size_t)n, 4), .multiplier = multipliers(n), .shift = shifts(n),
                      .x = values((size_t)m), .y = filled((size_t)n * 2)};
    const int64_t size = learns ? 0 : er_dense_packed(&layer);
    int8_t *packed = size ? filled((size_t)size) : NULL;
    if (packed) er_dense_pack(&layer, packed);
    layer.packed = packed;
    char name[64];
    snprintf(name, sizeof name, "dense %s%d-%d", learns ? "that learns " : "", m, n);
    TIMED("kernel", name, (double)m * n, (double)m * n + 9.0 * n + 2.0 * m, (int)(1 + 40000000 / ((int64_t)m * n)),
          er_dense_step(&layer));
}

/* The two layers that a keyword net is made of. */
static void convolutions(int32_t h, int32_t w, int32_t c) {
    const size_t image = (size_t)h * (size_t)w * (size_t)c;
    er_conv conv = {.outputs = h * w * c, .height = h, .width = w, .channels = c, .kernel_h = 1, .kernel_w = 1,
                    .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1, .out_h = h, .out_w = w,
                    .filters = c, .qmin = -128, .qmax = 127, .weight = filled((size_t)c * (size_t)c),
                    .bias = calloc((size_t)c, 4), .multiplier = multipliers(c), .shift = shifts(c),
                    .x = values(image), .y = filled(image * 2), .sums = filled((size_t)c * 4),
                    .window = filled((size_t)c * 2)};
    int8_t *packed = filled((size_t)er_conv_packed(&conv) + 1);
    er_conv_pack(&conv, packed);
    conv.packed = er_conv_packed(&conv) ? packed : NULL;
    char name[64];
    snprintf(name, sizeof name, "conv 1x1, %dx%d, %d to %d", h, w, c, c);
    TIMED("kernel", name, (double)image * c, (double)c * c + 4.0 * (double)image, 4000, er_conv_step(&conv));
    er_depthwise deep = {.outputs = h * w * c, .height = h, .width = w, .channels = c, .kernel_h = 3, .kernel_w = 3,
                         .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1, .top = 1, .left = 1,
                         .out_h = h, .out_w = w, .filters = c, .qmin = -128, .qmax = 127,
                         .weight = filled((size_t)c * 9), .bias = calloc((size_t)c, 4), .multiplier = multipliers(c),
                         .shift = shifts(c), .x = conv.x, .y = conv.y, .sums = conv.sums,
                         .taps = filled((size_t)c * 18)};
    int8_t *laid = filled((size_t)er_depthwise_packed(&deep) + 1);
    er_depthwise_pack(&deep, laid);
    deep.packed = er_depthwise_packed(&deep) ? laid : NULL;
    snprintf(name, sizeof name, "depthwise 3x3, %dx%d, %d", h, w, c);
    TIMED("kernel", name, 9.0 * (double)image, 9.0 * c + 4.0 * (double)image, 4000, er_depthwise_step(&deep));
}

static void lif(int32_t m, int32_t n, int32_t events, int32_t spikes) {
    er_lif layer = {.inputs = m, .outputs = n, .weight_exponent = 6, .threshold = 32767, .reset_delay = 1,
                    .input = filled((size_t)m * (size_t)n), .recurrent = filled((size_t)n * (size_t)n),
                    .bias = calloc((size_t)n, 4), .decay = filled((size_t)n * 2), .x = calloc((size_t)m, 2),
                    .v = calloc((size_t)n, 2), .carry = calloc((size_t)n, 2), .fired = calloc((size_t)n, 1),
                    .counts = calloc((size_t)n, 2), .sums = calloc((size_t)n, 4), .y = calloc((size_t)n, 2)};
    for (int32_t k = 0; k < n; k++) ((uint16_t *)layer.decay)[k] = 31000;
    for (int32_t k = 0; k < events; k++) ((int16_t *)layer.x)[k * (m / events)] = 1;
    char name[64];
    snprintf(name, sizeof name, "lif %d-%d, %d events, %d spikes", m, n, events, spikes);
    const double rows = events + spikes;
    TIMED("kernel", name, rows * n, rows * n + 17.0 * n + 2.0 * m, 20000, {
        for (int32_t k = 0; k < spikes; k++) layer.fired[k * (n / spikes)] = 1;
        er_lif_step(&layer, NULL);
    });
}

static void update(int32_t rows, int32_t columns, int32_t steps, int si) {
    const size_t size = (size_t)rows * (size_t)columns;
    int16_t *history = filled((size_t)steps * (size_t)rows * 2), *post = filled((size_t)steps * (size_t)columns * 2);
    for (size_t k = 0; k < (size_t)steps * (size_t)rows; k++) history[k] = (int16_t)(history[k] & 1023);
    for (size_t k = 0; k < (size_t)steps * (size_t)columns; k++) post[k] = (int16_t)(post[k] >> 6);
    er_plastic p = {.rows = rows, .columns = columns, .steps = steps, .eta = 1, .shift = 26, .max_step = 4096,
                    .gradient_shift = 8, .strength = 20, .damping = 1024, .history = history, .post = post,
                    .shadow = filled(size * 2), .weight = filled(size), .importance = si ? filled(size) : NULL,
                    .ref = si ? filled(size * 2) : NULL, .omega = si ? calloc(size, 4) : NULL};
    for (size_t k = 0; si && k < size; k++) p.importance[k] &= 127;
    for (size_t k = 0; k < size; k++) p.shadow[k] >>= 2;
    char name[64];
    snprintf(name, sizeof name, "update %dx%d, T = %d%s", rows, columns, steps, si ? ", with synaptic intelligence" : "");
    TIMED("kernel", name, (double)size * steps, (double)size * (si ? 17 : 6), (int)(1 + 100000000 / ((int64_t)size * (steps + 20))),
          sink += er_update(&p, 1, (uint64_t)sink));
}

int main(void) {
    machine();
    dense(64, 128, 0);
    dense(784, 400, 0);
    dense(400, 400, 0);
    dense(64, 128, 1);
    dense(784, 400, 1);
    convolutions(25, 5, 64);
    lif(700, 256, 10, 10);
    update(64, 128, 1, 0);
    update(64, 128, 1, 1);
    update(956, 256, 100, 0);
    update(956, 256, 100, 1);
    return 0;
}
