/* Pages of the rollout's KV cache: taken, shared by count, released. The bytes lie in the slab's rollout layout; this is the bookkeeping. */
#ifndef TANDEM_INFER_KV_CACHE_H
#define TANDEM_INFER_KV_CACHE_H

#include "infer/model.h"

typedef struct tdm_kv_cache {
    const tdm_model *m;
    char *base;             /* [L][pages] pages, borrowed */
    size_t page_bytes;      /* of one layer */
    int64_t pages, free_count;
    int32_t *refs, *free_list; /* [pages], owned */
} tdm_kv_cache;

/* Bytes of `pages` pages over all layers. */
size_t tdm_kv_cache_bytes(const tdm_backend *be, const tdm_model_config *c, tdm_dtype dtype, int64_t pages);
tdm_status tdm_kv_cache_open(tdm_kv_cache *k, const tdm_model *m, int64_t pages, void *base, tdm_error *err);
void tdm_kv_cache_close(tdm_kv_cache *k);
/* Forgets everything: all pages are free. Called when the rollout phase begins, for the bytes were the trainer's. */
void tdm_kv_cache_reset(tdm_kv_cache *k);

int32_t tdm_kv_take(tdm_kv_cache *k);              /* -1: none is free; the count is 1 */
void tdm_kv_share(tdm_kv_cache *k, int32_t page);  /* one more owner */
void tdm_kv_release(tdm_kv_cache *k, int32_t page);
tdm_kv_pages tdm_kv_layer(const tdm_kv_cache *k, int64_t layer);
/* Copies a page over all layers (copy-on-write of a shared prompt's last page). */
tdm_status tdm_kv_copy_page(const tdm_kv_cache *k, int32_t dst, int32_t src, tdm_error *err);

#endif
