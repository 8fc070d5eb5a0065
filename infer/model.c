/* Opening a model and cutting its buffers; the forward itself is in forward.c. */
#include "infer/model.h"
#include "memory/arch/arch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One table, or two where layers with a window turn by a base of their own. */
static int64_t tables(const tdm_model_config *c) { return c->rope_local_theta > 0 ? 2 : 1; }

size_t tdm_model_table_bytes(const tdm_model_config *c, int64_t positions)
{
    return (size_t)(positions * tdm_rope_dim(c) * tables(c)) * sizeof(float); /* cos and sin, half of the dimensions each */
}

/* cos, then sin [positions, half]. */
static void fill_table(const tdm_model_config *c, bool sliding, int64_t positions, float *table)
{
    const int64_t half = tdm_rope_dim(c) / 2, count = positions * half;
    const float factor = c->rope == TDM_ROPE_LONG ? c->rope_attention : 1.0f;
    float inv[TDM_HEAD_DIM_MAX / 2];
    tdm_rope_inv_freq_of(c, sliding, positions, inv);
    for (int64_t p = 0; p < positions; p++)
        for (int64_t i = 0; i < half; i++) {
            const float angle = (float)p * inv[i]; /* f32, as transformers' rotary embedding has it */
            table[p * half + i] = (float)cos((double)angle) * factor;
            table[count + p * half + i] = (float)sin((double)angle) * factor;
        }
}

tdm_status tdm_model_open(tdm_model *m, const tdm_backend *be, tdm_stream *s, const tdm_weights *w, int64_t positions, tdm_dtype kv_dtype,
                          void *memory, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model_config *c = tdm_weights_config(w);
    *m = (tdm_model){.be = be, .s = s, .w = w, .c = c, .positions = positions, .kv_dtype = kv_dtype, .embed_scale = 1.0f};
    /* transformers multiplies with the factor in the weights' dtype */
    if (c->arch->scaled_embed) m->embed_scale = tdm_bf16_to_f32(tdm_f32_to_bf16((float)sqrt((double)c->width)));
    const int64_t half = tdm_rope_dim(c) / 2, count = positions * half, kinds = tables(c);
    float *host = malloc((size_t)(2 * count * kinds) * sizeof *host + 1), *to = memory; /* owned here */
    if (!host) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the RoPE tables");
    for (int64_t kind = 0; kind < kinds; kind++) fill_table(c, kind > 0, positions, host + kind * 2 * count);
    TDM_TRY(st, be->upload(s, to, host, (size_t)(2 * count * kinds) * sizeof *host, err), done);
    for (int64_t kind = 0; kind < 2; kind++) {
        const float *table = to + (kind < kinds ? kind : 0) * 2 * count;
        m->rope_cos[kind] = (tdm_cview){table, TDM_DTYPE_F32, positions, half, half};
        m->rope_sin[kind] = (tdm_cview){table + count, TDM_DTYPE_F32, positions, half, half};
    }
done:
    free(host);
    return st;
}

int64_t tdm_layer_window(const tdm_model_config *c, int64_t layer) { return c->sliding[layer] ? c->window : 0; }

float tdm_attention_scale(const tdm_model_config *c)
{
    return c->attention_scale > 0 ? c->attention_scale : (float)(1.0 / sqrt((double)c->head_dim));
}

static int64_t widest(const tdm_model_config *c)
{
    return tdm_max_i64(tdm_max_i64(c->width, tdm_has_dense_ffn(c) ? c->ffn : 0), c->heads * c->head_dim);
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
    const int64_t wide = widest(c), expert = tdm_max_i64(c->width, c->expert_ffn);
    const int64_t codes = tdm_max_i64(wide, c->experts_used * expert);
    const int64_t scales = tdm_max_i64(tdm_ceil_div(wide, TDM_FP8_BLOCK), c->experts_used * tdm_ceil_div(expert, TDM_FP8_BLOCK));
    *s = (tdm_scratch){0};
    s->xn = cut(memory, &at, TDM_DTYPE_BF16, tokens, c->width);
    s->act = cut(memory, &at, TDM_DTYPE_BF16, tokens, tdm_ffn_columns(c));
    if (c->experts > 0) s->rows = cut(memory, &at, TDM_DTYPE_BF16, tokens * c->experts_used, c->width);
    s->codes = cut(memory, &at, TDM_DTYPE_E4M3, tokens, codes);
    s->scales = cut(memory, &at, TDM_DTYPE_F32, tokens, scales);
    if (dropout) s->dropped = cut(memory, &at, TDM_DTYPE_BF16, tokens, wide);
    return at;
}

