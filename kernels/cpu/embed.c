/* embed: rows of the embedding table into the residual stream; gather_rows: rows of any view. */
#include "kernels/cpu/ops_cpu.h"
#include "kernels/cpu/lanes.h"

typedef struct embed_job {
    tdm_view y;
    const tdm_weight *table;
    const int32_t *id;
    float scale;
} embed_job;

static int64_t rows_per_piece(int64_t cols) { return tdm_max_i64(1, 32768 / tdm_max_i64(cols, 1)); }

/* The scale of columns [c, c + 16) of a row: 16 divides a block's 128 columns. */
static float scale_at(const tdm_weight *w, int64_t row, int64_t c)
{
    switch (w->scheme) {
    case TDM_SCHEME_FP8_TENSOR: return *(const float *)w->scale.data;
    case TDM_SCHEME_FP8_CHANNEL: return *tdm_crow_f32(w->scale, row);
    case TDM_SCHEME_FP8_BLOCK: return tdm_crow_f32(w->scale, row / TDM_FP8_BLOCK)[c / TDM_FP8_BLOCK];
    case TDM_SCHEME_BF16: break;
    }
    return 1.0f;
}

static void embed_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const embed_job *j = ctx;
    const tdm_cview codes = j->table->codes;
    const vf scale = vf_set(j->scale);
    (void)thread;
    for (int64_t t = first; t < last; t++) {
        float *y = tdm_row_f32(j->y, t);
        const int64_t row = j->id[t];
        for (int64_t c = 0; c < codes.cols; c += VF) {
            const int64_t n = tdm_min_i64(VF, codes.cols - c);
            if (j->table->scheme == TDM_SCHEME_BF16) {
                vf_store_n(y + c, vf_mul(vf_load_bf16_n(tdm_crow_bf16(codes, row) + c, n), scale), n);
            } else {
                uint8_t code[VF] = {0};
                memcpy(code, (const uint8_t *)codes.data + row * codes.stride + c, (size_t)n);
                const vf v = vf_mul(vf_from_e4m3(vu_load_u8(code)), vf_set(scale_at(j->table, row, c)));
                vf_store_n(y + c, vf_mul(v, scale), n);
            }
        }
    }
}

tdm_status TDM_CPU(embed)(tdm_stream *s, tdm_view y, const tdm_weight *table, const int32_t *id, float scale, tdm_error *err)
{
    (void)err;
    TDM_ASSERT(y.dtype == TDM_DTYPE_F32 && y.cols == table->codes.cols);
    TDM_ASSERT(table->codes.dtype == (table->scheme == TDM_SCHEME_BF16 ? TDM_DTYPE_BF16 : TDM_DTYPE_E4M3));
    for (int64_t t = 0; t < y.rows; t++) TDM_ASSERT(id[t] >= 0 && id[t] < table->codes.rows);
    embed_job job = {y, table, id, scale};
    tdm_cpu_parallel(s, y.rows, rows_per_piece(y.cols), embed_rows, &job);
    return TDM_OK;
}

typedef struct gather_job {
    tdm_view y;
    tdm_cview x;
    const int32_t *row;
} gather_job;

static void gather_some(void *ctx, int64_t first, int64_t last, int thread)
{
    const gather_job *j = ctx;
    const int64_t bytes = (int64_t)tdm_dtype_bytes(j->x.dtype);
    (void)thread;
    for (int64_t t = first; t < last; t++)
        memcpy((char *)j->y.data + t * j->y.stride * bytes, (const char *)j->x.data + j->row[t] * j->x.stride * bytes,
               (size_t)(j->x.cols * bytes));
}

tdm_status TDM_CPU(gather_rows)(tdm_stream *s, tdm_view y, tdm_cview x, const int32_t *row, tdm_error *err)
{
    (void)err;
    TDM_ASSERT(y.dtype == x.dtype && y.cols == x.cols);
    for (int64_t t = 0; t < y.rows; t++) TDM_ASSERT(row[t] >= 0 && row[t] < x.rows);
    gather_job job = {y, x, row};
    tdm_cpu_parallel(s, y.rows, rows_per_piece(y.cols), gather_some, &job);
    return TDM_OK;
}
