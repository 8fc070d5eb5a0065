/* Speed of linear and linear_backward beside what this machine can do, measured in the same run.
 *   bench_linear [isa] [threads]     one JSON object a line; the best of several repetitions, as the machine may be shared
 * Few rows are bound by reading the weight, many by multiplying; `fraction` is that of the nearer ceiling. The weight is one of
 * several that take turns, so it comes from memory and not from a cache. */
#include "kernels/ops.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { REPEATS = 7, TURNS_BYTES = 96 << 20 };

/* ---- ceilings ---------------------------------------------------------------------------------------------------------------- */

#if defined(__x86_64__)
/* Twelve independent chains hide the latency of either instruction; named one by one, as an array would live in memory. */
#define CHAINS(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
#define CHAIN_KEEP(i) __asm__ volatile("" : "+v"(acc##i));
#define CHAIN_ZERO_512(i) __m512 acc##i = x;
#define CHAIN_STEP_512(i) acc##i = _mm512_dpbf16_ps(acc##i, (__m512bh)x, (__m512bh)x);
#define CHAIN_ZERO_256(i) __m256 acc##i = x;
#define CHAIN_STEP_256(i) acc##i = _mm256_fmadd_ps(x, x, acc##i);
#define CHAIN_KEEP_256(i) __asm__ volatile("" : "+x"(acc##i));

__attribute__((target("avx512f,avx512bf16"), noinline)) static double dot_flops(long n)
{
    const __m512 x = _mm512_setzero_ps();
    CHAINS(CHAIN_ZERO_512)
    for (long r = 0; r < n; r++) {
        CHAINS(CHAIN_STEP_512)
        CHAINS(CHAIN_KEEP)
    }
    return 12.0 * 64.0 * (double)n;
}
__attribute__((target("avx2,fma"), noinline)) static double fma_flops(long n)
{
    const __m256 x = _mm256_setzero_ps();
    CHAINS(CHAIN_ZERO_256)
    for (long r = 0; r < n; r++) {
        CHAINS(CHAIN_STEP_256)
        CHAINS(CHAIN_KEEP_256)
    }
    return 12.0 * 16.0 * (double)n;
}
#endif

static double peak_gflops(const char *name, int threads)
{
    double best = 0;
#if defined(__x86_64__)
    double (*probe)(long) = strstr(name, "avx512") ? dot_flops : strstr(name, "avx2") ? fma_flops : NULL;
    for (int r = 0; probe && r < 4 * REPEATS; r++) {
        double flops = 0;
        const double start = tdm_now_s();
#pragma omp parallel num_threads(threads) reduction(+ : flops)
        flops += probe(1000000);
        const double rate = flops / (tdm_now_s() - start) * 1e-9;
        best = rate > best ? rate : best;
    }
#else
    (void)name;
    (void)threads;
#endif
    return best;
}

static double read_gbps(const char *memory, size_t bytes, int threads)
{
    double best = 0;
    uint64_t all = 0;
    for (int r = 0; r < REPEATS; r++) {
        const double start = tdm_now_s();
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : all)
        for (size_t block = 0; block < bytes / 4096; block++) {
            const uint64_t *p = (const uint64_t *)(memory + block * 4096);
            uint64_t sum[8] = {0};
            for (int i = 0; i < 512; i += 8)
                for (int j = 0; j < 8; j++) sum[j] += p[i + j];
            for (int j = 0; j < 8; j++) all += sum[j];
        }
        const double rate = (double)bytes / (tdm_now_s() - start) * 1e-9;
        best = rate > best ? rate : best;
    }
    return all == 42 ? 0 : best;
}

/* ---- cases ------------------------------------------------------------------------------------------------------------------- */

typedef struct machine {
    const tdm_backend *be;
    tdm_stream *s;
    int threads;
    double gflops, gbps;
    char *memory; /* TURNS_BYTES of weight codes */
} machine;

typedef struct shape {
    int64_t t, n, k, r;
    tdm_scheme scheme;
    tdm_act_quant act;
    bool backward;
} shape;

static void *filled(size_t bytes, int byte)
{
    void *p = aligned_alloc(64, tdm_align_up(bytes + 1, 64));
    if (!p) abort();
    memset(p, byte, tdm_align_up(bytes + 1, 64));
    return p;
}
static tdm_cview bf16(const void *p, int64_t rows, int64_t cols) { return (tdm_cview){p, TDM_DTYPE_BF16, rows, cols, cols}; }

