/* convert: f32 and bf16 into each other (to nearest even), or a copy of any dtype. */
#include "kernels/cpu/ops_cpu.h"
#include "kernels/cpu/lanes.h"

typedef struct convert_job {
    tdm_view y;
    tdm_cview x;
} convert_job;

static void convert_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const convert_job *j = ctx;
    const int64_t cols = j->x.cols, bytes = (int64_t)tdm_dtype_bytes(j->x.dtype);
    (void)thread;
    for (int64_t t = first; t < last; t++) {
        if (j->x.dtype == j->y.dtype) {
            memcpy((char *)j->y.data + t * j->y.stride * bytes, (const char *)j->x.data + t * j->x.stride * bytes,
                   (size_t)(cols * bytes));
            continue;
        }
        for (int64_t c = 0; c < cols; c += VF) {
            const int64_t n = tdm_min_i64(VF, cols - c);
            if (j->x.dtype == TDM_DTYPE_F32)
                vf_store_bf16_n(tdm_row_bf16(j->y, t) + c, vf_load_n(tdm_crow_f32(j->x, t) + c, n), n);
            else
                vf_store_n(tdm_row_f32(j->y, t) + c, vf_load_bf16_n(tdm_crow_bf16(j->x, t) + c, n), n);
        }
    }
}

static bool is_float(tdm_dtype t) { return t == TDM_DTYPE_F32 || t == TDM_DTYPE_BF16; }

tdm_status TDM_CPU(convert)(tdm_stream *s, tdm_view y, tdm_cview x, tdm_error *err)
{
    (void)err;
    TDM_ASSERT(y.rows == x.rows && y.cols == x.cols);
    TDM_ASSERT(x.dtype == y.dtype || (is_float(x.dtype) && is_float(y.dtype)));
    convert_job job = {y, x};
    tdm_cpu_parallel(s, x.rows, tdm_max_i64(1, 32768 / tdm_max_i64(x.cols, 1)), convert_rows, &job);
    return TDM_OK;
}
