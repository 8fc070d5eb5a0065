#include "infer/kv_cache.h"

#include <stdlib.h>

size_t tdm_kv_cache_bytes(const tdm_backend *be, const tdm_model_config *c, tdm_dtype dtype, int64_t pages)
{
    return (size_t)c->layers * (size_t)pages * be->kv_page_bytes(dtype, c->kv_heads, c->head_dim);
}

tdm_status tdm_kv_cache_open(tdm_kv_cache *k, const tdm_model *m, int64_t pages, void *base, tdm_error *err)
{
    *k = (tdm_kv_cache){.m = m, .base = base, .pages = pages};
    k->page_bytes = m->be->kv_page_bytes(m->kv_dtype, m->c->kv_heads, m->c->head_dim);
    k->refs = malloc((size_t)pages * sizeof *k->refs);
    k->free_list = malloc((size_t)pages * sizeof *k->free_list);
    if (!k->refs || !k->free_list) {
        tdm_kv_cache_close(k);
        return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the page table");
    }
    tdm_kv_cache_reset(k);
    return TDM_OK;
}

void tdm_kv_cache_close(tdm_kv_cache *k)
{
    free(k->refs);
    free(k->free_list);
    k->refs = k->free_list = NULL;
}

void tdm_kv_cache_reset(tdm_kv_cache *k)
{
    k->free_count = k->pages;
    for (int64_t i = 0; i < k->pages; i++) {
        k->refs[i] = 0;
        k->free_list[i] = (int32_t)(k->pages - 1 - i); /* taken from the end: page 0 first */
    }
}

int32_t tdm_kv_take(tdm_kv_cache *k)
{
    if (k->free_count == 0) return -1;
    const int32_t page = k->free_list[--k->free_count];
    TDM_ASSERT_EQ(k->refs[page], 0);
    k->refs[page] = 1;
    return page;
}

void tdm_kv_share(tdm_kv_cache *k, int32_t page)
{
    TDM_ASSERT(k->refs[page] > 0);
    k->refs[page]++;
}

void tdm_kv_release(tdm_kv_cache *k, int32_t page)
{
    TDM_ASSERT(k->refs[page] > 0);
    if (--k->refs[page] == 0) k->free_list[k->free_count++] = page;
}

tdm_kv_pages tdm_kv_layer(const tdm_kv_cache *k, int64_t layer)
{
    return (tdm_kv_pages){.data = k->base + (size_t)layer * (size_t)k->pages * k->page_bytes,
                          .pages = k->pages,
                          .kv_heads = k->m->c->kv_heads,
                          .head_dim = k->m->c->head_dim,
                          .dtype = k->m->kv_dtype};
}

tdm_status tdm_kv_copy_page(const tdm_kv_cache *k, int32_t dst, int32_t src, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int64_t l = 0; l < k->m->c->layers; l++) {
        const tdm_kv_pages pages = tdm_kv_layer(k, l);
        TDM_TRY(st, k->m->be->kv_copy(k->m->s, &pages, dst, src, err), done);
    }
done:
    return st;
}
