/* The train layout: what of each layer is kept, and where. */
#include "memory/arch/arch.h"
#include "train/trainer_internal.h"

#include <stdlib.h>

typedef struct cutter {
    char *base; /* NULL: only counts */
    size_t at;
} cutter;

static tdm_view cut(cutter *c, tdm_dtype dtype, int64_t rows, int64_t cols)
{
    tdm_view v = tdm_view_make(c->base ? c->base + c->at : NULL, dtype, rows, cols);
    c->at += tdm_align_up((size_t)(rows * cols) * tdm_dtype_bytes(dtype), 64);
    return v;
}

static int64_t widest(const tdm_model_config *c)
{
    return tdm_max_i64(tdm_max_i64(tdm_has_dense_ffn(c) ? c->ffn : 0, c->width), c->heads * c->head_dim);
}

/* Layers that have activations of their own. */
static int64_t kept_layers(const tdm_model_config *c, const tdm_trainer_spec *s) { return s->forward_only || s->checkpointing ? 1 : c->layers; }

static bool offloads(const tdm_trainer_spec *s) { return s->offload && !s->forward_only; }

static size_t lay_tape(tdm_trainer *t, const tdm_model_config *c, void *base)
{
    const tdm_trainer_spec *s = &t->spec;
    cutter k = {.base = base};
    const int64_t inputs = s->forward_only ? 1 : c->layers + 1, kept = kept_layers(c, s), places = offloads(s) ? 2 : inputs;
    const size_t place = tdm_align_up((size_t)(s->micro_tokens * c->width) * sizeof(float), 64);
    for (int64_t l = 0; t->x && l < inputs; l++)
        t->x[l] = tdm_view_make(k.base ? k.base + (size_t)(l % places) * place : NULL, TDM_DTYPE_F32, s->micro_tokens, c->width);
    k.at += (size_t)places * place;
    const tdm_acts_spec acts = {.tokens = s->micro_tokens, .rank = s->rank, .tape = !s->forward_only};
    for (int64_t l = 0; l < kept; l++) {
        if (t->acts) tdm_layer_acts_cut(&t->acts[l], c, &acts, k.base ? k.base + k.at : NULL);
        k.at += tdm_layer_acts_bytes(c, &acts);
    }
    if (s->distills) t->teacher = cut(&k, TDM_DTYPE_F32, s->micro_tokens, c->width);
    return k.at;
}

/* What a layer's forward and backward need. */
static size_t lay_layer(tdm_trainer *t, const tdm_model_config *c, void *base)
{
    const tdm_trainer_spec *s = &t->spec;
    const int64_t n = s->micro_tokens, hq = c->heads * c->head_dim, hkv = c->kv_heads * c->head_dim;
    cutter k = {.base = base};
    tdm_scratch_cut(&t->scratch, c, n, s->dropout, base);
    k.at += tdm_scratch_bytes(c, n, s->dropout);
    if (s->forward_only) return k.at;
    tdm_backward_buffers *b = &t->back;
    b->dxn = cut(&k, TDM_DTYPE_F32, n, c->width);
    b->dwide = cut(&k, TDM_DTYPE_F32, n, tdm_max_i64(tdm_ffn_columns(c), hq));
    b->dy = cut(&k, TDM_DTYPE_BF16, n, c->width);
    if (c->arch->fused) {
        const tdm_view all = cut(&k, TDM_DTYPE_BF16, n, hq + 2 * hkv);
        b->dq = tdm_columns(all, 0, hq);
        b->dk = tdm_columns(all, hq, hkv);
        b->dv = tdm_columns(all, hq + hkv, hkv);
    } else {
        b->dq = cut(&k, TDM_DTYPE_BF16, n, hq);
        b->dk = cut(&k, TDM_DTYPE_BF16, n, hkv);
        b->dv = cut(&k, TDM_DTYPE_BF16, n, hkv);
    }
    b->dh = cut(&k, TDM_DTYPE_BF16, n * tdm_max_i64(1, c->experts_used), tdm_max_i64(1, s->rank));
    if (c->experts > 0) {
        b->drows = cut(&k, TDM_DTYPE_F32, n * c->experts_used, c->width);
        b->dmade = cut(&k, TDM_DTYPE_BF16, n * c->experts_used, c->width);
        b->dweight = cut(&k, TDM_DTYPE_F32, n, c->experts_used);
        b->dlogits = cut(&k, TDM_DTYPE_BF16, n, c->experts);
    }
    if (s->dropout) b->lora_dx = cut(&k, TDM_DTYPE_F32, n, widest(c));
    return k.at;
}

