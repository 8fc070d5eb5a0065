/* Eight bits for a number in [0, 1] or [-1, 1]: a code is an index into a sorted table whose steps grow with the value.
 * Source  bitsandbytes, create_dynamic_map and csrc/kernels.cu, quantize_2D: the nearest value, of two as near the one with the even index. */
#ifndef TANDEM_KERNELS_DYNAMIC_MAP_H
#define TANDEM_KERNELS_DYNAMIC_MAP_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __CUDACC__
#define TDM_MAP_FUNCTION __host__ __device__ static inline
#else
#define TDM_MAP_FUNCTION static inline
#endif

/* [0]: [0, 1]; [1]: [-1, 1], of which code 127 is 0. */
extern const float tdm_dynamic_map[2][256];
enum { TDM_DYNAMIC_ZERO = 127 };

/* The largest f32 that still belongs to a code below k + 1: halfway to the next value, and just below that where k is odd. */
TDM_MAP_FUNCTION float tdm_dynamic_bound(const float *map, int k)
{
    union { float f; uint32_t u; } half;
    half.f = (map[k] + map[k + 1]) * 0.5f;
    if (k % 2) half.u += half.f > 0.0f ? 0xffffffffu : 1u; /* towards minus infinity; no bound is 0 */
    return half.f;
}

/* How many of the 255 bounds lie below x. */
TDM_MAP_FUNCTION int tdm_dynamic_code(const float *bound, float x)
{
    int code = 0;
    for (int step = 128; step > 0; step /= 2)
        if (x > bound[code + step - 1]) code += step;
    return code;
}

/* A state that is below 0 stays so, as bitsandbytes has it: the code next to 0 rather than 0. */
TDM_MAP_FUNCTION int tdm_dynamic_signed_code(const float *bound, float x, bool negative)
{
    const int code = tdm_dynamic_code(bound, x);
    return negative && code == TDM_DYNAMIC_ZERO ? code - 1 : code;
}

#ifdef __cplusplus
}
#endif

#endif
