// linear and the largest product of its backward on cuBLASLt. FP8 weights that meet bf16 are written out as bf16(code * scale) first,
// as many rows at a time as our part of the workspace holds; FP8 activations meet FP8 weights as they are.
#include "kernels/cuda/blaslt.cuh"
#include "kernels/cuda/gemm.cuh"

enum { THREADS = 256 };

// ---- What is made ready in the workspace -------------------------------------------------------------------------------------

// out[b * rows + t] = x[t * stride + b]; x NULL: `one` everywhere.
static __global__ void __launch_bounds__(THREADS) turn_scales(float *out, const float *x, int64_t stride, int64_t rows, float one)
{
    const int64_t t = (int64_t)blockIdx.x * THREADS + threadIdx.x, b = blockIdx.y;
    if (t < rows) out[b * rows + t] = x ? __ldg(x + t * stride + b) : one;
}

// out[r * pitch + c] = x[r * stride + c]
static __global__ void __launch_bounds__(THREADS) pad_scales(float *out, const float *x, int64_t stride, int64_t rows, int64_t cols,
                                                             int64_t pitch)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < rows * pitch) out[i] = i % pitch < cols ? __ldg(x + i / pitch * stride + i % pitch) : 0.0f;
}

// y = bias, or y += bias: before the product, which is then added, so that y is rounded once.
static __global__ void __launch_bounds__(THREADS) start_with_bias(void *y, int64_t stride, const uint16_t *bias, int64_t cols, bool y_f32,
                                                                  bool accumulate)
{
    const int64_t n = (int64_t)blockIdx.x * THREADS + threadIdx.x, at = (int64_t)blockIdx.y * stride + n;
    if (n >= cols) return;
    if (!y_f32) ((uint16_t *)y)[at] = bias[n];
    else ((float *)y)[at] = accumulate ? __fadd_rn(((float *)y)[at], tdm_bf16(bias[n])) : tdm_bf16(bias[n]);
}

// ---- Products ----------------------------------------------------------------------------------------------------------------

static void set_y(tdm_blas_product *p, tdm_view y, bool add)
{
    p->rows = y.rows, p->cols = y.cols;
    p->y = y.data, p->y_stride = y.stride;
    p->y_f32 = y.dtype == TDM_DTYPE_F32;
    p->alpha = 1.0f;
    p->beta = add ? 1.0f : 0.0f;
}

// y = alpha * x w^T, bf16.
static tdm_blas_product by_rows(tdm_view y, tdm_cview x, tdm_cview w, float alpha, bool add)
{
    tdm_blas_product p = {};
    set_y(&p, y, add);
    p.depth = x.cols;
    p.x = x.data, p.x_stride = x.stride;
    p.w = w.data, p.w_stride = w.stride;
    p.w_turned = true;
    p.alpha = alpha;
    return p;
}

// Rows of a weight that our part of the workspace holds as bf16, whole blocks of 128; all of them where W is bf16 already.
static int64_t chunk_rows(const tdm_stream *s, const tdm_weight *w)
{
    size_t bytes;
    if (w->scheme == TDM_SCHEME_BF16) return w->codes.rows;
    (void)tdm_blas_area(s, &bytes);
    return tdm_min_i64((int64_t)(bytes / 2) / w->codes.cols / TDM_FP8_BLOCK * TDM_FP8_BLOCK, w->codes.rows);
}

static bool weight_fits(const tdm_stream *s, const tdm_weight *w)
{
    if (w->codes.rows % 16 != 0 || w->codes.cols % 16 != 0 || chunk_rows(s, w) <= 0) return false;
    return tdm_gemm_vector(w->codes.data, w->codes.stride, w->scheme == TDM_SCHEME_BF16 ? 2 : 1);
}

// Rows [first, first + rows) of W in bf16: W itself, or our part of the workspace (which tdm_dequantize fills).
static tdm_cview weight_rows(const tdm_stream *s, const tdm_weight *w, int64_t first, int64_t rows)
{
    size_t bytes;
    if (w->scheme == TDM_SCHEME_BF16) return tdm_cview_rows(w->codes, first, rows);
    return (tdm_cview){tdm_blas_area(s, &bytes), TDM_DTYPE_BF16, rows, w->codes.cols, w->codes.cols};
}

