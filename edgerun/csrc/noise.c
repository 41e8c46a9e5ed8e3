/* Random words that are a pure function of their position. */
#include "edgerun.h"

static uint32_t mix(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

er_key er_noise_key(uint64_t seed, uint64_t update, uint32_t stream) {
    const uint32_t parts[5] = {(uint32_t)seed, (uint32_t)(seed >> 32), (uint32_t)update, (uint32_t)(update >> 32),
                               stream};
    uint32_t k = 0;
    for (int i = 0; i < 5; i++) k = mix((k ^ parts[i]) + 0x9e3779b9u);
    return (er_key){k, mix(k + 0x9e3779b9u)};
}
