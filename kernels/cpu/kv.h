/* The CPU backend's layout of a KV page: 16 positions, head after head, each head's keys and then its values.
 *   keys    [Dh / 2][16 positions][2]: the pair (2i, 2i + 1) of all positions side by side, as the dot product of bf16 pairs wants it
 *   values  [16 positions][Dh rounded up to 16], the rest of a row zero
 * E4M3 pages hold codes in the same order; they are widened to bf16 (exactly) chunk by chunk, the scales entering the f32 sums. */
#ifndef TANDEM_KERNELS_CPU_KV_H
#define TANDEM_KERNELS_CPU_KV_H

#include "kernels/cpu/lanes.h"

enum { KV_PAGE = 16, KV_CHUNK = 8 /* pages looked at together */ };

static inline int64_t kv_padded(int64_t head_dim) { return (head_dim + VF - 1) / VF * VF; }
static inline int64_t kv_element(tdm_dtype dtype) { return dtype == TDM_DTYPE_BF16 ? 2 : 1; }
static inline int64_t kv_key_bytes(tdm_dtype dtype, int64_t head_dim) { return head_dim * KV_PAGE * kv_element(dtype); }
static inline int64_t kv_head_bytes(tdm_dtype dtype, int64_t head_dim)
{
    return kv_key_bytes(dtype, head_dim) + kv_padded(head_dim) * KV_PAGE * kv_element(dtype);
}
static inline size_t kv_bytes(tdm_dtype dtype, int64_t kv_heads, int64_t head_dim)
{
    return tdm_align_up((size_t)(kv_heads * kv_head_bytes(dtype, head_dim)), 64);
}
/* The keys of head g in a page; its values follow kv_key_bytes later. */
static inline char *kv_head(const tdm_kv_pages *kv, int64_t page, int64_t g)
{
    return (char *)kv->data + page * (int64_t)kv_bytes(kv->dtype, kv->kv_heads, kv->head_dim) +
           g * kv_head_bytes(kv->dtype, kv->head_dim);
}

/* Bytes of scratch that widening one chunk takes. */
static inline size_t kv_chunk_bytes(int64_t head_dim) { return (size_t)(KV_CHUNK * KV_PAGE * kv_padded(head_dim) * 2); }

static inline void kv_widen(uint16_t *out, const char *codes, int64_t n)
{
    for (int64_t i = 0; i < n; i += VF) {
        uint8_t code[VF];
        memcpy(code, codes + i, VF);
        vu_store_u16(out + i, vu_shr(vu_of(vf_from_e4m3(vu_load_u8(code))), 16));
    }
}

/* Head g of `count` pages as bf16, keys or values: pointers into the pages, or into `scratch` where they had to be widened. */
static inline void kv_chunk(const void **out, const tdm_kv_pages *kv, const int32_t *pages, int64_t count, int64_t g, bool values,
                            uint16_t *scratch)
{
    const int64_t keys = kv_key_bytes(kv->dtype, kv->head_dim);
    const int64_t n = KV_PAGE * (values ? kv_padded(kv->head_dim) : kv->head_dim);
    for (int64_t i = 0; i < count; i++) {
        TDM_ASSERT(pages[i] >= 0 && pages[i] < kv->pages);
        const char *from = kv_head(kv, pages[i], g) + (values ? keys : 0);
        if (kv->dtype == TDM_DTYPE_BF16) {
            out[i] = from;
        } else {
            kv_widen(scratch + i * n, from, n);
            out[i] = scratch + i * n;
        }
    }
}

#endif
