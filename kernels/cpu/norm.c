/* rms_norm, rms_norm_add and their backwards. One row at a time; sums run over 16 lanes in four accumulators, so their order depends on D alone. */
#include "kernels/cpu/ops_cpu.h"
#include "kernels/cpu/lanes.h"

typedef struct norm_job {
    tdm_view y, rstd, dx;
    tdm_cview x, w, dy, rstd_in, r;
    float eps;
} norm_job;

static int64_t rows_per_piece(int64_t cols) { return tdm_max_i64(1, 16384 / tdm_max_i64(cols, 1)); }

static bool is_weight(tdm_cview w, int64_t cols) { return (w.dtype == TDM_DTYPE_BF16 || w.dtype == TDM_DTYPE_F32) && w.cols == cols; }

/* n of a row of f32, or of bf16 where `half`. */
static inline vf load_n(const void *x, bool half, int64_t c, int64_t n)
{
    return half ? vf_load_bf16_n((const uint16_t *)x + c, n) : vf_load_n((const float *)x + c, n);
}

static float sum_of_squares(const float *x, int64_t cols)
{
    vf acc[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    int64_t c = 0;
    for (; c + 4 * VF <= cols; c += 4 * VF)
        for (int a = 0; a < 4; a++) {
            const vf v = vf_load(x + c + a * VF);
            acc[a] = vf_fma(v, v, acc[a]);
        }
    for (int a = 0; c < cols; c += VF, a++) {
        const vf v = vf_load_n(x + c, tdm_min_i64(VF, cols - c));
        acc[a] = vf_fma(v, v, acc[a]);
    }
    return vf_sum(vf_add(vf_add(acc[0], acc[1]), vf_add(acc[2], acc[3])));
}

static void norm_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const norm_job *j = ctx;
    const int64_t cols = j->x.cols;
    const bool half = j->w.dtype == TDM_DTYPE_BF16;
    (void)thread;
    for (int64_t t = first; t < last; t++) {
        const float *x = tdm_crow_f32(j->x, t);
        uint16_t *y = tdm_row_bf16(j->y, t);
        const float rstd = 1.0f / __builtin_sqrtf(sum_of_squares(x, cols) / (float)cols + j->eps);
        const vf scale = vf_set(rstd);
        for (int64_t c = 0; c < cols; c += VF) {
            const int64_t n = tdm_min_i64(VF, cols - c);
            vf_store_bf16_n(y + c, vf_mul(vf_mul(vf_load_n(x + c, n), scale), load_n(j->w.data, half, c, n)), n);
        }
        if (j->rstd.data) *tdm_row_f32(j->rstd, t) = rstd;
    }
}

tdm_status TDM_CPU(rms_norm)(tdm_stream *s, tdm_view y, tdm_view rstd, tdm_cview x, tdm_cview w, float eps, const tdm_quantize_act *q,
                             tdm_error *err)
{
    TDM_ASSERT(x.dtype == TDM_DTYPE_F32 && y.dtype == TDM_DTYPE_BF16 && is_weight(w, x.cols));
    TDM_ASSERT(y.rows == x.rows && y.cols == x.cols && (!rstd.data || rstd.rows == x.rows));
    norm_job job = {.y = y, .rstd = rstd, .x = x, .w = w, .eps = eps};
    tdm_cpu_parallel(s, x.rows, rows_per_piece(x.cols), norm_rows, &job);
    return q ? TDM_CPU(quantize_act)(s, q, err) : TDM_OK;
}

/* With g = w dy and xhat = x rstd: rstd (g - xhat mean(g xhat)) = rstd g + x back. x is f32, or bf16 where `half_x`. */
static float backward_factor(const norm_job *j, const void *x, bool half_x, const float *dy, float rstd)
{
    const int64_t cols = j->x.cols;
    const bool half = j->w.dtype == TDM_DTYPE_BF16;
    vf acc[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    for (int64_t c = 0, a = 0; c < cols; c += VF, a = (a + 1) & 3) {
        const int64_t n = tdm_min_i64(VF, cols - c);
        acc[a] = vf_fma(vf_mul(load_n(j->w.data, half, c, n), vf_load_n(dy + c, n)), load_n(x, half_x, c, n), acc[a]);
    }
    const float dot = vf_sum(vf_add(vf_add(acc[0], acc[1]), vf_add(acc[2], acc[3])));
    return -(dot * rstd / (float)cols) * rstd * rstd;
}

static void norm_backward_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const norm_job *j = ctx;
    const int64_t cols = j->x.cols;
    const bool half = j->w.dtype == TDM_DTYPE_BF16;
    (void)thread;
    for (int64_t t = first; t < last; t++) {
        const float *x = tdm_crow_f32(j->x, t), *dy = tdm_crow_f32(j->dy, t);
        float *dx = tdm_row_f32(j->dx, t);
        const float rstd = *tdm_crow_f32(j->rstd_in, t);
        const vf scale = vf_set(rstd), back = vf_set(backward_factor(j, x, false, dy, rstd));
        for (int64_t c = 0; c < cols; c += VF) {
            const int64_t n = tdm_min_i64(VF, cols - c);
            const vf g = vf_mul(load_n(j->w.data, half, c, n), vf_load_n(dy + c, n));
            const vf d = vf_fma(vf_load_n(x + c, n), back, vf_mul(g, scale));
            vf_store_n(dx + c, vf_add(vf_load_n(dx + c, n), d), n);
        }
    }
}

