/* quantize_act: bf16 activations to e4m3 codes and scales, row by row. quantize_weight: f32 weights, as a checkpoint streams in. */
#include "kernels/cpu/common/e4m3.h"
#include "kernels/cpu/ops_cpu.h"

static float amax_bf16(const uint16_t *x, int64_t n)
{
    uint32_t most = 0; /* magnitudes of bf16 compare as integers */
    for (int64_t i = 0; i < n; i++) {
        const uint32_t magnitude = x[i] & 0x7fffu;
        most = magnitude > most ? magnitude : most;
    }
    return tdm_bf16_expand((uint16_t)most);
}

static void round_row(uint8_t *restrict codes, const uint16_t *restrict x, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++) codes[i] = tdm_e4m3_round(tdm_bf16_expand(x[i]) / scale);
}

typedef struct quantize_job {
    const tdm_quantize_act *a;
    float *amax;  /* [T]: phase one of the per-tensor scale */
    float scale;  /* of the whole call, when there is one */
} quantize_job;

static const uint16_t *row_in(const tdm_quantize_act *a, int64_t t) { return (const uint16_t *)a->x.data + t * a->x.stride; }
static uint8_t *row_out(const tdm_quantize_act *a, int64_t t) { return (uint8_t *)a->codes.data + t * a->codes.stride; }
static float *row_scale(const tdm_quantize_act *a, int64_t t) { return (float *)a->scale.data + t * a->scale.stride; }

static void rows_amax(void *ctx, int64_t first, int64_t last, int thread)
{
    quantize_job *job = ctx;
    (void)thread;
    for (int64_t t = first; t < last; t++) job->amax[t] = amax_bf16(row_in(job->a, t), job->a->x.cols);
}

static void rows_with_one_scale(void *ctx, int64_t first, int64_t last, int thread)
{
    quantize_job *job = ctx;
    (void)thread;
    for (int64_t t = first; t < last; t++) round_row(row_out(job->a, t), row_in(job->a, t), job->a->x.cols, job->scale);
}

static void rows_with_own_scales(void *ctx, int64_t first, int64_t last, int thread)
{
    const tdm_quantize_act *a = ((quantize_job *)ctx)->a;
    const int64_t k = a->x.cols, width = a->scheme == TDM_SCHEME_FP8_BLOCK ? TDM_FP8_BLOCK : tdm_max_i64(k, 1);
    (void)thread;
    for (int64_t t = first; t < last; t++)
        for (int64_t c = 0; c < k; c += width) {
            const int64_t n = tdm_min_i64(width, k - c);
            const float scale = tdm_fp8_scale(amax_bf16(row_in(a, t) + c, n), a->pow2);
            row_scale(a, t)[c / width] = scale;
            round_row(row_out(a, t) + c, row_in(a, t) + c, n, scale);
        }
}

static void check(const tdm_quantize_act *a)
{
    TDM_ASSERT(a->act != TDM_ACT_NONE && a->scheme != TDM_SCHEME_BF16);
    TDM_ASSERT(a->x.dtype == TDM_DTYPE_BF16 && a->codes.dtype == TDM_DTYPE_E4M3);
    TDM_ASSERT_EQ(a->codes.rows, a->x.rows);
    TDM_ASSERT_EQ(a->codes.cols, a->x.cols);
    if (a->act == TDM_ACT_STATIC) return;
    const int64_t blocks = tdm_ceil_div(a->x.cols, TDM_FP8_BLOCK);
    TDM_ASSERT(a->scale.dtype == TDM_DTYPE_F32);
    TDM_ASSERT_EQ(a->scale.rows, a->scheme == TDM_SCHEME_FP8_TENSOR ? 1 : a->x.rows);
    TDM_ASSERT_EQ(a->scale.cols, a->scheme == TDM_SCHEME_FP8_BLOCK ? blocks : 1);
}

