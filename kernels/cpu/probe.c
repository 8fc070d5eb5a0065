/* What the machine can do: multiply-adds out of registers, and bytes out of memory. */
#include "kernels/cpu/ops_cpu.h"

#include <string.h>

enum { REPEATS = 7, STEPS = 1 << 20, CHAINS = 12 };

typedef struct probe_job {
    const char *region;
    size_t piece; /* bytes that a thread reads at a time */
} probe_job;

/* CHAINS independent accumulators hide the latency of the instruction. Returns the FLOPs of one call. */
#if defined(TDM_ISA_avx512)
#define EACH(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
#define START(i) __m512 a##i = x;
#define STEP(i) a##i = _mm512_dpbf16_ps(a##i, (__m512bh)x, (__m512bh)x); __asm__ volatile("" : "+v"(a##i));
enum { FLOPS_A_STEP = 64 };
#elif defined(TDM_ISA_avx2)
#define EACH(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
#define START(i) __m256 a##i = x;
#define STEP(i) a##i = _mm256_fmadd_ps(x, x, a##i); __asm__ volatile("" : "+x"(a##i));
enum { FLOPS_A_STEP = 16 };
#else
typedef float quad __attribute__((vector_size(16)));
#define EACH(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
#define START(i) quad a##i = x;
#define STEP(i) a##i = a##i * x + x; __asm__ volatile("" : "+x"(a##i));
enum { FLOPS_A_STEP = 8 };
#endif

static void multiply(void *ctx, int64_t first, int64_t last, int thread)
{
    (void)ctx;
    (void)thread;
#if defined(TDM_ISA_avx512)
    const __m512 x = _mm512_setzero_ps();
#elif defined(TDM_ISA_avx2)
    const __m256 x = _mm256_setzero_ps();
#else
    const quad x = {0};
#endif
    for (int64_t part = first; part < last; part++) {
        EACH(START)
        for (int i = 0; i < STEPS; i++) { EACH(STEP) }
    }
}

static void read_bytes(void *ctx, int64_t first, int64_t last, int thread)
{
    const probe_job *j = ctx;
    uint64_t sum = 0;
    (void)thread;
    for (int64_t part = first; part < last; part++) {
        const char *p = j->region + (size_t)part * j->piece;
        for (size_t i = 0; i < j->piece; i += 64) {
            uint64_t v[8];
            memcpy(v, p + i, sizeof v);
            sum += v[0] ^ v[1] ^ v[2] ^ v[3] ^ v[4] ^ v[5] ^ v[6] ^ v[7];
        }
    }
    __asm__ volatile("" : : "r"(sum)); /* the sum is wanted, whatever the compiler thinks */
}

tdm_status TDM_CPU(probe)(tdm_stream *s, const void *region, size_t bytes, double *gflops, double *gbps, tdm_error *err)
{
    probe_job j = {.region = region, .piece = bytes < 1 << 20 ? bytes / 64 * 64 : 1 << 20};
    const int64_t parts = j.piece ? (int64_t)(bytes / j.piece) : 0;
    (void)err;
    *gflops = *gbps = 0.0;
    for (int r = 0; r < REPEATS; r++) {
        double start = tdm_now_s();
        tdm_cpu_parallel(s, s->threads, 1, multiply, &j);
        const double rate = 1e-9 * (double)s->threads * STEPS * CHAINS * FLOPS_A_STEP / (tdm_now_s() - start);
        if (rate > *gflops) *gflops = rate;
        start = tdm_now_s();
        tdm_cpu_parallel(s, parts, 1, read_bytes, &j);
        const double speed = 1e-9 * (double)parts * (double)j.piece / (tdm_now_s() - start);
        if (speed > *gbps) *gbps = speed;
    }
    return TDM_OK;
}
