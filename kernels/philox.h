/* Philox4x32-10, a counter-based generator: the draw is a pure function of key and counter, so nothing need be "advanced".
 * Source  Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; the constants of Random123. */
#ifndef TANDEM_KERNELS_PHILOX_H
#define TANDEM_KERNELS_PHILOX_H

#include <stdint.h>

#ifdef __CUDACC__
#define TDM_HOST_DEVICE __host__ __device__
#else
#define TDM_HOST_DEVICE
#endif

typedef struct tdm_philox4 { uint32_t v[4]; } tdm_philox4;

TDM_HOST_DEVICE static inline tdm_philox4 tdm_philox(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
        const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    const tdm_philox4 out = {{c0, c1, c2, c3}};
    return out;
}

/* Uniform in (0, 1): 24 bits and a half, never 0 and never 1. */
TDM_HOST_DEVICE static inline float tdm_uniform(uint32_t u) { return ((float)(u >> 8) + 0.5f) * 0x1p-24f; }

#endif
