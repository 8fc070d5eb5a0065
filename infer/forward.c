/* The one forward pass. Everything that computes a hidden state, a logit or a log-probability goes through these functions. */
#include "infer/model.h"
#include "memory/arch/arch.h"

static tdm_cview columns(tdm_view v, int64_t rows, int64_t cols) { return (tdm_cview){v.data, v.dtype, rows, cols, cols}; }

static tdm_view sized(tdm_view v, int64_t rows)
{
    if (v.data) v.rows = rows;
    return v;
}

static tdm_view as_columns(tdm_view v, int64_t rows, int64_t cols) { return tdm_view_make(v.data, v.dtype, rows, cols); }

static int64_t scale_columns(const tdm_weight *w, int64_t k)
{
    return w->scheme == TDM_SCHEME_FP8_BLOCK ? tdm_ceil_div(k, TDM_FP8_BLOCK) : 1;
}

/* x quantized the way `of` wants it; projections that share an input and a kind of quantization share the result. */
typedef struct quantized {
    const tdm_weight *of;        /* NULL: nothing is quantized yet */
    tdm_cview codes, scales;     /* absent: `of` takes x as it is */
    tdm_quantize_act call;       /* what makes them */
} quantized;

static quantized quantized_for(const tdm_weight *w, tdm_view codes, tdm_view scales, tdm_cview x)
{
    quantized q = {.of = w};
    if (w->scheme == TDM_SCHEME_BF16 || w->act == TDM_ACT_NONE) return q;
    const bool tensor = w->scheme == TDM_SCHEME_FP8_TENSOR || w->act == TDM_ACT_STATIC;
    const tdm_view c = as_columns(codes, x.rows, x.cols), s = as_columns(scales, tensor ? 1 : x.rows, scale_columns(w, x.cols));
    q.call = (tdm_quantize_act){.codes = c, .scale = s, .x = x, .scheme = w->scheme, .act = w->act, .input_scale = w->input_scale, .pow2 = w->pow2};
    q.codes = tdm_view_const(c);
    if (w->act != TDM_ACT_STATIC) q.scales = tdm_view_const(s);
    return q;
}

/* For the operation that makes x. */
static const tdm_quantize_act *call_of(const quantized *q) { return q->codes.data ? &q->call : NULL; }

static bool same_quantization(const tdm_weight *a, const tdm_weight *b)
{
    return a->scheme == b->scheme && a->act == b->act && a->pow2 == b->pow2 &&
           (a->act != TDM_ACT_STATIC || a->input_scale == b->input_scale);
}

tdm_status tdm_forward_dropped(const tdm_run *r, int64_t layer, tdm_proj p, tdm_cview x, tdm_cview *dropped, tdm_error *err)
{
    *dropped = (tdm_cview){0};
    if (r->dropout.p <= 0.0f) return TDM_OK;
    tdm_view y = as_columns(r->scratch.dropped, x.rows, x.cols);
    *dropped = tdm_view_const(y);
    const uint32_t site = (uint32_t)(layer * TDM_PROJ_COUNT + p);
    return r->m->be->dropout(r->m->s, y, x, r->dropout.p, r->dropout.seed, site, r->dropout.token, err);
}

static tdm_status show(const tdm_model *m, int64_t layer, tdm_proj site, tdm_cview x, tdm_error *err)
{
    return m->observer ? m->observer->see(m->observer->ctx, layer, site, x, err) : TDM_OK;
}

typedef struct projection {
    tdm_proj p;
    tdm_view y;
    bool accumulate;
} projection;

/* Projections of one input x, which the operation that made it quantized for the first. Those that need nothing made in between go
 * together. */
static tdm_status project(const tdm_run *r, int64_t layer, tdm_layer_acts *a, tdm_cview x, quantized q, const projection *list, int count,
                          tdm_error *err)
{
    const tdm_model *m = r->m;
    const tdm_layer_weights *lw = tdm_weights_layer(m->w, layer);
    tdm_linear group[TDM_PROJ_COUNT];
    int n = 0;
    tdm_status st = TDM_OK;
    TDM_TRY(st, show(m, layer, list[0].p, x, err), done);
    for (int i = 0; i < count; i++) {
        const tdm_proj p = list[i].p;
        const tdm_weight *w = &lw->proj[p];
        const bool adapted = r->adapter && r->adapter->offset_a[p] >= 0, again = !same_quantization(w, q.of);
        if (n > 0 && (again || r->dropout.p > 0.0f)) { /* codes and the dropped input have one place */
            TDM_TRY(st, m->be->linear_group(m->s, group, n, err), done);
            n = 0;
        }
        if (again) {
            q = quantized_for(w, r->scratch.codes, r->scratch.scales, x);
            if (call_of(&q)) TDM_TRY(st, m->be->quantize_act(m->s, &q.call, err), done);
        }
        tdm_linear *l = &group[n++];
        *l = (tdm_linear){.y = list[i].y, .accumulate = list[i].accumulate, .x = x, .xq = q.codes, .xs = q.scales, .w = w};
        if (!adapted) continue;
        l->lora_a = tdm_adapter_a(r->adapter, layer, p);
        l->lora_b = tdm_adapter_b(r->adapter, layer, p);
        l->lora_h = as_columns(a->h[p], x.rows, r->adapter->spec.rank);
        l->lora_scale = r->adapter->scale;
        TDM_TRY(st, tdm_forward_dropped(r, layer, p, x, &l->lora_x, err), done);
    }
    TDM_TRY(st, m->be->linear_group(m->s, group, n, err), done);
done:
    return st;
}