tdm_view tdm_ffn_view(const tdm_model_config *c, int64_t layer, tdm_view v, int64_t tokens)
{
    if (c->sparse[layer]) return tdm_view_make(v.data, v.dtype, tokens * c->experts_used, c->expert_ffn);
    if (c->experts > 0) return tdm_view_make(v.data, v.dtype, tokens, c->ffn); /* a mixture in other layers needs more room */
    v.rows = tokens;
    return v;
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

/* Views of some columns each, of one matrix if `fused`. */
static void cut_columns(char *memory, size_t *at, bool fused, int64_t rows, tdm_view *const *views, const int64_t *cols, int count)
{
    int64_t all = 0, first = 0;
    for (int i = 0; i < count; i++) all += cols[i];
    const tdm_view whole = fused ? cut(memory, at, TDM_DTYPE_BF16, rows, all) : (tdm_view){0};
    for (int i = 0; i < count; i++) {
        *views[i] = fused ? tdm_columns(whole, first, cols[i]) : cut(memory, at, TDM_DTYPE_BF16, rows, cols[i]);
        first += cols[i];
    }
}

static void lay_experts(tdm_layer_acts *a, const tdm_model_config *c, int64_t t, char *memory, size_t *at)
{
    const int64_t u = c->experts_used;
    a->router = cut(memory, at, TDM_DTYPE_BF16, t, c->experts);
    a->expert_out = cut(memory, at, TDM_DTYPE_BF16, t * u, c->width);
    a->routes = (tdm_routes){.tokens = t, .experts = c->experts, .used = u};
    a->routes.expert = cut(memory, at, TDM_DTYPE_I32, t, u).data;
    a->routes.weight = cut(memory, at, TDM_DTYPE_F32, t, u).data;
    a->routes.row = cut(memory, at, TDM_DTYPE_I32, t, u).data;
    a->routes.token = cut(memory, at, TDM_DTYPE_I32, t, u).data;
    a->routes.start = cut(memory, at, TDM_DTYPE_I32, 1, c->experts + 1).data;
}

static size_t lay_acts(tdm_layer_acts *a, const tdm_model_config *c, const tdm_acts_spec *spec, char *memory)
{
    size_t at = 0;
    const int64_t t = spec->tokens, hq = c->heads * c->head_dim, hkv = c->kv_heads * c->head_dim;
    *a = (tdm_layer_acts){0};
    tdm_view *const qkv[] = {&a->q, &a->k, &a->v}, *const gate_up[] = {&a->gate, &a->up};
    cut_columns(memory, &at, c->arch->fused, t, qkv, (const int64_t[]){hq, hkv, hkv}, 3);
    a->o = cut(memory, &at, TDM_DTYPE_BF16, t, hq);
    cut_columns(memory, &at, c->arch->fused, t, gate_up, (const int64_t[]){tdm_ffn_columns(c), tdm_ffn_columns(c)}, 2);
    for (int p = 0; p < TDM_PROJ_COUNT; p++) {
        int64_t n, k;
        tdm_proj_shape(c, (tdm_proj)p, &n, &k);
        const int64_t rows = p >= TDM_PROJ_GATE && c->experts > 0 ? t * c->experts_used : t;
        if (spec->rank > 0 && n > 0) a->h[p] = cut(memory, &at, TDM_DTYPE_BF16, rows, spec->rank);
    }
    if (c->experts > 0) lay_experts(a, c, t, memory, &at);
    if (c->arch->norm_attn_out) {
        a->attn_out = a->ffn_out = cut(memory, &at, TDM_DTYPE_BF16, t, c->width);
        if (spec->tape) a->ffn_out = cut(memory, &at, TDM_DTYPE_BF16, t, c->width);
    }
    if (!spec->tape) return at;
    a->x_mid = cut(memory, &at, TDM_DTYPE_F32, t, c->width);
    a->rstd_attn = cut(memory, &at, TDM_DTYPE_F32, t, 1);
    a->rstd_ffn = cut(memory, &at, TDM_DTYPE_F32, t, 1);
    a->lse = cut(memory, &at, TDM_DTYPE_F32, t, c->heads);
    if (c->qk_norm) {
        a->q_pre = cut(memory, &at, TDM_DTYPE_BF16, t, hq);
        a->k_pre = cut(memory, &at, TDM_DTYPE_BF16, t, hkv);
    }
    if (c->arch->norm_attn_out) {
        a->rstd_attn_out = cut(memory, &at, TDM_DTYPE_F32, t, 1);
        a->rstd_ffn_out = cut(memory, &at, TDM_DTYPE_F32, t, 1);
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
