/* One vector of f32, TDM_GEMM_LANES wide: the widest the instruction set has. */
#ifndef TANDEM_KERNELS_CPU_VEC_H
#define TANDEM_KERNELS_CPU_VEC_H

#include "kernels/cpu/gemm.h"

#include <string.h>

#define TDM_INLINE static inline __attribute__((always_inline))

typedef float tdm_vec __attribute__((vector_size(TDM_GEMM_LANES * 4)));

TDM_INLINE tdm_vec tdm_vec_zero(void) { return (tdm_vec){0}; }
TDM_INLINE tdm_vec tdm_vec_load(const float *p)
{
    tdm_vec v;
    memcpy(&v, p, sizeof v);
    return v;
}
TDM_INLINE void tdm_vec_store(float *p, tdm_vec v) { memcpy(p, &v, sizeof v); }
TDM_INLINE tdm_vec tdm_vec_set(float f) { return (tdm_vec){0} + f; }

/* a * b + c: one rounding where the instruction set has it, else two. Of products of bf16 these are the same. */
#if defined(TDM_ISA_avx512)
TDM_INLINE tdm_vec tdm_vec_fma(tdm_vec a, tdm_vec b, tdm_vec c) { return (tdm_vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#elif defined(TDM_ISA_avx2)
TDM_INLINE tdm_vec tdm_vec_fma(tdm_vec a, tdm_vec b, tdm_vec c) { return (tdm_vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
#else
TDM_INLINE tdm_vec tdm_vec_fma(tdm_vec a, tdm_vec b, tdm_vec c) { return a * b + c; }
#endif

#endif
