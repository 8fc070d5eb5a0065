/* Every source file of kernels/cpu is compiled once per instruction set, TDM_ISA=portable, avx2 or avx512 and TDM_ISA_<set>=1 defined.
 * Whatever such a file shows outside itself is named through TDM_CPU, so that the three copies do not collide:
 * TDM_CPU(rms_norm) is tdm_cpu_rms_norm_avx512 in the AVX-512 build. Everything else there is static.
 *
 *   portable   plain C, any machine
 *   avx2       AVX2, FMA, F16C, BMI2
 *   avx512     AVX-512 F, BW, DQ, VL, VBMI, BF16 (Zen 4, Sapphire Rapids and later) */
#ifndef TANDEM_KERNELS_CPU_ISA_H
#define TANDEM_KERNELS_CPU_ISA_H

#ifndef TDM_ISA
#error "kernels/cpu/*.c is compiled with TDM_ISA set; see kernels/CMakeLists.txt"
#endif

#define TDM_CPU_PASTE_(name, isa) tdm_cpu_##name##_##isa
#define TDM_CPU_PASTE(name, isa) TDM_CPU_PASTE_(name, isa)
#define TDM_CPU(name) TDM_CPU_PASTE(name, TDM_ISA)
#define TDM_CPU_STRING_(isa) #isa
#define TDM_CPU_STRING(isa) TDM_CPU_STRING_(isa)
#define TDM_ISA_NAME TDM_CPU_STRING(TDM_ISA)

#if defined(TDM_ISA_avx2) || defined(TDM_ISA_avx512)
#include <immintrin.h>
#endif

#endif
