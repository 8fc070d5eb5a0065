/* Where each tensor of a checkpoint goes in the weights region, and what it becomes: decided from headers alone, before a byte is read.
 *
 * Layout, every piece 64-byte aligned:
 *   embedding | layer 0 | layer 1 | ... | final norm | head (when it is not the embedding)
 * and in a layer
 *   norm_attn | q k v codes | q k v scales | q k v biases | norm_q norm_k | o | norm_attn_out | norm_ffn | gate up codes | scales | biases |
 *   down | norm_ffn_out
 * or, where the FFN is a mixture of experts: router | gate's codes of all experts | scales | the same of up | of down,
 * so that with rows of a multiple of 64 bytes q, k, v and gate, up are one matrix each to a kernel that wants them fused. */
#ifndef TANDEM_MEMORY_WEIGHTS_PLAN_H
#define TANDEM_MEMORY_WEIGHTS_PLAN_H

#include "memory/activation_scales.h"
#include "memory/weights.h"

struct tdm_weights {
    tdm_model_config config;
    tdm_layer_weights *layers; /* owned; [L] */
    tdm_weight *experts;       /* owned; of all layers, or NULL */
    tdm_weight embedding, head;
    tdm_cview final_norm;
    tdm_region region;         /* borrowed */
    void *host;                /* owned, host_open's; the buffer's first host_bytes lie there and not in the region; or NULL */
    size_t bytes, host_bytes;
    int threads;
    bool kv_scaled;
};

/* One matrix on its way: sources in the file, places in the region. */
typedef struct tdm_matrix_plan {
    tdm_weight *w;                 /* shapes, scheme and act set; pointers set by tdm_weights_plan_place */
    const tdm_tensor *weight;
    const tdm_tensor *scale, *input_scale; /* NULL: quantized here, or not at all */
    const tdm_tensor *bias;        /* NULL: none */
    tdm_scheme stored;             /* of the file's scale */
    size_t codes_at, scale_at, bias_at;
} tdm_matrix_plan;

typedef struct tdm_vector_plan {
    tdm_cview *v;
    const tdm_tensor *t;
    size_t at;
    bool one; /* v is 1 + what the file holds */
} tdm_vector_plan;

typedef struct tdm_weights_plan {
    const tdm_model_file *file;
    const tdm_weights_options *options;
    tdm_weights *w;           /* owned until taken */
    tdm_matrix_plan *matrices; /* owned; in the order of the region */
    tdm_vector_plan *vectors;  /* owned */
    int64_t matrix_count, vector_count;
    tdm_activation_scales calibrated; /* owned; arrays NULL where the options name no file */
    const tdm_tensor **kv_scale;      /* owned; [L, 2] scales of keys and values in the file, or NULL */
    const tdm_tensor *tied_copy; /* lm_head.weight beside a tied embedding: must hold the same values */
    bool *used;                  /* owned; by tensor of the file */
    tdm_tensor *slices;          /* owned; experts of tensors that hold all of a layer's */
    int64_t slice_count;
    size_t bytes, host_bytes;    /* of the whole buffer; of its beginning that lies on the host */
} tdm_weights_plan;

tdm_status tdm_weights_plan_make(tdm_weights_plan *p, const tdm_model_file *f, const tdm_weights_options *o, tdm_error *err);
void tdm_weights_plan_free(tdm_weights_plan *p);
/* Points every view into the region, which holds the whole buffer. */
void tdm_weights_plan_place(tdm_weights_plan *p, const tdm_region *where);

#endif
