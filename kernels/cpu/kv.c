/* The paged KV cache: bytes of a page, writing rows into pages, copying a page. */
#include "kernels/cpu/kv.h"
#include "kernels/cpu/ops_cpu.h"

size_t TDM_CPU(kv_page_bytes)(tdm_dtype dtype, int64_t kv_heads, int64_t head_dim)
{
    TDM_ASSERT((dtype == TDM_DTYPE_BF16 || dtype == TDM_DTYPE_E4M3) && head_dim % 2 == 0);
    return kv_bytes(dtype, kv_heads, head_dim);
}

/* One head of one position. */
static void write_bf16(char *keys, char *values, int64_t lane, int64_t dh, const uint16_t *k, const uint16_t *v)
{
    const int64_t padded = kv_padded(dh);
    for (int64_t d = 0; d < dh; d += 2) memcpy(keys + (d / 2 * KV_PAGE + lane) * 4, k + d, 4);
    memcpy(values + lane * padded * 2, v, (size_t)dh * 2);
    memset(values + (lane * padded + dh) * 2, 0, (size_t)(padded - dh) * 2);
}

static void write_e4m3(char *keys, char *values, int64_t lane, int64_t dh, const uint16_t *k, const uint16_t *v, float k_scale,
                       float v_scale)
{
    const int64_t padded = kv_padded(dh);
    for (int64_t d = 0; d < dh; d++) {
        keys[(d / 2 * KV_PAGE + lane) * 2 + d % 2] = (char)tdm_f32_to_e4m3(tdm_bf16_to_f32(k[d]) / k_scale);
        values[lane * padded + d] = (char)tdm_f32_to_e4m3(tdm_bf16_to_f32(v[d]) / v_scale);
    }
    memset(values + lane * padded + dh, 0, (size_t)(padded - dh));
}

static int64_t sequence_of(const tdm_batch *batch, int64_t t) /* the last whose first row is at or before t: empty ones are passed */
{
    int64_t low = 0, high = batch->sequences;
    while (high - low > 1) {
        const int64_t mid = (low + high) / 2;
        if (batch->q_start[mid] <= t) low = mid;
        else high = mid;
    }
    return low;
}

static void write_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    const tdm_kv_write *a = ctx;
    const tdm_kv_pages *kv = a->kv;
    const int64_t dh = kv->head_dim;
    (void)thread;
    for (int64_t t = first; t < last; t++) {
        const int32_t p = a->batch->position[t];
        const int32_t page = a->batch->pages[sequence_of(a->batch, t) * a->batch->pages_stride + p / KV_PAGE];
        TDM_ASSERT(p >= 0 && page >= 0 && page < kv->pages);
        for (int64_t g = 0; g < kv->kv_heads; g++) {
            char *keys = kv_head(kv, page, g), *values = keys + kv_key_bytes(kv->dtype, dh);
            const uint16_t *k = tdm_crow_bf16(a->k, t) + g * dh, *v = tdm_crow_bf16(a->v, t) + g * dh;
            if (kv->dtype == TDM_DTYPE_BF16) write_bf16(keys, values, p % KV_PAGE, dh, k, v);
            else write_e4m3(keys, values, p % KV_PAGE, dh, k, v, kv->k_scale, kv->v_scale);
        }
    }
}

tdm_status TDM_CPU(kv_write)(tdm_stream *s, const tdm_kv_write *a, tdm_error *err)
{
    (void)err;
    const int64_t width = a->kv->kv_heads * a->kv->head_dim;
    TDM_ASSERT(a->k.dtype == TDM_DTYPE_BF16 && a->v.dtype == TDM_DTYPE_BF16 && a->k.cols == width && a->v.cols == width);
    TDM_ASSERT(a->k.rows == a->batch->tokens && a->v.rows == a->batch->tokens && a->kv->head_dim % 2 == 0);
    tdm_kv_write job = *a;
    tdm_cpu_parallel(s, a->batch->tokens, tdm_max_i64(1, 8192 / tdm_max_i64(width, 1)), write_rows, &job);
    return TDM_OK;
}

tdm_status TDM_CPU(kv_copy)(tdm_stream *s, const tdm_kv_pages *kv, int64_t dst, int64_t src, tdm_error *err)
{
    (void)s;
    (void)err;
    TDM_ASSERT(dst >= 0 && dst < kv->pages && src >= 0 && src < kv->pages);
    const size_t bytes = kv_bytes(kv->dtype, kv->kv_heads, kv->head_dim);
    memmove((char *)kv->data + (size_t)dst * bytes, (const char *)kv->data + (size_t)src * bytes, bytes);
    return TDM_OK;
}
