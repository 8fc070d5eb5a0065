// Before a stream trusts cuBLASLt, each kind of product runs once on a small problem and is compared with our own kernels: a layout of
// scales that this library or this card reads otherwise shows here, not as a model that learns nothing.
#include <math.h>
#include <stdio.h>

#include "kernels/cuda/blaslt.cuh"

enum { T = 256, N = 256, K = 512, THREADS = 256, BLOCKS = K / TDM_FP8_BLOCK };
static constexpr double DIFFERENCE_MOST = 2e-2; // of the norm: rounding a result to bf16 makes some 2e-3, scales in a wrong order 2e-1

// In the last bytes of the workspace; what linear itself needs for a problem this small stays far below.
struct operands {
    uint16_t x[T * K], w[N * K];
    uint8_t x_codes[T * K], w_codes[N * K];
    float x_scale[T * BLOCKS], w_scale[N];
    float y[2][T * N]; // ours, the library's
};
struct sums {
    float difference, norm; // squares
};
enum { CASES = 5, RESULTS = 2 * CASES };
struct region {
    operands o;
    sums of[RESULTS];
};

TDM_DEVICE uint32_t mix(uint32_t v)
{
    v = (v ^ v >> 16) * 0x7feb352du;
    v = (v ^ v >> 15) * 0x846ca68bu;
    return v ^ v >> 16;
}
// Codes of magnitudes 1/8 to 2; values in [-1, 1); scales that differ from one to the next by more than rounding.
static __global__ void __launch_bounds__(THREADS) fill(operands *o)
{
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x, a = mix(2 * i + 1), b = mix(2 * i + 2);
    if (i >= T * K) return;
    o->x[i] = tdm_to_bf16(__fadd_rn(__fmul_rn((float)(a >> 8), 0x1p-23f), -1.0f));
    o->w[i] = tdm_to_bf16(__fadd_rn(__fmul_rn((float)(b >> 8), 0x1p-23f), -1.0f));
    o->x_codes[i] = (uint8_t)(0x20u + (a >> 3 & 31u) | (a & 1u) << 7);
    o->w_codes[i] = (uint8_t)(0x20u + (b >> 3 & 31u) | (b & 1u) << 7);
    if (i < T * BLOCKS) o->x_scale[i] = __fadd_rn(0.25f, __fmul_rn((float)(a & 63u), 0x1p-6f));
    if (i < N) o->w_scale[i] = __fadd_rn(0.25f, __fmul_rn((float)(b & 63u), 0x1p-6f));
}
static_assert((int)T == (int)N, "one index fills both operands");

static __global__ void __launch_bounds__(THREADS) ones(float *y)
{
    y[blockIdx.x * THREADS + threadIdx.x] = 1.0f;
}

static __global__ void __launch_bounds__(THREADS) compare(sums *out, const operands *o, bool f32)
{
    const int i = (int)(blockIdx.x * THREADS + threadIdx.x);
    float v[2];
    for (int side = 0; side < 2; side++) v[side] = f32 ? o->y[side][i] : tdm_bf16(((const uint16_t *)o->y[side])[i]);
    const float d = __fadd_rn(v[1], -v[0]), difference = tdm_warp_sum(__fmul_rn(d, d)), norm = tdm_warp_sum(__fmul_rn(v[0], v[0]));
    if (threadIdx.x % 32 != 0) return;
    atomicAdd(&out->difference, difference);
    atomicAdd(&out->norm, norm);
}

struct test_case {
    const char *name;
    tdm_blas_kind kind;
    tdm_scheme scheme;
    tdm_act_quant act;
    int64_t w_rows, w_cols, x_rows, x_cols; // of the scales
};
static const test_case cases[CASES] = {
    {"BF16", TDM_BLAS_BF16, TDM_SCHEME_BF16, TDM_ACT_NONE, 0, 0, 0, 0},
    {"BF16 by FP8 weights", TDM_BLAS_BF16, TDM_SCHEME_FP8_BLOCK, TDM_ACT_NONE, N / TDM_FP8_BLOCK, BLOCKS, 0, 0},
    {"per-tensor FP8", TDM_BLAS_TENSOR, TDM_SCHEME_FP8_TENSOR, TDM_ACT_DYNAMIC, 1, 1, 1, 1},
    {"outer-vector FP8", TDM_BLAS_CHANNEL, TDM_SCHEME_FP8_CHANNEL, TDM_ACT_DYNAMIC, N, 1, T, 1},
    {"block-scaled FP8", TDM_BLAS_BLOCK, TDM_SCHEME_FP8_BLOCK, TDM_ACT_DYNAMIC, N / TDM_FP8_BLOCK, BLOCKS, T, BLOCKS},
};

