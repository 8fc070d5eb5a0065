/* Opening a model and cutting its buffers; the forward itself is in forward.c. */
#include "infer/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

size_t tdm_model_table_bytes(const tdm_model_config *c, int64_t positions)
{
    return (size_t)(positions * c->head_dim) * sizeof(float); /* cos and sin, Dh/2 each */
}

tdm_status tdm_model_open(tdm_model *m, const tdm_backend *be, tdm_stream *s, const tdm_weights *w, int64_t positions, tdm_dtype kv_dtype,
                          void *tables, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model_config *c = tdm_weights_config(w);
    *m = (tdm_model){.be = be, .s = s, .w = w, .c = c, .positions = positions, .kv_dtype = kv_dtype, .kv_scale = 1.0f};
    const int64_t half = c->head_dim / 2, count = positions * half;
    float *host = malloc((size_t)(2 * count + half) * sizeof *host), *to = tables; /* owned here */
    if (!host) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the RoPE tables");
    float *cos_t = host, *sin_t = host + count, *inv = host + 2 * count;
    tdm_rope_inv_freq(c, inv);
    for (int64_t p = 0; p < positions; p++)
        for (int64_t i = 0; i < half; i++) {
            const float angle = (float)p * inv[i]; /* f32, as transformers' rotary embedding has it */
            cos_t[p * half + i] = (float)cos((double)angle);
            sin_t[p * half + i] = (float)sin((double)angle);
        }
    TDM_TRY(st, be->upload(s, to, host, (size_t)(2 * count) * sizeof *host, err), done);
    m->rope_cos = (tdm_cview){to, TDM_DTYPE_F32, positions, half, half};
    m->rope_sin = (tdm_cview){to + count, TDM_DTYPE_F32, positions, half, half};
done:
    free(host);
    return st;
}

int64_t tdm_layer_window(const tdm_model_config *c, int64_t layer) { return layer >= c->window_first_layer ? c->window : 0; }

float tdm_attention_scale(const tdm_model_config *c) { return (float)(1.0 / sqrt((double)c->head_dim)); }

static int64_t widest(const tdm_model_config *c)
{
    return tdm_max_i64(tdm_max_i64(c->width, c->ffn), c->heads * c->head_dim);
}

/* One description serves counting and cutting: with memory NULL only `at` moves. */
static tdm_view cut(char *memory, size_t *at, tdm_dtype dtype, int64_t rows, int64_t cols)
{
    tdm_view v = tdm_view_make(memory ? memory + *at : NULL, dtype, rows, cols);
    *at += tdm_align_up((size_t)(rows * cols) * tdm_dtype_bytes(dtype), 64);
    return v;
}

static size_t lay_scratch(tdm_scratch *s, const tdm_model_config *c, int64_t tokens, bool dropout, char *memory)
{
    size_t at = 0;
    const int64_t wide = widest(c);
    *s = (tdm_scratch){0};
    s->xn = cut(memory, &at, TDM_DTYPE_BF16, tokens, c->width);
    s->act = cut(memory, &at, TDM_DTYPE_BF16, tokens, c->ffn);
    s->codes = cut(memory, &at, TDM_DTYPE_E4M3, tokens, wide);
    s->scales = cut(memory, &at, TDM_DTYPE_F32, tokens, tdm_ceil_div(wide, TDM_FP8_BLOCK));
    if (dropout) s->dropped = cut(memory, &at, TDM_DTYPE_BF16, tokens, wide);
    return at;
}

size_t tdm_scratch_bytes(const tdm_model_config *c, int64_t tokens, bool dropout)
{
    tdm_scratch s;
    return lay_scratch(&s, c, tokens, dropout, NULL);
}

void tdm_scratch_cut(tdm_scratch *s, const tdm_model_config *c, int64_t tokens, bool dropout, void *memory)
{
    lay_scratch(s, c, tokens, dropout, memory);
}

static size_t lay_acts(tdm_layer_acts *a, const tdm_model_config *c, const tdm_acts_spec *spec, char *memory)
{
    size_t at = 0;
    const int64_t t = spec->tokens, hq = c->heads * c->head_dim, hkv = c->kv_heads * c->head_dim;
    *a = (tdm_layer_acts){0};
    a->q = cut(memory, &at, TDM_DTYPE_BF16, t, hq);
    a->k = cut(memory, &at, TDM_DTYPE_BF16, t, hkv);
    a->v = cut(memory, &at, TDM_DTYPE_BF16, t, hkv);
    a->o = cut(memory, &at, TDM_DTYPE_BF16, t, hq);
    a->gate = cut(memory, &at, TDM_DTYPE_BF16, t, c->ffn);
    a->up = cut(memory, &at, TDM_DTYPE_BF16, t, c->ffn);
    for (int p = 0; p < TDM_PROJ_COUNT; p++)
        if (spec->rank > 0) a->h[p] = cut(memory, &at, TDM_DTYPE_BF16, t, spec->rank);
    if (!spec->tape) return at;
    a->x_mid = cut(memory, &at, TDM_DTYPE_F32, t, c->width);
    a->rstd_attn = cut(memory, &at, TDM_DTYPE_F32, t, 1);
    a->rstd_ffn = cut(memory, &at, TDM_DTYPE_F32, t, 1);
    a->lse = cut(memory, &at, TDM_DTYPE_F32, t, c->heads);
    if (c->qk_norm) {
        a->q_pre = cut(memory, &at, TDM_DTYPE_BF16, t, hq);
        a->k_pre = cut(memory, &at, TDM_DTYPE_BF16, t, hkv);
    }
    return at;
}

size_t tdm_layer_acts_bytes(const tdm_model_config *c, const tdm_acts_spec *spec)
{
    tdm_layer_acts a;
    return lay_acts(&a, c, spec, NULL);
}

void tdm_layer_acts_cut(tdm_layer_acts *a, const tdm_model_config *c, const tdm_acts_spec *spec, void *memory)
{
    lay_acts(a, c, spec, memory);
}