tdm_status TDM_CPU(rms_norm_backward)(tdm_stream *s, tdm_view dx, tdm_cview dy, tdm_cview x, tdm_cview w, tdm_cview rstd,
                                      tdm_error *err)
{
    (void)err;
    TDM_ASSERT(x.dtype == TDM_DTYPE_F32 && dx.dtype == TDM_DTYPE_F32 && dy.dtype == TDM_DTYPE_F32 && is_weight(w, x.cols));
    TDM_ASSERT(dx.rows == x.rows && dy.rows == x.rows && rstd.rows == x.rows && dx.cols == x.cols && dy.cols == x.cols && rstd.data);
    norm_job job = {.dx = dx, .x = x, .w = w, .dy = dy, .rstd_in = rstd};
    tdm_cpu_parallel(s, x.rows, rows_per_piece(x.cols), norm_backward_rows, &job);
    return TDM_OK;
}

/* ---- rms_norm_add ------------------------------------------------------------------------------------------------------------ */

static float sum_of_squares_bf16(const uint16_t *x, int64_t cols)
{
    vf acc[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    for (int64_t c = 0, a = 0; c < cols; c += VF, a = (a + 1) & 3) {
        const vf v = vf_load_bf16_n(x + c, tdm_min_i64(VF, cols - c));
        acc[a] = vf_fma(v, v, acc[a]);
    }
    return vf_sum(vf_add(vf_add(acc[0], acc[1]), vf_add(acc[2], acc[3])));
}

static void norm_add_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const norm_job *j = ctx;
    const int64_t cols = j->x.cols;
    const bool half = j->w.dtype == TDM_DTYPE_BF16;
    (void)thread;
    for (int64_t t = first; t < last; t++) {
        const uint16_t *x = tdm_crow_bf16(j->x, t);
        const float *r = tdm_crow_f32(j->r, t);
        float *y = tdm_row_f32(j->y, t);
        const float rstd = 1.0f / __builtin_sqrtf(sum_of_squares_bf16(x, cols) / (float)cols + j->eps);
        const vf scale = vf_set(rstd);
        for (int64_t c = 0; c < cols; c += VF) {
            const int64_t n = tdm_min_i64(VF, cols - c);
            const vf v = vf_mul(vf_mul(vf_load_bf16_n(x + c, n), scale), load_n(j->w.data, half, c, n));
            vf_store_n(y + c, vf_add(vf_load_n(r + c, n), v), n);
        }
        if (j->rstd.data) *tdm_row_f32(j->rstd, t) = rstd;
    }
}

tdm_status TDM_CPU(rms_norm_add)(tdm_stream *s, tdm_view y, tdm_view rstd, tdm_cview r, tdm_cview x, tdm_cview w, float eps, tdm_error *err)
{
    (void)err;
    TDM_ASSERT(x.dtype == TDM_DTYPE_BF16 && y.dtype == TDM_DTYPE_F32 && r.dtype == TDM_DTYPE_F32 && is_weight(w, x.cols));
    TDM_ASSERT(y.rows == x.rows && y.cols == x.cols && r.rows == x.rows && r.cols == x.cols && (!rstd.data || rstd.rows == x.rows));
    norm_job job = {.y = y, .rstd = rstd, .r = r, .x = x, .w = w, .eps = eps};
    tdm_cpu_parallel(s, x.rows, rows_per_piece(x.cols), norm_add_rows, &job);
    return TDM_OK;
}

static void norm_add_backward_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const norm_job *j = ctx;
    const int64_t cols = j->x.cols;
    const bool half = j->w.dtype == TDM_DTYPE_BF16;
    (void)thread;
    for (int64_t t = first; t < last; t++) {
        const uint16_t *x = tdm_crow_bf16(j->x, t);
        const float *dy = tdm_crow_f32(j->dy, t), rstd = *tdm_crow_f32(j->rstd_in, t);
        uint16_t *dx = tdm_row_bf16(j->dx, t);
        const vf scale = vf_set(rstd), back = vf_set(backward_factor(j, x, true, dy, rstd));
        for (int64_t c = 0; c < cols; c += VF) {
            const int64_t n = tdm_min_i64(VF, cols - c);
            const vf g = vf_mul(load_n(j->w.data, half, c, n), vf_load_n(dy + c, n));
            vf_store_bf16_n(dx + c, vf_fma(vf_load_bf16_n(x + c, n), back, vf_mul(g, scale)), n);
        }
    }
}

tdm_status TDM_CPU(rms_norm_add_backward)(tdm_stream *s, tdm_view dx, tdm_cview dy, tdm_cview x, tdm_cview w, tdm_cview rstd,
                                          tdm_error *err)
{
    (void)err;
    TDM_ASSERT(x.dtype == TDM_DTYPE_BF16 && dx.dtype == TDM_DTYPE_BF16 && dy.dtype == TDM_DTYPE_F32 && is_weight(w, x.cols));
    TDM_ASSERT(dx.rows == x.rows && dy.rows == x.rows && rstd.rows == x.rows && dx.cols == x.cols && dy.cols == x.cols && rstd.data);
    norm_job job = {.dx = dx, .x = x, .w = w, .dy = dy, .rstd_in = rstd};
    tdm_cpu_parallel(s, x.rows, rows_per_piece(x.cols), norm_add_backward_rows, &job);
    return TDM_OK;
}
