/* rope: optional per-head RMS norm (Qwen3), then the rotation of the halves of the head, or of its first dimensions; and the backward of both. */
#include "kernels/cpu/ops_cpu.h"
#include "kernels/cpu/lanes.h"

enum { HEAD_MAX = 1024 }; /* widest head: one lies in f32 on the stack */

typedef struct rope_job {
    tdm_view x, pre;
    tdm_cview pre_in, cos, sin, norm_w;
    const int32_t *position;
    int64_t heads, head_dim;
    float eps;
} rope_job;

static void head_load(float *f, const uint16_t *x, int64_t n)
{
    for (int64_t c = 0; c < n; c += VF) vf_store_n(f + c, vf_load_bf16_n(x + c, tdm_min_i64(VF, n - c)), tdm_min_i64(VF, n - c));
}

static float head_rstd(const float *f, int64_t n, float eps)
{
    vf acc = vf_zero();
    for (int64_t c = 0; c < n; c += VF) {
        const vf v = vf_load_n(f + c, tdm_min_i64(VF, n - c));
        acc = vf_fma(v, v, acc);
    }
    return 1.0f / __builtin_sqrtf(vf_sum(acc) / (float)n + eps);
}

/* y1 = x1 cos - sign x2 sin, y2 = x2 cos + sign x1 sin, in place; sign -1 turns back. */
static void head_rotate(float *f, const float *cos, const float *sin, int64_t half, float sign)
{
    for (int64_t c = 0; c < half; c += VF) {
        const int64_t n = tdm_min_i64(VF, half - c);
        const vf x1 = vf_load_n(f + c, n), x2 = vf_load_n(f + half + c, n);
        const vf co = vf_load_n(cos + c, n), si = vf_mul(vf_load_n(sin + c, n), vf_set(sign));
        const vf y1 = vf_sub(vf_mul(x1, co), vf_mul(x2, si)), y2 = vf_add(vf_mul(x2, co), vf_mul(x1, si));
        vf_store_n(f + c, y1, n);
        vf_store_n(f + half + c, y2, n);
    }
}

static inline vf load_weight(tdm_cview w, int64_t c, int64_t n)
{
    return w.dtype == TDM_DTYPE_BF16 ? vf_load_bf16_n((const uint16_t *)w.data + c, n) : vf_load_n((const float *)w.data + c, n);
}

static void head_store(uint16_t *x, const float *f, int64_t n)
{
    for (int64_t c = 0; c < n; c += VF) vf_store_bf16_n(x + c, vf_load_n(f + c, tdm_min_i64(VF, n - c)), tdm_min_i64(VF, n - c));
}

static void rope_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const rope_job *j = ctx;
    const int64_t dh = j->head_dim;
    float f[HEAD_MAX];
    (void)thread;
    for (int64_t t = first; t < last; t++) {
        uint16_t *row = tdm_row_bf16(j->x, t);
        const float *cos = tdm_crow_f32(j->cos, j->position[t]), *sin = tdm_crow_f32(j->sin, j->position[t]);
        if (j->pre.data) memcpy(tdm_row_bf16(j->pre, t), row, (size_t)(j->heads * dh) * sizeof *row);
        for (int64_t h = 0; h < j->heads; h++) {
            uint16_t *x = row + h * dh;
            head_load(f, x, dh);
            if (j->norm_w.data) {
                const vf rstd = vf_set(head_rstd(f, dh, j->eps));
                for (int64_t c = 0; c < dh; c += VF) {
                    const int64_t n = tdm_min_i64(VF, dh - c);
                    vf_store_n(f + c, vf_mul(vf_mul(vf_load_n(f + c, n), rstd), load_weight(j->norm_w, c, n)), n);
                }
            }
            head_rotate(f, cos, sin, j->cos.cols, 1.0f);
            head_store(x, f, dh);
        }
    }
}

static void check(const rope_job *j)
{
    TDM_ASSERT(j->x.dtype == TDM_DTYPE_BF16 && j->x.cols == j->heads * j->head_dim);
    TDM_ASSERT(j->head_dim % 2 == 0 && j->head_dim <= HEAD_MAX);
    TDM_ASSERT(j->cos.dtype == TDM_DTYPE_F32 && j->sin.dtype == TDM_DTYPE_F32);
    TDM_ASSERT(j->cos.cols <= j->head_dim / 2 && j->sin.cols == j->cos.cols);
    TDM_ASSERT(!j->norm_w.data || ((j->norm_w.dtype == TDM_DTYPE_BF16 || j->norm_w.dtype == TDM_DTYPE_F32) && j->norm_w.cols == j->head_dim));
    for (int64_t t = 0; t < j->x.rows; t++) TDM_ASSERT(j->position[t] >= 0 && j->position[t] < j->cos.rows);
}

