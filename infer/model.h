/* The model as a computation: the one forward pass, used by both engines. Rollout runs it on one set of activation buffers that
 * every layer reuses; training gives each layer buffers of its own (its tape), which backward then reads. */
#ifndef TANDEM_INFER_MODEL_H
#define TANDEM_INFER_MODEL_H

#include "infer/adapter.h"

/* Who looks at what enters the projections while a forward runs (tandem calibrate): x in the backend's memory, of q, o, gate and down as
 * the first of those that share it; k and v: the rows that go into the KV cache. */
typedef struct tdm_observer {
    tdm_status (*see)(void *ctx, int64_t layer, tdm_proj site, tdm_cview x, tdm_error *err);
    void *ctx;
} tdm_observer;

/* Everything a forward needs and never changes. Borrows all of it. */
typedef struct tdm_model {
    const tdm_backend *be;
    tdm_stream *s;
    const tdm_weights *w;
    const tdm_model_config *c;
    tdm_cview rope_cos[2], rope_sin[2]; /* [positions, tdm_rope_dim / 2] f32, borrowed; of layers without and with a window */
    int64_t positions;            /* longest sequence this model was opened for */
    tdm_dtype kv_dtype;           /* BF16, or E4M3 (memory.kv: fp8) in both engines */
    float embed_scale;            /* of rows of the embedding */
    const tdm_observer *observer; /* borrowed; NULL: no one looks */
} tdm_model;

/* tables: tdm_model_table_bytes in the backend's memory, for cosines and sines; lent until the model is no longer used. */
tdm_status tdm_model_open(tdm_model *m, const tdm_backend *be, tdm_stream *s, const tdm_weights *w, int64_t positions, tdm_dtype kv_dtype,
                          void *tables, tdm_error *err);
/* A layer's sliding window in positions (0: none), and the scale of its scores. */
int64_t tdm_layer_window(const tdm_model_config *c, int64_t layer);
float tdm_attention_scale(const tdm_model_config *c);
size_t tdm_model_table_bytes(const tdm_model_config *c, int64_t positions);

/* What one layer computes and backward may need. Absent views are not kept. */
typedef struct tdm_layer_acts {
    tdm_view x_in;                 /* [T, D] f32: the residual stream at the layer's input */
    tdm_view x_mid;                /* [T, D] f32: after attention; may be x_in's memory when no tape is kept */
    tdm_view rstd_attn, rstd_ffn;  /* [T, 1] f32, tape only */
    tdm_view q, k, v;              /* [T, H*Dh], [T, Hkv*Dh] bf16, q and k after RoPE; columns of one matrix where qkv_proj is one */
    tdm_view q_pre, k_pre;         /* before QK norm, tape of a qk_norm model only */
    tdm_view o, lse;               /* [T, H*Dh] bf16, [T, H] f32 (tape only) */
    tdm_view gate, up;             /* [T, F] bf16, of a mixture of experts [T U, F]; columns of one matrix where gate_up_proj is one */
    tdm_view attn_out, ffn_out;    /* [T, D] bf16: before they are normalized; of a model that does so. One place where no tape is kept */
    tdm_view rstd_attn_out, rstd_ffn_out; /* [T, 1] f32, tape only */
    tdm_view h[TDM_PROJ_COUNT];    /* [T, R] bf16, of experts [T U, R]: x A^T of each target; R: the largest rank of the adapters there are */
    tdm_view router;               /* [T, E] bf16: logits of the experts, as what follows of a model that has some */
    tdm_view expert_out;           /* [T U, D] bf16: what each expert makes of its rows */
    tdm_routes routes;
    tdm_kv_pages kv;               /* this layer's pages; their scales are set by the forward, from the weights */
} tdm_layer_acts;

/* Scratch that no layer keeps. */
typedef struct tdm_scratch {
    tdm_view xn;     /* [T, D] bf16: normalized input of q, k, v and of gate, up */
    tdm_view act;    /* [T, F] bf16, of experts [T U, F]: silu(gate) * up */
    tdm_view rows;   /* [T U, D] bf16: xn by rows of experts */
    tdm_view codes;  /* [T, max(D, F, H*Dh)] e4m3, of experts [T U, max(D, F)] */
    tdm_view scales; /* [T, ceil(max/128)] f32, of experts [T U, ceil(max/128)] */
    tdm_view dropped;/* [T, max(D, F, H*Dh)] bf16: input of A after dropout; absent without dropout */
} tdm_scratch;