tdm_status tdm_forward_embed(const tdm_run *r, tdm_view x, const int32_t *ids, tdm_error *err)
{
    return r->m->be->embed(r->m->s, x, tdm_weights_embedding(r->m->w), ids, r->m->embed_scale, err);
}

static tdm_rope rotation(const tdm_run *r, int64_t layer, tdm_view x, tdm_view pre, tdm_cview norm, int64_t heads)
{
    const tdm_model *m = r->m;
    const bool sliding = m->c->sliding[layer];
    return (tdm_rope){.x = x, .pre = pre, .cos = m->rope_cos[sliding], .sin = m->rope_sin[sliding], .norm_w = norm, .position = r->batch->position,
                      .heads = heads, .head_dim = m->c->head_dim, .eps = m->c->norm_eps};
}

/* o of the layer, quantized by `q`. */
static tdm_status attend(const tdm_run *r, int64_t layer, tdm_layer_acts *a, tdm_cview xn, quantized xnq, const tdm_quantize_act *q_act, tdm_error *err)
{
    const tdm_model *m = r->m;
    const tdm_model_config *c = m->c;
    const tdm_layer_weights *lw = tdm_weights_layer(m->w, layer);
    const int64_t t = r->batch->tokens;
    tdm_status st = TDM_OK;
    tdm_view q = sized(a->q, t), k = sized(a->k, t), v = sized(a->v, t);
    const projection one = {TDM_PROJ_Q, tdm_whole(q, t, lw->proj[TDM_PROJ_Q].codes.rows), false};
    const projection qkv[] = {{TDM_PROJ_Q, q, false}, {TDM_PROJ_K, k, false}, {TDM_PROJ_V, v, false}};
    TDM_TRY(st, project(r, layer, a, xn, xnq, c->arch->fused ? &one : qkv, c->arch->fused ? 1 : 3, err), done);
    const tdm_rope_kv rope = {.q = rotation(r, layer, q, sized(a->q_pre, t), lw->norm_q, c->heads),
                              .k = rotation(r, layer, k, sized(a->k_pre, t), lw->norm_k, c->kv_heads),
                              .write = {.kv = &a->kv, .batch = r->batch, .k = tdm_view_const(k), .v = tdm_view_const(v)}};
    TDM_TRY(st, m->be->rope_kv(m->s, &rope, err), done);
    TDM_TRY(st, show(m, layer, TDM_PROJ_K, tdm_view_const(k), err), done);
    TDM_TRY(st, show(m, layer, TDM_PROJ_V, tdm_view_const(v), err), done);
    const tdm_attention at = {.o = sized(a->o, t), .lse = sized(a->lse, t), .q = tdm_view_const(q), .kv = &a->kv, .batch = r->batch,
                              .heads = c->heads, .window = tdm_layer_window(c, layer), .scale = tdm_attention_scale(c), .quantize = q_act};
    TDM_TRY(st, m->be->attention(m->s, &at, err), done);
done:
    return st;
}

/* out = x + the projection of `in` (o_proj, down_proj), normalized on the way in a model that does so. out may be x's memory. */
static tdm_status join(const tdm_run *r, int64_t layer, tdm_layer_acts *a, tdm_proj p, tdm_cview in, quantized q, tdm_cview x, tdm_view out,
                       tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model *m = r->m;
    const tdm_layer_weights *lw = tdm_weights_layer(m->w, layer);
    const bool attn = p == TDM_PROJ_O;
    const tdm_cview norm = attn ? lw->norm_attn_out : lw->norm_ffn_out;
    if (!norm.data) {
        if (out.data != x.data) TDM_TRY(st, m->be->convert(m->s, out, x, err), done);
        const projection sum = {p, out, true};
        return project(r, layer, a, in, q, &sum, 1, err);
    }
    const tdm_view y = sized(attn ? a->attn_out : a->ffn_out, x.rows), rstd = sized(attn ? a->rstd_attn_out : a->rstd_ffn_out, x.rows);
    const projection alone = {p, y, false};
    TDM_TRY(st, project(r, layer, a, in, q, &alone, 1, err), done);
    TDM_TRY(st, m->be->rms_norm_add(m->s, out, rstd, x, tdm_view_const(y), norm, m->c->norm_eps, err), done);
done:
    return st;
}