static const char *const scheme_names[] = {"bf16", "fp8_tensor", "fp8_channel", "fp8_block"};

static void run(const machine *m, shape c)
{
    const size_t t = (size_t)c.t, n = (size_t)c.n, k = (size_t)c.k, r = (size_t)c.r, size = c.scheme == TDM_SCHEME_BF16 ? 2 : 1;
    uint16_t *x = filled(t * k * 2, 0x3c), *dy = filled(t * n * 2, 0x3c), *a = filled(r * k * 2, 0x3c), *b = filled(n * r * 2, 0x3c);
    uint16_t *h = filled(t * r * 2, 0), *dh = filled(t * r * 2, 0);
    uint8_t *xq = filled(t * k, 0x30);
    float *xs = filled(t * (k / 128 + 1) * 4, 0x3c), *ws = filled(n * (k / 128 + 1) * 4, 0x3c);
    float *y = filled(t * n * 4, 0), *dx = filled(t * k * 4, 0), *ga = filled(r * k * 4, 0), *gb = filled(n * r * 4, 0);
    const int64_t blocks = tdm_ceil_div(c.k, 128);
    tdm_weight w = {.scheme = c.scheme, .act = c.act};
    w.scale = c.scheme == TDM_SCHEME_FP8_BLOCK ? (tdm_cview){ws, TDM_DTYPE_F32, tdm_ceil_div(c.n, 128), blocks, blocks}
                                               : (tdm_cview){ws, TDM_DTYPE_F32, c.n, 1, 1};
    tdm_linear f = {.y = {y, c.n > 8192 ? TDM_DTYPE_F32 : TDM_DTYPE_BF16, c.t, c.n, c.n}, .x = bf16(x, c.t, c.k), .w = &w};
    f.xq = (tdm_cview){xq, TDM_DTYPE_E4M3, c.t, c.k, c.k};
    f.xs = c.scheme == TDM_SCHEME_FP8_BLOCK ? (tdm_cview){xs, TDM_DTYPE_F32, c.t, blocks, blocks} : (tdm_cview){xs, TDM_DTYPE_F32, c.t, 1, 1};
    tdm_linear_backward g = {.dx = {dx, TDM_DTYPE_F32, c.t, c.k, c.k}, .dy = bf16(dy, c.t, c.n), .x = f.x, .w = &w};
    if (c.r) {
        f.lora_a = g.lora_a = bf16(a, c.r, c.k);
        f.lora_b = g.lora_b = bf16(b, c.n, c.r);
        f.lora_h = (tdm_view){h, TDM_DTYPE_BF16, c.t, c.r, c.r};
        g.h = tdm_view_const(f.lora_h);
        g.lora_dh = (tdm_view){dh, TDM_DTYPE_BF16, c.t, c.r, c.r};
        g.grad_a = (tdm_view){ga, TDM_DTYPE_F32, c.r, c.k, c.k};
        g.grad_b = (tdm_view){gb, TDM_DTYPE_F32, c.n, c.r, c.r};
        f.lora_scale = g.lora_scale = 2.0f;
    }
    const size_t bytes = n * k * size, turns = bytes >= TURNS_BYTES ? 1 : TURNS_BYTES / bytes;
    const double flops = 2.0 * (double)t * (double)n * (double)k;
    size_t calls = (size_t)(6e9 / flops) + 1;
    if (calls > 2 * turns) calls = 2 * turns;
    double best = 1e30;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        const double start = tdm_now_s();
        for (size_t i = 0; i < calls; i++) {
            w.codes = (tdm_cview){m->memory + i % turns * bytes, size == 2 ? TDM_DTYPE_BF16 : TDM_DTYPE_E4M3, c.n, c.k, c.k};
            if (c.backward)
                m->be->linear_backward(m->s, &g, NULL);
            else
                m->be->linear(m->s, &f, NULL);
        }
        const double each = (tdm_now_s() - start) / (double)calls;
        best = each < best ? each : best;
    }
    const double gflops = flops / best * 1e-9, gbps = (double)bytes / best * 1e-9;
    const double of_flops = m->gflops > 0 ? gflops / m->gflops : 0, of_bytes = gbps / m->gbps;
    printf("{\"op\":\"%s\",\"isa\":\"%s\",\"threads\":%d,\"T\":%d,\"N\":%d,\"K\":%d,\"R\":%d,\"scheme\":\"%s\",\"act\":%d,\"us\":%.1f,"
           "\"gflops\":%.1f,\"ceiling_gflops\":%.1f,\"gbps\":%.2f,\"ceiling_gbps\":%.2f,\"fraction\":%.3f}\n",
           c.backward ? "linear_backward" : "linear", m->be->name, m->threads, (int)t, (int)n, (int)k, (int)r,
           scheme_names[c.scheme], c.act, best * 1e6, gflops, m->gflops, gbps, m->gbps, of_flops > of_bytes ? of_flops : of_bytes);
    fflush(stdout);
    void *all[] = {x, dy, a, b, h, dh, xq, xs, ws, y, dx, ga, gb};
    for (size_t i = 0; i < TDM_COUNT(all); i++) free(all[i]);
}