static tdm_view columns(tdm_view v, int64_t first, int64_t count)
{
    v.data = (char *)v.data + (size_t)first * tdm_dtype_bytes(v.dtype);
    v.cols = count;
    return v;
}

// y (+)= x bf16(W)^T, chunk by chunk of W's rows. ask: only says whether all of them can run.
static bool run_bf16(tdm_stream *s, const tdm_linear *a, bool add, bool ask, tdm_status *st, tdm_error *err)
{
    const tdm_weight *w = a->w;
    const int64_t n = w->codes.rows, step = chunk_rows(s, w);
    for (int64_t first = 0; first < n; first += step) {
        const int64_t rows = tdm_min_i64(step, n - first);
        const tdm_blas_product p = by_rows(columns(a->y, first, rows), a->x, weight_rows(s, w, first, rows), 1.0f, add);
        if (ask) {
            if (!tdm_blas_ready(s, p)) return false;
            continue;
        }
        if (w->scheme != TDM_SCHEME_BF16) *st = tdm_dequantize(s, w, first, rows, 0, w->codes.cols, (void *)p.w, err);
        if (*st == TDM_OK) *st = tdm_blas_run(s, p, err);
        if (*st != TDM_OK) return false;
    }
    return true;
}

// The product of codes; where its scales lie in the workspace, and what has to be done to put them there.
struct coded {
    tdm_blas_product p;
    float *xs, *ws; // NULL: they are read where they are
    int64_t blocks, pitch;
};

static bool plan_codes(const tdm_stream *s, const tdm_linear *a, bool add, coded *c)
{
    const tdm_weight *w = a->w;
    const int64_t t = a->y.rows, n = w->codes.rows, k = w->codes.cols;
    size_t bytes, need = 0;
    char *area = tdm_blas_area(s, &bytes);
    *c = {};
    c->p = by_rows(a->y, a->xq, w->codes, 1.0f, add);
    c->p.ws = (const float *)w->scale.data;
    c->p.xs = (const float *)a->xs.data;
    c->blocks = 1;
    if (w->scheme == TDM_SCHEME_FP8_TENSOR) {
        c->p.kind = TDM_BLAS_TENSOR;
        if (w->act == TDM_ACT_STATIC) c->p.xs = NULL, c->p.alpha = w->input_scale;
        return true;
    }
    if (w->scheme == TDM_SCHEME_FP8_CHANNEL) {
        c->p.kind = TDM_BLAS_CHANNEL;
        if (w->scale.stride != 1 || (uintptr_t)w->scale.data % 16 != 0) return false;
        if (w->act == TDM_ACT_DYNAMIC && a->xs.stride == 1 && (uintptr_t)a->xs.data % 16 == 0) return true;
    } else {
        // The library wants the activations' scales [K / 128, T] and the weight's [N / 128, K / 128 rounded up to 4].
        c->p.kind = TDM_BLAS_BLOCK;
        if (n % TDM_FP8_BLOCK != 0 || k % TDM_FP8_BLOCK != 0 || t % 8 != 0) return false;
        c->blocks = k / TDM_FP8_BLOCK;
        c->pitch = tdm_ceil_div(c->blocks, 4) * 4;
        if (w->scale.stride != c->pitch || (uintptr_t)w->scale.data % 16 != 0) {
            c->p.ws = c->ws = (float *)area;
            need = tdm_align_up((size_t)(n / TDM_FP8_BLOCK * c->pitch) * sizeof(float), 256);
        }
    }
    c->p.xs = c->xs = (float *)(area + need);
    return need + (size_t)(c->blocks * t) * sizeof(float) <= bytes && c->blocks <= 65535;
}