/* out = x + FFN of xn, which `q` says how it is quantized. */
static tdm_status feed_forward(const tdm_run *r, int64_t layer, tdm_layer_acts *a, tdm_cview xn, quantized q, tdm_cview x, tdm_view out, tdm_error *err)
{
    const tdm_model *m = r->m;
    const tdm_model_config *c = m->c;
    const tdm_layer_weights *lw = tdm_weights_layer(m->w, layer);
    const int64_t t = r->batch->tokens;
    tdm_status st = TDM_OK;
    const tdm_view act = tdm_ffn_view(c, layer, r->scratch.act, t), gate = tdm_ffn_view(c, layer, a->gate, t), up = tdm_ffn_view(c, layer, a->up, t);
    const projection one = {TDM_PROJ_GATE, tdm_whole(gate, t, lw->proj[TDM_PROJ_GATE].codes.rows), false};
    const projection gate_up[] = {{TDM_PROJ_GATE, gate, false}, {TDM_PROJ_UP, up, false}};
    TDM_TRY(st, project(r, layer, a, xn, q, c->arch->fused ? &one : gate_up, c->arch->fused ? 1 : 2, err), done);
    q = quantized_for(&lw->proj[TDM_PROJ_DOWN], r->scratch.codes, r->scratch.scales, tdm_view_const(act));
    TDM_TRY(st, m->be->swiglu(m->s, c->glu, act, tdm_view_const(gate), tdm_view_const(up), call_of(&q), err), done);
    TDM_TRY(st, join(r, layer, a, TDM_PROJ_DOWN, tdm_view_const(act), q, x, out, err), done);
done:
    return st;
}

tdm_status tdm_forward_layer(const tdm_run *r, int64_t layer, tdm_layer_acts *a, tdm_view x_out, tdm_error *err)
{
    const tdm_model *m = r->m;
    const tdm_model_config *c = m->c;
    const tdm_layer_weights *lw = tdm_weights_layer(m->w, layer);
    const int64_t t = r->batch->tokens;
    tdm_status st = TDM_OK;
    const tdm_view x_in = sized(a->x_in, t);
    const bool tape = a->x_mid.data != NULL;
    const tdm_view x_mid = tape ? sized(a->x_mid, t) : x_in;
    tdm_view xn = sized(r->scratch.xn, t);
    x_out = sized(x_out, t);
    a->kv.k_scale = lw->k_scale;
    a->kv.v_scale = lw->v_scale;

    const tdm_view codes = r->scratch.codes, scales = r->scratch.scales;
    const tdm_cview o = columns(a->o, t, c->heads * c->head_dim);

    quantized q = quantized_for(&lw->proj[TDM_PROJ_Q], codes, scales, tdm_view_const(xn));
    TDM_TRY(st, m->be->rms_norm(m->s, xn, sized(a->rstd_attn, t), tdm_view_const(x_in), lw->norm_attn, c->norm_eps, call_of(&q), err), done);
    quantized oq = quantized_for(&lw->proj[TDM_PROJ_O], codes, scales, o);
    TDM_TRY(st, attend(r, layer, a, tdm_view_const(xn), q, call_of(&oq), err), done);
    TDM_TRY(st, join(r, layer, a, TDM_PROJ_O, o, oq, tdm_view_const(x_in), x_mid, err), done);

    q = c->sparse[layer] ? (quantized){0} : quantized_for(&lw->proj[TDM_PROJ_GATE], codes, scales, tdm_view_const(xn));
    TDM_TRY(st, m->be->rms_norm(m->s, xn, sized(a->rstd_ffn, t), tdm_view_const(x_mid), lw->norm_ffn, c->norm_eps, call_of(&q), err), done);
    st = c->sparse[layer] ? tdm_forward_experts(r, layer, a, tdm_view_const(xn), tdm_view_const(x_mid), x_out, err)
                          : feed_forward(r, layer, a, tdm_view_const(xn), q, tdm_view_const(x_mid), x_out, err);
done:
    return st;
}

tdm_status tdm_forward_head(const tdm_model *m, tdm_cview x, tdm_view xn, tdm_view rstd, tdm_view codes, tdm_view scales, tdm_view logits,
                            tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_weight *head = tdm_weights_head(m->w);
    xn = sized(xn, x.rows);
    const quantized q = quantized_for(head, codes, scales, tdm_view_const(xn));
    TDM_TRY(st, m->be->rms_norm(m->s, xn, sized(rstd, x.rows), x, tdm_weights_final_norm(m->w), m->c->norm_eps, call_of(&q), err), done);
    const tdm_linear l = {.y = sized(logits, x.rows), .x = tdm_view_const(xn), .xq = q.codes, .xs = q.scales, .w = head};
    TDM_TRY(st, m->be->linear(m->s, &l, err), done);
done:
    return st;
}

tdm_status tdm_forward_value(const tdm_model *m, const tdm_adapter *adapter, tdm_cview x, tdm_view xn, tdm_view rstd, float *value, tdm_error *err)
{
    tdm_status st = TDM_OK;
    xn = sized(xn, x.rows);
    TDM_TRY(st, m->be->rms_norm(m->s, xn, sized(rstd, x.rows), x, tdm_weights_final_norm(m->w), m->c->norm_eps, NULL, err), done);
    const tdm_value v = {.y = value, .x = tdm_view_const(xn), .w = tdm_adapter_head(adapter)};
    TDM_TRY(st, m->be->value(m->s, &v, err), done);
done:
    return st;
}