static const shape shapes[] = {
    {1, 576, 1536, 0, TDM_SCHEME_FP8_CHANNEL, TDM_ACT_DYNAMIC, false},
    {1, 1536, 576, 0, TDM_SCHEME_FP8_BLOCK, TDM_ACT_DYNAMIC, false},
    {1, 49152, 576, 0, TDM_SCHEME_BF16, TDM_ACT_NONE, false},
    {8, 1536, 576, 0, TDM_SCHEME_FP8_CHANNEL, TDM_ACT_DYNAMIC, false},
    {64, 576, 576, 0, TDM_SCHEME_FP8_CHANNEL, TDM_ACT_DYNAMIC, false},
    {64, 192, 576, 0, TDM_SCHEME_FP8_CHANNEL, TDM_ACT_DYNAMIC, false},
    {64, 1536, 576, 0, TDM_SCHEME_FP8_CHANNEL, TDM_ACT_DYNAMIC, false},
    {64, 1536, 576, 16, TDM_SCHEME_FP8_CHANNEL, TDM_ACT_DYNAMIC, false},
    {64, 576, 1536, 0, TDM_SCHEME_FP8_CHANNEL, TDM_ACT_DYNAMIC, false},
    {64, 1536, 576, 0, TDM_SCHEME_FP8_BLOCK, TDM_ACT_DYNAMIC, false},
    {64, 49152, 576, 0, TDM_SCHEME_BF16, TDM_ACT_NONE, false},
    {1024, 1536, 576, 0, TDM_SCHEME_FP8_CHANNEL, TDM_ACT_DYNAMIC, false},
    {1024, 1536, 576, 16, TDM_SCHEME_FP8_CHANNEL, TDM_ACT_DYNAMIC, false},
    {1024, 576, 1536, 0, TDM_SCHEME_BF16, TDM_ACT_NONE, false},
    {1024, 1536, 576, 0, TDM_SCHEME_FP8_BLOCK, TDM_ACT_DYNAMIC, false},
    {1024, 1536, 576, 0, TDM_SCHEME_FP8_CHANNEL, TDM_ACT_DYNAMIC, true},
    {1024, 1536, 576, 16, TDM_SCHEME_FP8_CHANNEL, TDM_ACT_DYNAMIC, true},
    {1024, 576, 1536, 0, TDM_SCHEME_BF16, TDM_ACT_NONE, true},
    {256, 49152, 576, 0, TDM_SCHEME_BF16, TDM_ACT_NONE, true},
};

int main(int argc, char **argv)
{
    machine m = {.threads = argc > 2 ? atoi(argv[2]) : omp_get_max_threads()};
    tdm_error err = {0};
    if (m.threads < 1 || tdm_backend_cpu(argc > 1 ? argv[1] : NULL, &m.be, &err) != TDM_OK) {
        tdm_error_print(&err);
        return 2;
    }
    const tdm_limits limits = {.tokens = 1024, .width = 1536, .vocab = 49152, .head_rows = 256, .heads = 9, .head_dim = 64, .rank = 16, .context = 1024};
    const size_t bytes = m.be->workspace_bytes(&limits, m.threads);
    void *workspace = filled(bytes, 0);
    m.memory = filled(TURNS_BYTES, 0x30);
    const tdm_stream_options o = {.threads = m.threads};
    if (m.be->stream_open(&m.s, workspace, bytes, &o, &err) != TDM_OK) {
        tdm_error_print(&err);
        return 1;
    }
    m.gflops = peak_gflops(m.be->name, m.threads);
    m.gbps = read_gbps(m.memory, TURNS_BYTES, m.threads);
    for (size_t i = 0; i < TDM_COUNT(shapes); i++) run(&m, shapes[i]);
    m.be->stream_close(m.s);
    free(workspace);
    free(m.memory);
    return 0;
}
