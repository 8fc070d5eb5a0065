/* swiglu: y = act(gate) * up, element by element, and its backward. */
#include "kernels/cpu/ops_cpu.h"
#include "kernels/cpu/lanes.h"

typedef struct swiglu_job {
    tdm_glu act;
    tdm_view y, dgate, dup;
    tdm_cview gate, up, dy;
} swiglu_job;

static int64_t rows_per_piece(int64_t cols) { return tdm_max_i64(1, 8192 / tdm_max_i64(cols, 1)); }

/* 1 / (1 + e^-g): 0 and 1 at the ends, as e^-g grows to infinity and shrinks to 0. */
static inline vf sigmoid(vf g) { return vf_div(vf_set(1.0f), vf_add(vf_set(1.0f), vf_exp(vf_sub(vf_zero(), g)))); }

/* z of act(g) = g sigmoid(z). */
static inline vf inner(tdm_glu act, vf g)
{
    if (act == TDM_GLU_SILU) return g;
    return vf_mul(vf_mul(g, vf_set(TDM_GELU_FACTOR)), vf_fma(vf_mul(g, g), vf_set(TDM_GELU_CUBE), vf_set(1.0f)));
}

/* dz / dg. */
static inline vf inner_slope(tdm_glu act, vf g)
{
    if (act == TDM_GLU_SILU) return vf_set(1.0f);
    return vf_mul(vf_set(TDM_GELU_FACTOR), vf_fma(vf_mul(g, g), vf_set(3.0f * TDM_GELU_CUBE), vf_set(1.0f)));
}

static void swiglu_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const swiglu_job *j = ctx;
    (void)thread;
    for (int64_t t = first; t < last; t++) {
        const uint16_t *gate = tdm_crow_bf16(j->gate, t), *up = tdm_crow_bf16(j->up, t);
        uint16_t *y = tdm_row_bf16(j->y, t);
        for (int64_t c = 0; c < j->y.cols; c += VF) {
            const int64_t n = tdm_min_i64(VF, j->y.cols - c);
            const vf g = vf_load_bf16_n(gate + c, n);
            vf_store_bf16_n(y + c, vf_mul(vf_mul(g, sigmoid(inner(j->act, g))), vf_load_bf16_n(up + c, n)), n);
        }
    }
}

tdm_status TDM_CPU(swiglu)(tdm_stream *s, tdm_glu act, tdm_view y, tdm_cview gate, tdm_cview up, const tdm_quantize_act *q, tdm_error *err)
{
    TDM_ASSERT(y.dtype == TDM_DTYPE_BF16 && gate.dtype == TDM_DTYPE_BF16 && up.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT(gate.rows == y.rows && up.rows == y.rows && gate.cols == y.cols && up.cols == y.cols);
    swiglu_job job = {.act = act, .y = y, .gate = gate, .up = up};
    tdm_cpu_parallel(s, y.rows, rows_per_piece(y.cols), swiglu_rows, &job);
    return q ? TDM_CPU(quantize_act)(s, q, err) : TDM_OK;
}

/* With s = sigmoid(z): dup = dy gate s, dgate = dy up s (1 + gate (1 - s) z'). */
static void swiglu_backward_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const swiglu_job *j = ctx;
    (void)thread;
    for (int64_t t = first; t < last; t++) {
        const uint16_t *gate = tdm_crow_bf16(j->gate, t), *up = tdm_crow_bf16(j->up, t);
        const float *dy = tdm_crow_f32(j->dy, t);
        uint16_t *dgate = tdm_row_bf16(j->dgate, t), *dup = tdm_row_bf16(j->dup, t);
        for (int64_t c = 0; c < j->dy.cols; c += VF) {
            const int64_t n = tdm_min_i64(VF, j->dy.cols - c);
            const vf g = vf_load_bf16_n(gate + c, n), u = vf_load_bf16_n(up + c, n), d = vf_load_n(dy + c, n);
            const vf sg = sigmoid(inner(j->act, g)), one = vf_set(1.0f);
            const vf slope = vf_mul(sg, vf_fma(vf_mul(g, inner_slope(j->act, g)), vf_sub(one, sg), one));
            vf_store_bf16_n(dup + c, vf_mul(d, vf_mul(g, sg)), n); /* both inputs are read: dgate, dup may lie on them */
            vf_store_bf16_n(dgate + c, vf_mul(vf_mul(d, u), slope), n);
        }
    }
}

tdm_status TDM_CPU(swiglu_backward)(tdm_stream *s, tdm_glu act, tdm_view dgate, tdm_view dup, tdm_cview dy, tdm_cview gate, tdm_cview up,
                                    tdm_error *err)
{
    (void)err;
    TDM_ASSERT(dgate.dtype == TDM_DTYPE_BF16 && dup.dtype == TDM_DTYPE_BF16 && dy.dtype == TDM_DTYPE_F32);
    TDM_ASSERT(gate.dtype == TDM_DTYPE_BF16 && up.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT(dgate.rows == dy.rows && dup.rows == dy.rows && gate.rows == dy.rows && up.rows == dy.rows);
    TDM_ASSERT(dgate.cols == dy.cols && dup.cols == dy.cols && gate.cols == dy.cols && up.cols == dy.cols);
    swiglu_job job = {.act = act, .dgate = dgate, .dup = dup, .dy = dy, .gate = gate, .up = up};
    tdm_cpu_parallel(s, dy.rows, rows_per_piece(dy.cols), swiglu_backward_rows, &job);
    return TDM_OK;
}