/* Dropout on the adapter's input (sft). p = 0: off. token[t] names the row, so the mask does not depend on micro-batches. */
typedef struct tdm_dropout {
    float p;
    uint64_t seed;
    const uint32_t *token; /* [T] */
} tdm_dropout;

/* A run of the forward over `batch`; adapter NULL: off (the reference). */
typedef struct tdm_run {
    const tdm_model *m;
    const tdm_adapter *adapter;
    const tdm_batch *batch;
    tdm_scratch scratch;
    tdm_dropout dropout;
    int32_t *routes;               /* [L, T, U] experts of each token, in the backend's memory: written, or with `replay` read; NULL: nobody asks */
    bool replay;
} tdm_run;

/* Columns [first, first + cols) of v; and the whole bf16 matrix [rows, cols] whose first columns v is. */
static inline tdm_view tdm_columns(tdm_view v, int64_t first, int64_t cols)
{
    return (tdm_view){v.data ? (char *)v.data + (size_t)first * tdm_dtype_bytes(v.dtype) : NULL, v.dtype, v.rows, cols, v.stride};
}
static inline tdm_view tdm_whole(tdm_view v, int64_t rows, int64_t cols) { return tdm_view_make(v.data, v.dtype, rows, cols); }

/* A view of FFN activations as that layer has them: [T, F], or [T U, F] of a mixture of experts. */
tdm_view tdm_ffn_view(const tdm_model_config *c, int64_t layer, tdm_view v, int64_t tokens);

/* Bytes of scratch for T tokens, and the views cut from memory of that size (64-byte aligned). */
size_t tdm_scratch_bytes(const tdm_model_config *c, int64_t tokens, bool dropout);
void tdm_scratch_cut(tdm_scratch *s, const tdm_model_config *c, int64_t tokens, bool dropout, void *memory);
/* The same for one layer's activations; tape: what backward reads is kept, x_mid has memory of its own. x_in and kv are the caller's. */
typedef struct tdm_acts_spec {
    int64_t tokens, rank;
    bool tape;
} tdm_acts_spec;
size_t tdm_layer_acts_bytes(const tdm_model_config *c, const tdm_acts_spec *spec);
void tdm_layer_acts_cut(tdm_layer_acts *a, const tdm_model_config *c, const tdm_acts_spec *spec, void *memory);

/* x [T, D] f32 = embedding rows of ids. */
tdm_status tdm_forward_embed(const tdm_run *r, tdm_view x, const int32_t *ids, tdm_error *err);
/* One layer: reads a->x_in, writes keys and values to a->kv, leaves the layer's output in `x_out` [T, D] f32 (may be x_in's memory
 * when no tape is kept; with a tape it is the next layer's x_in). */
tdm_status tdm_forward_layer(const tdm_run *r, int64_t layer, tdm_layer_acts *a, tdm_view x_out, tdm_error *err);
/* Final norm of rows [n, D] f32, then logits [n, V] f32. xn [n, D] bf16 and rstd [n, 1] f32 (or absent) are written. */
tdm_status tdm_forward_head(const tdm_model *m, tdm_cview x, tdm_view xn, tdm_view rstd, tdm_view codes, tdm_view scales, tdm_view logits,
                            tdm_error *err);

/* Final norm of rows [n, D] f32, then the adapter's head: value [n], in the backend's memory. */
tdm_status tdm_forward_value(const tdm_model *m, const tdm_adapter *adapter, tdm_cview x, tdm_view xn, tdm_view rstd, float *value, tdm_error *err);

/* experts.c: out = x + the mixture's sum for the normalized rows xn. */
tdm_status tdm_forward_experts(const tdm_run *r, int64_t layer, tdm_layer_acts *a, tdm_cview xn, tdm_cview x, tdm_view out, tdm_error *err);
/* a->routes of the batch, as forward left them. */
tdm_routes tdm_layer_routes(const tdm_run *r, int64_t layer, const tdm_layer_acts *a);

/* The input of a projection's adapter part, made again for backward: the dropped x when dropout is on, else absent. */
tdm_status tdm_forward_dropped(const tdm_run *r, int64_t layer, tdm_proj p, tdm_cview x, tdm_cview *dropped, tdm_error *err);

#endif