static int64_t rows_per_piece(const rope_job *j) { return tdm_max_i64(1, 8192 / tdm_max_i64(j->x.cols, 1)); }

tdm_status TDM_CPU(rope)(tdm_stream *s, const tdm_rope *a, tdm_error *err)
{
    (void)err;
    rope_job job = {.x = a->x, .pre = a->pre, .cos = a->cos, .sin = a->sin, .norm_w = a->norm_w, .position = a->position,
                    .heads = a->heads, .head_dim = a->head_dim, .eps = a->eps};
    check(&job);
    TDM_ASSERT(!a->pre.data || (a->pre.dtype == TDM_DTYPE_BF16 && a->pre.rows == a->x.rows && a->pre.cols == a->x.cols));
    tdm_cpu_parallel(s, a->x.rows, rows_per_piece(&job), rope_rows, &job);
    return TDM_OK;
}

tdm_status TDM_CPU(rope_kv)(tdm_stream *s, const tdm_rope_kv *a, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_ASSERT(a->write.k.data == a->k.x.data);
    TDM_TRY(st, TDM_CPU(rope)(s, &a->q, err), done);
    TDM_TRY(st, TDM_CPU(rope)(s, &a->k, err), done);
    TDM_TRY(st, TDM_CPU(kv_write)(s, &a->write, err), done);
done:
    return st;
}

/* Through y = w x rstd, in place on dy: dx = rstd (w dy - x rstd^2 mean(w dy x)). */
static void head_norm_backward(float *f, const uint16_t *pre, tdm_cview w, int64_t dh, float eps)
{
    float x[HEAD_MAX];
    head_load(x, pre, dh);
    const float rstd = head_rstd(x, dh, eps);
    vf acc = vf_zero();
    for (int64_t c = 0; c < dh; c += VF) {
        const int64_t n = tdm_min_i64(VF, dh - c);
        const vf g = vf_mul(vf_load_n(f + c, n), load_weight(w, c, n));
        vf_store_n(f + c, g, n);
        acc = vf_fma(g, vf_load_n(x + c, n), acc);
    }
    const vf scale = vf_set(rstd), back = vf_set(-(vf_sum(acc) * rstd / (float)dh) * rstd * rstd);
    for (int64_t c = 0; c < dh; c += VF) {
        const int64_t n = tdm_min_i64(VF, dh - c);
        vf_store_n(f + c, vf_fma(vf_load_n(x + c, n), back, vf_mul(vf_load_n(f + c, n), scale)), n);
    }
}

static void rope_backward_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const rope_job *j = ctx;
    const int64_t dh = j->head_dim;
    float f[HEAD_MAX];
    (void)thread;
    for (int64_t t = first; t < last; t++) {
        uint16_t *row = tdm_row_bf16(j->x, t);
        const float *cos = tdm_crow_f32(j->cos, j->position[t]), *sin = tdm_crow_f32(j->sin, j->position[t]);
        for (int64_t h = 0; h < j->heads; h++) {
            head_load(f, row + h * dh, dh);
            head_rotate(f, cos, sin, j->cos.cols, -1.0f);
            if (j->norm_w.data) head_norm_backward(f, tdm_crow_bf16(j->pre_in, t) + h * dh, j->norm_w, dh, j->eps);
            head_store(row + h * dh, f, dh);
        }
    }
}

tdm_status TDM_CPU(rope_backward)(tdm_stream *s, const tdm_rope_backward *a, tdm_error *err)
{
    (void)err;
    rope_job job = {.x = a->dx, .pre_in = a->pre, .cos = a->cos, .sin = a->sin, .norm_w = a->norm_w, .position = a->position,
                    .heads = a->heads, .head_dim = a->head_dim, .eps = a->eps};
    check(&job);
    TDM_ASSERT(!a->norm_w.data || (a->pre.data && a->pre.dtype == TDM_DTYPE_BF16 && a->pre.rows == a->dx.rows));
    tdm_cpu_parallel(s, a->dx.rows, rows_per_piece(&job), rope_backward_rows, &job);
    return TDM_OK;
}