/* What a tile of the head needs. */
static size_t lay_head(tdm_trainer *t, const tdm_model_config *c, void *base)
{
    const int64_t n = t->spec.head_rows;
    cutter k = {.base = base};
    tdm_head_buffers *h = &t->head;
    h->x = cut(&k, TDM_DTYPE_F32, n, c->width);
    h->xn = cut(&k, TDM_DTYPE_BF16, n, c->width);
    h->rstd = cut(&k, TDM_DTYPE_F32, n, 1);
    h->codes = cut(&k, TDM_DTYPE_E4M3, n, c->width);
    h->scales = cut(&k, TDM_DTYPE_F32, n, tdm_ceil_div(c->width, TDM_FP8_BLOCK));
    h->logits = cut(&k, TDM_DTYPE_F32, n, c->vocab);
    if (t->spec.forward_only) return k.at;
    h->dx = cut(&k, TDM_DTYPE_F32, n, c->width);
    h->dxn = cut(&k, TDM_DTYPE_F32, n, c->width);
    h->dlogits = cut(&k, TDM_DTYPE_BF16, n, c->vocab);
    if (!t->spec.distills) return k.at;
    h->teacher = cut(&k, TDM_DTYPE_F32, n, c->vocab);
    h->teacher_rstd = cut(&k, TDM_DTYPE_F32, n, 1);
    return k.at;
}

/* The head runs between the layers' forward and backward: its tiles lie where layers have their scratch. Only dx goes from one to the other. */
static size_t lay_scratch(tdm_trainer *t, const tdm_model_config *c, void *base)
{
    cutter k = {.base = base};
    if (!t->spec.forward_only) t->back.dx = cut(&k, TDM_DTYPE_F32, t->spec.micro_tokens, c->width);
    void *shared = base ? k.base + k.at : NULL;
    const size_t layer = lay_layer(t, c, shared), head = lay_head(t, c, shared);
    return k.at + (layer > head ? layer : head);
}

#define TAKE(field, count)                                                                                                           \
    do {                                                                                                                             \
        if (base) t->field = (void *)(base + at);                                                                                    \
        at += tdm_align_up((count) * sizeof *t->field, 64);                                                                          \
    } while (0)

/* The host's own arrays in one allocation; with base NULL only counts. */
static size_t lay_host(tdm_trainer *t, const tdm_model_config *c, char *base)
{
    const tdm_trainer_spec *s = &t->spec;
    const size_t tokens = (size_t)s->micro_tokens;
    size_t at = 0;
    TAKE(x, (size_t)c->layers + 1);
    TAKE(acts, (size_t)kept_layers(c, s));
    TAKE(token, tokens);
    TAKE(sequence_coef, tokens);
    return at;
}

/* The same of the mirror. */
static size_t lay_mirror(tdm_trainer *t, const tdm_model_config *c, char *base)
{
    const tdm_trainer_spec *s = &t->spec;
    const size_t tokens = (size_t)s->micro_tokens, seqs = (size_t)s->sequences, rows = (size_t)s->head_rows;
    size_t at = 0;
    TAKE(ids, tokens);
    TAKE(position, tokens);
    TAKE(q_start, seqs + 1);
    TAKE(kv_len, seqs);
    TAKE(pages, seqs * (size_t)t->page_stride);
    TAKE(dropout_token, tokens);
    t->batch_bytes = at;
    TAKE(row, rows);
    TAKE(target, rows);
    TAKE(history_at, rows);
    TAKE(history_len, rows);
    t->tile_bytes = at - t->batch_bytes;
    TAKE(coef, rows);
    TAKE(entropy_coef, rows);
    TAKE(support, rows * (size_t)tdm_ceil_div(c->vocab, 32));
    TAKE(routes, s->routes ? (size_t)(c->layers * c->experts_used) * tokens : 0);
    TAKE(lp, rows);
    TAKE(entropy, rows);
    TAKE(divergence, rows);
    return at;
}
#undef TAKE

