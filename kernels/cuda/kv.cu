// The paged KV cache: bytes of a page, writing rows into pages, copying a page.
#include "kernels/cuda/kv.cuh"

enum { WRITE_THREADS = 128 };

size_t tdm_cuda_kv_page_bytes(tdm_dtype dtype, int64_t kv_heads, int64_t head_dim)
{
    TDM_ASSERT((dtype == TDM_DTYPE_BF16 || dtype == TDM_DTYPE_E4M3) && head_dim % 8 == 0);
    return tdm_align_up((size_t)(2 * kv_heads * TDM_CUDA_KV_PAGE * kv_row_bytes(dtype, head_dim)), 256);
}

struct write_args {
    kv_layout kv;
    const uint16_t *k, *v;
    int64_t k_stride, v_stride, pages_stride;
    const int32_t *q_start, *position, *pages;
    int sequences, kv_heads;
    float k_scale, v_scale;
};

// A block takes one token. Its sequence is the last whose first row is at or before it: empty ones are passed.
template <bool FP8> __global__ void __launch_bounds__(WRITE_THREADS) kv_write_kernel(const write_args a)
{
    const int64_t t = blockIdx.x;
    const int b = kv_sequence_of<WRITE_THREADS>(a.q_start, a.sequences, t);
    const int p = a.position[t];
    const int32_t page = a.pages[b * a.pages_stride + p / TDM_CUDA_KV_PAGE];
    const int units = FP8 ? a.kv.row_bytes / 8 : a.kv.row_bytes / 16; // of 8 elements in a row
    for (int i = (int)threadIdx.x; i < a.kv_heads * units; i += WRITE_THREADS) {
        const int g = i / units, u = i % units;
        const uint16_t *k = a.k + t * a.k_stride + g * a.kv.head_dim, *v = a.v + t * a.v_stride + g * a.kv.head_dim;
        char *to = kv_head(a.kv, page, g) + p % TDM_CUDA_KV_PAGE * a.kv.row_bytes;
        kv_put<FP8>(a.kv, to, k, u, a.k_scale);
        kv_put<FP8>(a.kv, to + a.kv.values_at, v, u, a.v_scale);
    }
}

tdm_status tdm_cuda_kv_write(tdm_stream *s, const tdm_kv_write *a, tdm_error *err)
{
    const tdm_batch *batch = a->batch;
    const int64_t width = a->kv->kv_heads * a->kv->head_dim;
    TDM_ASSERT(a->k.dtype == TDM_DTYPE_BF16 && a->v.dtype == TDM_DTYPE_BF16 && a->k.cols == width && a->v.cols == width);
    TDM_ASSERT(a->k.rows == batch->tokens && a->v.rows == batch->tokens && a->k.stride % 8 == 0 && a->v.stride % 8 == 0);
    if (batch->tokens == 0) return TDM_OK;
    TDM_ASSERT((uintptr_t)a->k.data % 16 == 0 && (uintptr_t)a->v.data % 16 == 0);
    write_args w;
    w.kv = kv_layout_of(a->kv);
    w.k = (const uint16_t *)a->k.data;
    w.v = (const uint16_t *)a->v.data;
    w.k_stride = a->k.stride;
    w.v_stride = a->v.stride;
    w.pages_stride = batch->pages_stride;
    w.q_start = batch->q_start;
    w.position = batch->position;
    w.pages = batch->pages;
    w.sequences = (int)batch->sequences;
    w.kv_heads = (int)a->kv->kv_heads;
    w.k_scale = a->kv->k_scale;
    w.v_scale = a->kv->v_scale;
    const unsigned grid = (unsigned)batch->tokens;
    if (a->kv->dtype == TDM_DTYPE_E4M3) kv_write_kernel<true><<<grid, WRITE_THREADS, 0, s->cuda>>>(w);
    else kv_write_kernel<false><<<grid, WRITE_THREADS, 0, s->cuda>>>(w);
    return tdm_cuda_launched(err, "kv_write", batch->tokens, width);
}

tdm_status tdm_cuda_kv_copy(tdm_stream *s, const tdm_kv_pages *kv, int64_t dst, int64_t src, tdm_error *err)
{
    TDM_ASSERT(dst >= 0 && dst < kv->pages && src >= 0 && src < kv->pages);
    if (dst == src) return TDM_OK;
    const size_t bytes = tdm_cuda_kv_page_bytes(kv->dtype, kv->kv_heads, kv->head_dim);
    char *base = (char *)kv->data;
    return TDM_CUDA(cudaMemcpyAsync(base + (size_t)dst * bytes, base + (size_t)src * bytes, bytes, cudaMemcpyDeviceToDevice, s->cuda));
}