static tdm_status run_codes(tdm_stream *s, const tdm_linear *a, const coded *c, tdm_error *err)
{
    const tdm_weight *w = a->w;
    const int64_t t = a->y.rows;
    if (c->ws) {
        const int64_t rows = w->codes.rows / TDM_FP8_BLOCK;
        pad_scales<<<(unsigned)tdm_ceil_div(rows * c->pitch, THREADS), THREADS, 0, s->cuda>>>(c->ws, (const float *)w->scale.data,
                                                                                              w->scale.stride, rows, c->blocks, c->pitch);
    }
    if (c->xs) {
        const float *from = w->act == TDM_ACT_DYNAMIC ? (const float *)a->xs.data : NULL;
        turn_scales<<<dim3((unsigned)tdm_ceil_div(t, THREADS), (unsigned)c->blocks), THREADS, 0, s->cuda>>>(c->xs, from, a->xs.stride, t,
                                                                                                           w->input_scale);
    }
    const tdm_status st = tdm_cuda_launched(err, "scales", t, c->blocks);
    return st == TDM_OK ? tdm_blas_run(s, c->p, err) : st;
}

tdm_status tdm_linear_fast(tdm_stream *s, const tdm_linear *a, bool *done, tdm_error *err)
{
    const tdm_weight *w = a->w;
    const bool adapter = a->lora_a.data != NULL, codes = w->act != TDM_ACT_NONE, add = a->accumulate || w->bias.data;
    tdm_status st = TDM_OK;
    *done = false;
    if (!s->blas || s->exact || a->x.rows < TDM_BLAS_ROWS_LEAST || a->x.rows > 65535 || !weight_fits(s, w)) return TDM_OK;
    coded c = {};
    if (codes ? !plan_codes(s, a, add, &c) || !tdm_blas_ready(s, c.p) : !run_bf16(s, a, add, true, &st, err)) return TDM_OK;
    tdm_blas_product h = {}, second = {};
    if (adapter) {
        if (a->lora_a.rows % 8 != 0) return TDM_OK;
        h = by_rows(a->lora_h, a->lora_x.data ? a->lora_x : a->x, a->lora_a, 1.0f, false);
        second = by_rows(a->y, tdm_view_const(a->lora_h), a->lora_b, a->lora_scale, true);
        if (!tdm_blas_ready(s, h) || !tdm_blas_ready(s, second)) return TDM_OK;
    }
    *done = true; // from here on a failure is an error
    if (w->bias.data) {
        start_with_bias<<<dim3((unsigned)tdm_ceil_div(a->y.cols, THREADS), (unsigned)a->y.rows), THREADS, 0, s->cuda>>>(
            a->y.data, a->y.stride, (const uint16_t *)w->bias.data, a->y.cols, a->y.dtype == TDM_DTYPE_F32, a->accumulate);
        TDM_TRY(st, tdm_cuda_launched(err, "bias", a->y.rows, a->y.cols), end);
    }
    if (codes) TDM_TRY(st, run_codes(s, a, &c, err), end);
    else if (!run_bf16(s, a, add, false, &st, err)) goto end;
    if (!adapter) goto end;
    TDM_TRY(st, tdm_blas_run(s, h, err), end);
    st = tdm_blas_run(s, second, err);
end:
    return st;
}

// ---- Backward ----------------------------------------------------------------------------------------------------------------

tdm_status tdm_dx_fast(tdm_stream *s, const tdm_linear_backward *a, bool *done, tdm_error *err)
{
    const tdm_weight *w = a->w;
    tdm_status st = TDM_OK;
    *done = false;
    if (!s->blas || s->exact || a->dy.rows < TDM_BLAS_ROWS_LEAST || !weight_fits(s, w)) return TDM_OK;
    const int64_t n = w->codes.rows, step = chunk_rows(s, w);
    for (int run = 0; run < 2; run++) // first ask, then run: dx must not be half done
        for (int64_t first = 0; first < n; first += step) {
            const int64_t rows = tdm_min_i64(step, n - first);
            const tdm_cview part = weight_rows(s, w, first, rows);
            tdm_blas_product p = {};
            set_y(&p, a->dx, a->accumulate || first > 0);
            p.depth = rows;
            p.x = (const uint16_t *)a->dy.data + first, p.x_stride = a->dy.stride;
            p.w = part.data, p.w_stride = part.stride;
            if (!run) {
                if (!tdm_blas_ready(s, p)) return TDM_OK;
                continue;
            }
            *done = true;
            if (w->scheme != TDM_SCHEME_BF16) TDM_TRY(st, tdm_dequantize(s, w, first, rows, 0, w->codes.cols, (void *)part.data, err), end);
            TDM_TRY(st, tdm_blas_run(s, p, err), end);
        }
end:
    return st;
}