tdm_status TDM_CPU(quantize_act)(tdm_stream *s, const tdm_quantize_act *a, tdm_error *err)
{
    (void)err;
    check(a);
    const int64_t rows = a->x.rows, grain = tdm_ceil_div(16384, tdm_max_i64(a->x.cols, 1));
    quantize_job job = {.a = a, .scale = a->input_scale};
    if (rows == 0) return TDM_OK;
    if (a->act == TDM_ACT_DYNAMIC && a->scheme != TDM_SCHEME_FP8_TENSOR) {
        tdm_cpu_parallel(s, rows, grain, rows_with_own_scales, &job);
        return TDM_OK;
    }
    if (a->act == TDM_ACT_DYNAMIC) {
        job.amax = tdm_cpu_scratch_shared(s, (size_t)rows * sizeof *job.amax, 0);
        tdm_cpu_parallel(s, rows, grain, rows_amax, &job);
        float amax = 0.0f;
        for (int64_t t = 0; t < rows; t++) amax = job.amax[t] > amax ? job.amax[t] : amax;
        job.scale = row_scale(a, 0)[0] = tdm_fp8_scale(amax, a->pow2);
    }
    tdm_cpu_parallel(s, rows, grain, rows_with_one_scale, &job);
    return TDM_OK;
}

/* ---- Weights ---------------------------------------------------------------------------------------------------------------- */

static float amax_f32(const float *x, int64_t n)
{
    uint32_t most = 0; /* magnitudes of finite floats compare as integers, whose maximum is vector code */
    for (int64_t i = 0; i < n; i++) {
        const uint32_t magnitude = tdm_f32_bits(x[i]) & 0x7fffffffu;
        most = magnitude > most ? magnitude : most;
    }
    return tdm_bits_f32(most);
}

static void round_f32(uint8_t *restrict codes, const float *restrict x, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++) codes[i] = tdm_e4m3_round(x[i] / scale);
}

static const float *weight_row(const tdm_quantize_weight *a, int64_t r) { return (const float *)a->x.data + r * a->x.stride; }
static uint8_t *code_row(const tdm_quantize_weight *a, int64_t r) { return (uint8_t *)a->codes.data + r * a->codes.stride; }

/* One block of at most 128 x 128 gets the scale of its own amax. */
static void weight_block(const tdm_quantize_weight *a, int64_t row, int64_t col)
{
    const int64_t last = tdm_min_i64(row + TDM_FP8_BLOCK, a->x.rows), width = tdm_min_i64(TDM_FP8_BLOCK, a->x.cols - col);
    float amax = 0.0f;
    for (int64_t r = row; r < last; r++) {
        const float here = amax_f32(weight_row(a, r) + col, width);
        amax = here > amax ? here : amax;
    }
    const float scale = tdm_fp8_scale(amax, a->pow2);
    ((float *)a->scale.data + row / TDM_FP8_BLOCK * a->scale.stride)[col / TDM_FP8_BLOCK] = scale;
    for (int64_t r = row; r < last; r++) round_f32(code_row(a, r) + col, weight_row(a, r) + col, width, scale);
}

void TDM_CPU(quantize_weight)(const tdm_quantize_weight *a)
{
    const int64_t rows = a->x.rows, cols = a->x.cols;
    const float shared = a->scheme == TDM_SCHEME_FP8_TENSOR ? tdm_fp8_scale(a->tensor_amax, a->pow2) : 0.0f;
    if (a->scheme == TDM_SCHEME_FP8_BLOCK) {
        for (int64_t r = 0; r < rows; r += TDM_FP8_BLOCK)
            for (int64_t c = 0; c < cols; c += TDM_FP8_BLOCK) weight_block(a, r, c);
        return;
    }
    for (int64_t r = 0; r < rows; r++) {
        float scale = shared;
        if (a->scheme == TDM_SCHEME_FP8_CHANNEL)
            ((float *)a->scale.data)[r * a->scale.stride] = scale = tdm_fp8_scale(amax_f32(weight_row(a, r), cols), a->pow2);
        round_f32(code_row(a, r), weight_row(a, r), cols, scale);
    }
}
