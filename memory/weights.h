/* The one copy of the base weights.
 *   created   tdm_weights_open, once per process    released  tdm_weights_close, last
 *   bytes     the slab's `weights` region (the backend's memory), tdm_weights_bytes of it; tdm_weights_host_bytes of host_open's, owned; the tensor
 *             table lies in malloc'd memory of its own
 *   borrowed  by infer/ and train/ as const tdm_weight: read-only, good until close
 *   threads   nothing changes after open returns, so readers need no lock */
#ifndef TANDEM_MEMORY_WEIGHTS_H
#define TANDEM_MEMORY_WEIGHTS_H

#include "memory/mirror.h"
#include "memory/model_file.h"

/* The seven projections, in the order they are listed everywhere. */
typedef enum tdm_proj { TDM_PROJ_Q, TDM_PROJ_K, TDM_PROJ_V, TDM_PROJ_O, TDM_PROJ_GATE, TDM_PROJ_UP, TDM_PROJ_DOWN, TDM_PROJ_COUNT } tdm_proj;
extern const char *const tdm_proj_names[TDM_PROJ_COUNT]; /* "q_proj", ... */
/* Where q, k, v or gate, up are one matrix (Phi), it has the place of the first of them and the others are absent: N = 0. */

/* A layer's norms: before attention and of its output, before the FFN and of its output, of the heads of q and k. */
typedef enum tdm_norm {
    TDM_NORM_ATTN, TDM_NORM_ATTN_OUT, TDM_NORM_FFN, TDM_NORM_FFN_OUT, TDM_NORM_Q, TDM_NORM_K, TDM_NORM_COUNT
} tdm_norm;

/* What the recipe's model section asks for. */
typedef struct tdm_weights_options {
    tdm_scheme scheme;      /* ignored for a checkpoint that is FP8 already: its own scheme is kept, without requantization */
    bool scheme_given;      /* the user named one: a checkpoint stored in another FP8 scheme is then refused */
    tdm_act_quant act;
    bool pow2_weights;      /* scales made here are rounded up to powers of two */
    bool pow2_acts;         /* so are dynamic activation scales */
    bool fp8_head, fp8_embedding; /* e4m3 by row, their activations BF16, whatever the scheme is; the two are one where the head is tied */
    int64_t first_layers_bf16, last_layers_bf16;
    const char *const *keep_bf16; /* modules that stay BF16, as tdm_module_named has them ("lm_head"); NULL-terminated, or NULL */
    const char *activation_scales; /* a file of tandem calibrate: activation scales for STATIC, and of keys and values; NULL: none */
    bool embedding_on_host; /* the embedding in host_open's memory, from which a device's embed reads its rows; not where the head is tied to it */
    int threads;            /* of the host, for loading and hashing; 0: as many as the process may use. No byte depends on it */
} tdm_weights_options;

/* Where a person chose these, for errors ("a.yaml:5:3"). */
typedef struct tdm_weights_where {
    const char *first_layers_bf16, *last_layers_bf16, *keep_bf16, *fp8_head;
} tdm_weights_where;

typedef struct tdm_layer_weights {
    tdm_weight proj[TDM_PROJ_COUNT]; /* without the FFN's where that is a mixture of experts */
    /* Of such a layer: the router [E, D] bf16, and [E] matrices of gate, up, down each, alike and at equal distances in the region. */
    tdm_weight router;
    tdm_weight *experts[TDM_PROJ_COUNT]; /* NULL of the others */
    /* bf16, or f32 where they multiply with 1 + w, which they then hold; absent where the family has none */
    tdm_cview norm_attn, norm_attn_out, norm_ffn, norm_ffn_out; /* [1, D] */
    tdm_cview norm_q, norm_k;                                   /* [1, Dh] */
    float k_scale, v_scale;                                     /* of an e4m3 KV cache: calibrated, or 1 */
} tdm_layer_weights;

/* The matrix of a projection, of one of its experts where there are some. */
static inline const tdm_weight *tdm_layer_matrix(const tdm_layer_weights *l, tdm_proj p, int64_t expert)
{
    return l->experts[p] ? &l->experts[p][expert] : &l->proj[p];
}

typedef struct tdm_weights tdm_weights;