void tdm_trainer_lay(tdm_trainer *t, const tdm_backend *be, const tdm_model_config *c, tdm_dtype kv_dtype, const tdm_trainer_regions *r,
                     tdm_trainer_bytes *bytes)
{
    const tdm_trainer_spec *s = &t->spec;
    t->page_stride = tdm_ceil_div(s->context, be->kv_page_tokens);
    /* every sequence starts a page of its own */
    t->kv_pages = tdm_ceil_div(s->micro_tokens, be->kv_page_tokens) + s->sequences;
    bytes->host = lay_host(t, c, r ? t->host : NULL);
    bytes->tape = lay_tape(t, c, r ? r->tape : NULL);
    t->input_bytes = (size_t)(s->micro_tokens * c->width) * sizeof(float);
    bytes->offload = offloads(s) ? (size_t)(c->layers - 1) * t->input_bytes : 0;
    bytes->mirror = lay_mirror(t, c, r ? t->mirror.host : NULL);
    if (be->device) bytes->host += bytes->mirror;
    bytes->scratch = bytes->mirror + lay_scratch(t, c, r ? (char *)r->scratch + bytes->mirror : NULL);
    const size_t layer_kv = (size_t)t->kv_pages * be->kv_page_bytes(kv_dtype, c->kv_heads, c->head_dim);
    bytes->kv = layer_kv * (size_t)kept_layers(c, s);
    if (!r) return;
    for (int64_t l = 0; l < kept_layers(c, s); l++)
        t->acts[l].kv = (tdm_kv_pages){.data = (char *)r->kv + (size_t)l * layer_kv, .pages = t->kv_pages, .kv_heads = c->kv_heads,
                                       .head_dim = c->head_dim, .dtype = kv_dtype};
}

tdm_trainer_bytes tdm_trainer_count(const tdm_backend *be, const tdm_model_config *c, tdm_dtype kv_dtype, const tdm_trainer_spec *spec)
{
    tdm_trainer t = {.spec = *spec};
    tdm_trainer_bytes bytes;
    tdm_trainer_lay(&t, be, c, kv_dtype, NULL, &bytes);
    return bytes;
}

tdm_status tdm_trainer_open(tdm_trainer **out, const tdm_model *m, const tdm_trainer_spec *spec, const tdm_trainer_regions *regions,
                            tdm_error *err)
{
    TDM_ASSERT(spec->micro_tokens >= spec->context && spec->head_rows > 0 && spec->sequences > 0);
    TDM_ASSERT(!spec->offload || spec->checkpointing);
    tdm_trainer_bytes bytes = tdm_trainer_count(m->be, m->c, m->kv_dtype, spec);
    tdm_trainer *t = calloc(1, sizeof *t);
    *out = t;
    if (t) t->host = calloc(1, bytes.host);
    if (!t || !t->host) {
        tdm_trainer_close(t);
        *out = NULL;
        return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the trainer's tables");
    }
    t->m = m;
    t->spec = *spec;
    tdm_status st = tdm_mirror_open(&t->mirror, m->be, regions->scratch, bytes.mirror, err);
    if (st == TDM_OK && bytes.offload > 0) {
        void *inputs;
        st = m->be->host_open(&inputs, bytes.offload, err);
        t->inputs = st == TDM_OK ? inputs : NULL;
    }
    if (st != TDM_OK) {
        tdm_trainer_close(t);
        *out = NULL;
        return st;
    }
    tdm_trainer_lay(t, m->be, m->c, m->kv_dtype, regions, &bytes);
    return TDM_OK;
}

void tdm_trainer_close(tdm_trainer *t)
{
    if (!t) return;
    if (t->inputs) t->m->be->host_close(t->inputs, (size_t)(t->m->c->layers - 1) * t->input_bytes);
    tdm_mirror_close(&t->mirror);
    free(t->host);
    free(t);
}
