// The CUDA backend's layout of a KV page: 64 positions; keys [Hkv][64][row], then values [Hkv][64][row].
//   bf16  a row is Dh elements
//   e4m3  a row is Dh codes, padded with zero codes to a multiple of 16 bytes
// so that every row begins at a multiple of 16 bytes. Pages begin at multiples of 256 bytes.
#pragma once

#include "kernels/cuda/common.cuh"

struct kv_layout {
    char *data;
    int64_t page_bytes, head_bytes, values_at; // of one page; of one head's keys (or values); where a page's values begin
    int row_bytes, head_dim;
};

static inline int64_t kv_row_bytes(tdm_dtype dtype, int64_t head_dim)
{
    return dtype == TDM_DTYPE_BF16 ? head_dim * 2 : (int64_t)tdm_align_up((size_t)head_dim, 16);
}

static inline kv_layout kv_layout_of(const tdm_kv_pages *kv)
{
    TDM_ASSERT(kv->dtype == TDM_DTYPE_BF16 || kv->dtype == TDM_DTYPE_E4M3);
    TDM_ASSERT(kv->head_dim > 0 && kv->head_dim % 8 == 0 && kv->head_dim <= 256 && (uintptr_t)kv->data % 16 == 0);
    kv_layout l;
    l.data = (char *)kv->data;
    l.row_bytes = (int)kv_row_bytes(kv->dtype, kv->head_dim);
    l.head_dim = (int)kv->head_dim;
    l.head_bytes = (int64_t)TDM_CUDA_KV_PAGE * l.row_bytes;
    l.values_at = kv->kv_heads * l.head_bytes;
    l.page_bytes = (int64_t)tdm_cuda_kv_page_bytes(kv->dtype, kv->kv_heads, kv->head_dim);
    return l;
}

// The keys of head g in a page; its values follow values_at later.
TDM_DEVICE char *kv_head(const kv_layout &l, int32_t page, int g) { return l.data + page * l.page_bytes + g * l.head_bytes; }

// 8 values as codes, or 8 zero codes past the head.
TDM_DEVICE uint2 kv_codes_of(const uint16_t *x, bool in, float scale)
{
    if (!in) return make_uint2(0, 0);
    const uint4 raw = *(const uint4 *)x;
    const uint32_t pair[4] = {raw.x, raw.y, raw.z, raw.w};
    uint32_t out[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float f = tdm_bf16((uint16_t)(pair[i / 2] >> (16 * (i % 2))));
        out[i / 4] |= (uint32_t)tdm_to_e4m3(__fdiv_rn(f, scale)) << (8 * (i % 4));
    }
    return make_uint2(out[0], out[1]);
}
// Eight elements of a head's row, number u, at x + 8u, to the row at `to`.
template <bool FP8> TDM_DEVICE void kv_put(const kv_layout &l, char *to, const uint16_t *x, int u, float scale)
{
    if (FP8) *(uint2 *)(to + u * 8) = kv_codes_of(x + u * 8, u * 8 < l.head_dim, scale);
    else *(uint4 *)(to + u * 16) = *(const uint4 *)(x + u * 8);
}

// The sequence of token t, for a whole block: the last whose first row is at or before it, so that empty ones are passed.
template <int THREADS> TDM_DEVICE int kv_sequence_of(const int32_t *q_start, int sequences, int64_t t)
{
    int begun = 0;
    for (int b0 = 0; b0 < sequences; b0 += THREADS) {
        const int b = b0 + (int)threadIdx.x;
        begun += __syncthreads_count(b < sequences && q_start[b] <= t);
    }
    return begun - 1;
}
