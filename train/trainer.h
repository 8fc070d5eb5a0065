/* The trainer: packed micro-batches through the one forward with a tape, log-probabilities by tiles of tokens, and backward through the
 * same bytes the rollout reads.
 *   - sequences are packed without padding; a sequence is never split;
 *   - logits exist for `head_rows` tokens at a time, and only for tokens that are in the loss;
 *   - gradients are summed sequence by sequence in the order of the items, so the micro-batch split does not change a bit;
 *   - with checkpointing a layer keeps its input only and is run again in backward: the same bits; with offload that input waits in host memory. */
#ifndef TANDEM_TRAIN_TRAINER_H
#define TANDEM_TRAIN_TRAINER_H

#include "infer/model.h"
#include "infer/sequence.h"
#include "train/gae.h"
#include "train/loss.h"
#include "train/optimizer.h"

typedef struct tdm_trainer_spec {
    int64_t micro_tokens; /* T of a micro-batch; at least the longest sequence */
    int64_t sequences;    /* B of a micro-batch, at most */
    int64_t context;      /* longest sequence */
    int64_t head_rows;
    int64_t rank;
    bool checkpointing;   /* keep layer inputs only */
    bool offload;         /* keep them in host memory; with checkpointing */
    bool forward_only;    /* no tape: scoring */
    bool dropout;
    bool routes;          /* tokens go to the experts that their sequences name, where those do: the policy's own passes */
    bool distills;        /* room for a teacher's hidden states and distributions */
} tdm_trainer_spec;

/* One sequence to score or to train on. "Completion" means tokens [prompt, count); arrays are indexed from 0 at `prompt`. */
typedef struct tdm_train_item {
    const tdm_sequence *seq;
    const uint8_t *mask;  /* 1: in the loss; NULL: all of the completion; 2: as in train/loss.h */
    const uint8_t *policy; /* 0: of those, in the KL term alone; NULL: none */
    const float *advantages; /* each token's own, or NULL: `advantage` */
    const float *sampler; /* the sampler's log-probabilities, or NULL */
    const float *old;     /* frozen before the first update, or NULL: lp itself */
    const float *ref;     /* the reference's, or NULL */
    const float *coef;    /* with TDM_LOSS_FROZEN: d loss / d lp; of values without a loss of their own d loss / d value; else NULL */
    const float *returns; /* a critic's: what its values are to be; else NULL */
    float *value;         /* of a pass over values: filled by a look; with a loss: the values before the first update, read */
    double advantage, weight;
    double entropy_weight; /* factor of the entropy of each token in the objective, which is taken from the loss; 0: it has no gradient */
    float *lp;            /* filled; never NULL where log-probabilities are computed */
    float *entropy;       /* filled when not NULL */
    bool left_out;        /* by the caller: in no loss, and not given to the trainer */
    uint32_t dropout_token; /* names the sequence's first token in dropout masks */
} tdm_train_item;

typedef struct tdm_trainer tdm_trainer;

/* Bytes of the train layout, by part, for the plan. */
typedef struct tdm_trainer_bytes {
    size_t tape, kv, scratch, host;
    size_t mirror; /* of scratch: arrays that describe a micro-batch */
    size_t offload; /* of the host, pinned: layer inputs; not in `host` */
} tdm_trainer_bytes;
tdm_trainer_bytes tdm_trainer_count(const tdm_backend *be, const tdm_model_config *c, tdm_dtype kv_dtype, const tdm_trainer_spec *spec);
/* The three regions may lie anywhere in the train layout. */
typedef struct tdm_trainer_regions {
    void *tape, *kv, *scratch;
} tdm_trainer_regions;
tdm_status tdm_trainer_open(tdm_trainer **t, const tdm_model *m, const tdm_trainer_spec *spec, const tdm_trainer_regions *regions,
                            tdm_error *err);
void tdm_trainer_close(tdm_trainer *t);

/* Log-probabilities (and entropy) of the items' completions under the adapter (NULL: off), of the distribution that `sampling`
 * describes, on the recorded supports where the sequences have them. */
tdm_status tdm_trainer_score(tdm_trainer *t, const tdm_adapter *adapter, tdm_train_item *items, int64_t count, const tdm_sampling *sampling,
                             tdm_error *err);
/* What a pass computes: log-probabilities; or by the adapter's head a value of each token of the completion, at the state that predicts it; or
 * one of the whole sequence, at its last token, as transformers' models for sequence classification have it. */
typedef enum tdm_values { TDM_VALUES_NONE, TDM_VALUES_TOKENS, TDM_VALUES_SEQUENCE } tdm_values;

/* The same, and the loss's gradient is added to opt->grad. dropout p on the adapter's input (0: off) with masks keyed by seed.
 * keep_going (may be NULL) is asked before each micro-batch; false ends with TDM_STOPPED. */
typedef struct tdm_train_pass {
    const tdm_adapter *adapter;
    const tdm_loss_config *loss;
    const tdm_sampling *sampling;
    tdm_optimizer *opt;
    tdm_values values;                  /* not NONE: loss and sampling are not read */
    const tdm_value_config *value_loss; /* NULL: frozen, in item.coef */
    tdm_value_sums *value_sums;         /* with value_loss */
    float dropout;
    uint64_t dropout_seed;
    bool (*keep_going)(void *ctx);
    void *ctx;
    /* distills: the loss is the divergence of each token's whole distribution from the teacher's, by the items' weights, and nothing else
     * (train/distill.c); teacher NULL: the base model */
    bool distills;
    const tdm_adapter *teacher;
    double beta;
} tdm_train_pass;
/* The log-probabilities (or values) that tdm_trainer_accumulate would find under this pass, dropout and all, and no gradient. */
tdm_status tdm_trainer_look(tdm_trainer *t, const tdm_train_pass *pass, tdm_train_item *items, int64_t count, tdm_error *err);
/* sums: of log-probabilities' loss; with values NULL. */
tdm_status tdm_trainer_accumulate(tdm_trainer *t, const tdm_train_pass *pass, tdm_train_item *items, int64_t count, tdm_loss_sums *sums,
                                  tdm_error *err);

#endif
