/* LoRA adapters as PEFT keeps them: a folder with adapter_model.safetensors and adapter_config.json.
 * Source: huggingface/peft, src/peft/tuners/lora/config.py, utils/save_and_load.py; checked against the package by
 * tests/conformance/check_peft.py.
 *
 * Written: keys base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight [R, K] and lora_B.weight [N, R], f32 or bf16; with the
 * modules of the model: qkv_proj and gate_up_proj where each is one matrix, model.language_model.layers.N where the model is one tower of several;
 * mlp.experts.E.gate_proj and so on of a mixture of experts, a pair for each, as PEFT has it where experts are modules (and converts when it loads such
 * a file into a model of transformers 5, which keeps a layer's experts in one tensor);
 * with a head (a critic, a reward model: task_type SEQ_CLS) base_model.model.score.weight [1, D] too, as transformers' models for sequence
 * classification have it.
 * Read: what PEFT wrote for one of our architectures. Whatever would change the computation and is not plain LoRA on the seven
 * projections (DoRA, aLoRA, rank_pattern, modules_to_save but for the head, lora_bias, layer replication, adapters on lm_head, ...) is refused by
 * its name: an adapter that is silently half loaded is worse than none. */
#ifndef TANDEM_TRAIN_PEFT_H
#define TANDEM_TRAIN_PEFT_H

#include <jansson.h>

#include "memory/safetensors.h"
#include "memory/weights.h"

enum { TDM_PEFT_MAX_RANK = 65536 };

/* What the model's modules are called. */
typedef struct tdm_peft_names {
    bool fused;  /* qkv_proj, gate_up_proj */
    bool towers; /* under language_model */
    int64_t experts; /* of an FFN; 0: it is not a mixture */
} tdm_peft_names;
tdm_peft_names tdm_peft_names_of(const tdm_model_config *model);

typedef struct tdm_peft_config {
    tdm_peft_names names;
    int64_t rank;
    double alpha, dropout;
    bool rslora;                  /* scaling alpha / sqrt(rank) instead of alpha / rank */
    bool targets[TDM_PROJ_COUNT];
    bool head;                    /* task_type SEQ_CLS, modules_to_save [classifier, score] */
    char base_model[1024];        /* base_model_name_or_path; may be "" */
} tdm_peft_config;
double tdm_peft_scaling(const tdm_peft_config *c);

typedef struct tdm_peft_pair {
    int64_t layer;
    tdm_proj proj;
    int64_t expert; /* 0 where there is one module */
    tdm_cview a, b; /* [R, K], [N, R]; f32 or bf16, contiguous */
} tdm_peft_pair;

/* The tensor name of one half, as in the file. */
enum { TDM_PEFT_NAME_BYTES = 128 };
/* Modules that a projection has in a layer: 1, or one an expert. */
int64_t tdm_peft_modules(tdm_peft_names names, tdm_proj proj);
void tdm_peft_tensor_name(char out[TDM_PEFT_NAME_BYTES], tdm_peft_names names, int64_t layer, tdm_proj proj, int64_t expert, bool b);

/* For a checkpoint that wants to write the folder itself: entries A, B, A, B, ..., and the head [1, D] where there is one (data NULL: none);
 * names and array are one allocation, the caller's (free); data stays borrowed. NULL: out of memory. */
tdm_st_entry *tdm_peft_entries(tdm_peft_names names, const tdm_peft_pair *pairs, int64_t count, tdm_cview head, int64_t *entries);
json_t *tdm_peft_config_json(const tdm_peft_config *c); /* new reference; NULL: out of memory */
extern const char *const tdm_peft_metadata[];            /* {"format", "pt", NULL}: what transformers expects in the header */

/* Writes the folder (made when missing), both files synced. Not atomic as a whole: a checkpoint renames the folder. */
tdm_status tdm_peft_save(const char *dir, const tdm_peft_config *c, const tdm_peft_pair *pairs, int64_t count, tdm_cview head, tdm_error *err);

/* An opened adapter; views are good until close. f16 tensors were converted to f32. */
typedef struct tdm_peft tdm_peft;
/* Pairs come sorted by layer, then projection, then expert. Each target of the config has a pair in every layer, unless the config names layers
 * (layers_to_transform) or the target is a pattern; then what is there counts. Values are finite. Errors: TDM_ERR_INPUT. */
tdm_status tdm_peft_open(tdm_peft **p, const char *dir, const tdm_model_config *model, tdm_error *err);
/* The same of one with a head; tdm_peft_open refuses those, this one the others. */
tdm_status tdm_peft_open_head(tdm_peft **p, const char *dir, const tdm_model_config *model, tdm_error *err);
void tdm_peft_close(tdm_peft *p);
const tdm_peft_config *tdm_peft_config_of(const tdm_peft *p);
const tdm_peft_pair *tdm_peft_pairs(const tdm_peft *p, int64_t *count);
tdm_cview tdm_peft_head(const tdm_peft *p); /* [1, D] f32 or bf16; absent: none */

/* adapter_config.json from its bytes (not trusted). c->names is given, and stays. *resolve: the targets are to be taken from the tensors (target_modules is a
 * pattern); *some_layers: layers_to_transform or exclude_modules is set. */
tdm_status tdm_peft_config_parse(tdm_peft_config *c, bool *resolve, bool *some_layers, const char *text, size_t len, const char *where,
                                 tdm_error *err);

#endif
