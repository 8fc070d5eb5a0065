/* A LoRA adapter as the forward sees it: y = W x + scale * B (A x), on any subset of the seven projections, of every expert where there are some; and with it, for a critic or a
 * reward model, a head of one output: value = w . (final-normed hidden state).
 *   bytes     one flat bf16 array of the caller (the slab's adapter region): for each layer, for each target (and each
 *             of its experts), A [R, K] then B [N, R]; the head last. Masters, gradients and moments of train/ use the same order and offsets, as f32. The head is read as f32.
 *   threads   read by the forward, written by the optimizer between forwards */
#ifndef TANDEM_INFER_ADAPTER_H
#define TANDEM_INFER_ADAPTER_H

#include "memory/weights.h"

typedef struct tdm_adapter_spec {
    int64_t rank;
    float alpha;
    bool rslora;                 /* scale alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski, arXiv:2312.03732) */
    bool target[TDM_PROJ_COUNT];
    bool head;                   /* with a head of one output */
} tdm_adapter_spec;

typedef struct tdm_adapter {
    tdm_adapter_spec spec;
    float scale;
    int64_t layers;
    int64_t count;               /* parameters in all */
    int64_t layer_count;         /* parameters in a layer; every layer has the same */
    int64_t offset_a[TDM_PROJ_COUNT], offset_b[TDM_PROJ_COUNT]; /* inside a layer; -1: not a target; of the first expert */
    int64_t modules[TDM_PROJ_COUNT], step[TDM_PROJ_COUNT]; /* pairs in a layer: 1, or one an expert; parameters from one to the next */
    int64_t n[TDM_PROJ_COUNT], k[TDM_PROJ_COUNT];
    int64_t head_first, head_count; /* of the head, the last parameters; count 0: none */
    uint16_t *param;             /* [count] bf16, borrowed; NULL until given */
    const float *head;           /* [head_count] f32, borrowed; NULL until given, or none */
} tdm_adapter;

/* Where only some layers' FFNs are mixtures of experts: their projections cannot be targets, for layers have one layout. */
bool tdm_adapter_ffn_differs(const tdm_model_config *c, const bool target[TDM_PROJ_COUNT]);
/* Leaves of the seven targets those that the model has. Where it has several as one matrix, all of them or none are meant: else the name of
 * that matrix is returned, NULL otherwise. */
const char *tdm_adapter_targets(const tdm_model_config *c, bool target[TDM_PROJ_COUNT]);
void tdm_adapter_init(tdm_adapter *a, const tdm_adapter_spec *spec, const tdm_model_config *c);
/* A [R, K] and B [N, R] of a projection, of its first expert; absent views when it is not a target. */
tdm_cview tdm_adapter_a(const tdm_adapter *a, int64_t layer, tdm_proj p);
tdm_cview tdm_adapter_b(const tdm_adapter *a, int64_t layer, tdm_proj p);
/* The same of another expert. */
tdm_cview tdm_adapter_expert(const tdm_adapter *a, tdm_cview first, tdm_proj p, int64_t expert);
tdm_cview tdm_adapter_head(const tdm_adapter *a); /* [1, D] f32 */
/* PEFT's initialization into f32 masters [count]: A uniform in +-1/sqrt(K) (kaiming_uniform with a = sqrt(5)), B and the head zero; Philox
 * keyed by seed. */
void tdm_adapter_init_params(const tdm_adapter *a, uint64_t seed, float *master);

#endif