/* TDM_ERR_RECIPE for what a model of this config cannot mean: more layers than it has, a name that no module holds. */
tdm_status tdm_weights_check_options(const tdm_model_config *c, const tdm_weights_options *o, const tdm_weights_where *where, tdm_error *err);

/* Bytes the region needs, from the file's headers alone (nothing is read). Every tensor starts 64-byte aligned. */
tdm_status tdm_weights_bytes(const tdm_model_file *f, const tdm_weights_options *o, size_t *bytes, tdm_error *err);
/* What embedding_on_host takes of the host. */
size_t tdm_weights_host_bytes(const tdm_model_file *f, const tdm_weights_options *o);
/* Streams the tensors in by bands of rows, which all threads quantize: never more than tdm_weights_loading_bytes beyond the buffer.
 * Missing, extra, misshapen, NaN or Inf: an error that names file and tensor, the first of them in the region's order. Pages of the
 * mapped file are dropped as they are used. */
tdm_status tdm_weights_open(tdm_weights **w, const tdm_model_file *f, const tdm_weights_options *o, const tdm_region *region, tdm_error *err);
void tdm_weights_close(tdm_weights *w);
/* Host bytes that open takes while it lasts: what threads compute in, pages of the file, and for a device's region a pinned stage. */
size_t tdm_weights_loading_bytes(const tdm_model_config *c, int threads, bool device);

const tdm_model_config *tdm_weights_config(const tdm_weights *w);
const tdm_layer_weights *tdm_weights_layer(const tdm_weights *w, int64_t layer);
const tdm_weight *tdm_weights_embedding(const tdm_weights *w); /* [V, D] */
const tdm_weight *tdm_weights_head(const tdm_weights *w);      /* [V, D]; the embedding itself when tied */
/* True when some activation scale is of the whole call (dynamic per tensor): then a row's result depends on its neighbours. */
bool tdm_weights_batch_dependent(const tdm_weights *w);
/* True when keys and values have calibrated scales, in every layer. */
bool tdm_weights_kv_scaled(const tdm_weights *w);
tdm_cview tdm_weights_final_norm(const tdm_weights *w);
/* A 64-bit hash over all bytes of the buffer (FNV-1a 64 of the FNV-1a 64 of each MiB): it must never change (promise 1); also names
 * the base in checkpoints. The same whatever memory the buffer, or a part of it, lies in and however many threads compute it. */
tdm_status tdm_weights_hash(const tdm_weights *w, uint64_t *hash, tdm_error *err);

/* Projection's shape [N, K] from the config, of one expert where there are; N = 0: the model has none such. */
void tdm_proj_shape(const tdm_model_config *c, tdm_proj p, int64_t *n, int64_t *k);
/* The same in that layer, and how many matrices of that shape it has: one, or one an expert. */
void tdm_layer_proj_shape(const tdm_model_config *c, int64_t layer, tdm_proj p, int64_t *n, int64_t *k);
int64_t tdm_proj_modules(const tdm_model_config *c, int64_t layer, tdm_proj p);
/* The largest N or K of a layer's projections. */
int64_t tdm_proj_widest(const tdm_model_config *c);
bool tdm_proj_bias(const tdm_model_config *c, tdm_proj p);
/* The path inside a layer ("self_attn.q_proj"), and the whole name in a model of text alone ("model.layers.3.self_attn.q_proj"). */
const char *tdm_proj_path(const tdm_model_config *c, tdm_proj p);
const char *tdm_proj_path_of(bool fused, tdm_proj p); /* NULL: such a model has none */
enum { TDM_MODULE_BYTES = 128 };
void tdm_module_name(const tdm_model_config *c, char out[TDM_MODULE_BYTES], int64_t layer, tdm_proj p);
/* The same of the expert, where the projection has some in that layer; and of the layer's router. */
void tdm_expert_name(const tdm_model_config *c, char out[TDM_MODULE_BYTES], int64_t layer, int64_t expert, tdm_proj p);
void tdm_router_name(char out[TDM_MODULE_BYTES], int64_t layer);
/* The same of a norm, and how long it is; false: the model has none such. */
bool tdm_norm_name(const tdm_model_config *c, char out[TDM_MODULE_BYTES], int64_t layer, tdm_norm n, int64_t *cols);
tdm_cview *tdm_layer_norm(tdm_layer_weights *l, tdm_norm n);

#endif