static tdm_cview view(const void *data, tdm_dtype dtype, int64_t rows, int64_t cols)
{
    return tdm_view_const(tdm_view_make((void *)data, dtype, rows, cols));
}

// Both sides of one case. *ran: the library has such a product.
static tdm_status run_case(tdm_stream *s, const test_case *c, region *r, bool f32, sums *out, bool *ran, tdm_error *err)
{
    operands *o = &r->o;
    const bool codes = c->scheme != TDM_SCHEME_BF16;
    tdm_weight w = {};
    w.codes = codes ? view(o->w_codes, TDM_DTYPE_E4M3, N, K) : view(o->w, TDM_DTYPE_BF16, N, K);
    if (codes) w.scale = view(o->w_scale, TDM_DTYPE_F32, c->w_rows, c->w_cols);
    w.scheme = c->scheme;
    w.act = c->act;
    tdm_linear a = {};
    a.w = &w;
    a.x = view(o->x, TDM_DTYPE_BF16, T, K);
    if (c->act != TDM_ACT_NONE) {
        a.xq = view(o->x_codes, TDM_DTYPE_E4M3, T, K);
        a.xs = view(o->x_scale, TDM_DTYPE_F32, c->x_rows, c->x_cols);
    }
    a.accumulate = f32;
    tdm_status st = TDM_OK;
    ones<<<2 * T * N / THREADS, THREADS, 0, s->cuda>>>(o->y[0]);
    a.y = tdm_view_make(o->y[1], f32 ? TDM_DTYPE_F32 : TDM_DTYPE_BF16, T, N);
    TDM_TRY(st, tdm_linear_fast(s, &a, ran, err), end);
    if (!*ran) goto end;
    a.y.data = o->y[0];
    s->exact = true; // our own kernels, for this call
    st = tdm_cuda_linear(s, &a, err);
    s->exact = false;
    if (st != TDM_OK) goto end;
    compare<<<T * N / THREADS, THREADS, 0, s->cuda>>>(out, o, f32);
    st = tdm_cuda_launched(err, "selftest", T, N);
end:
    return st;
}

static void card_name(char (&name)[256])
{
    int device = 0;
    cudaDeviceProp p;
    const bool known = cudaGetDevice(&device) == cudaSuccess && cudaGetDeviceProperties(&p, device) == cudaSuccess;
    (void)snprintf(name, sizeof name, "%s", known ? p.name : "this card");
}

static void note(tdm_stream *s, const test_case *c, const char *what)
{
    char name[256];
    card_name(name);
    (void)fprintf(stderr, "note: cuBLASLt: %s %s on %s; own kernels are used\n", c->name, what, name);
    s->blas->kinds[c->kind] = false;
}

tdm_status tdm_blas_selftest(tdm_stream *s, tdm_error *err)
{
    const size_t at = (s->workspace_bytes - sizeof(region)) / 256 * 256;
    region *r = (region *)(s->workspace + at);
    sums got[RESULTS] = {};
    bool ran[RESULTS] = {};
    tdm_status st = TDM_OK;
    fill<<<T * K / THREADS, THREADS, 0, s->cuda>>>(&r->o);
    TDM_TRY(st, TDM_CUDA(cudaMemsetAsync(r->of, 0, sizeof r->of, s->cuda)), end);
    for (int i = 0; i < RESULTS; i++) {
        const test_case *c = &cases[i / 2];
        tdm_error failure = {};
        if (!s->blas->kinds[c->kind]) continue;
        if (run_case(s, c, r, i % 2 == 1, &r->of[i], &ran[i], &failure) == TDM_OK) {
            // A form that the library does not have falls back at every call; the other form may well run.
            if (!ran[i] && s->path == TDM_CUDA_SM90) {
                char name[256];
                card_name(name);
                (void)fprintf(stderr, "note: cuBLASLt has no %s product with %s results on %s; own kernels are used\n", c->name,
                              i % 2 ? "f32" : "bf16", name);
            }
            continue;
        }
        ran[i] = false;
        note(s, c, "fails");
    }
    TDM_TRY(st, TDM_CUDA(cudaMemcpyAsync(got, r->of, sizeof got, cudaMemcpyDeviceToHost, s->cuda)), end);
    TDM_TRY(st, TDM_CUDA(cudaStreamSynchronize(s->cuda)), end);
    for (int i = 0; i < RESULTS; i++) {
        const test_case *c = &cases[i / 2];
        const bool near = sqrt((double)got[i].difference) <= DIFFERENCE_MOST * sqrt((double)got[i].norm); // false for NaN
        if (ran[i] && (!near || got[i].norm == 0.0f) && s->blas->kinds[c->kind]) note(s, c, "disagrees with the reference");
    }
end:
    return st;
}
