/* The adapter's optimizer: FP32 masters, gradients, moments, all in the adapter's order. */
#ifndef TANDEM_TRAIN_OPTIMIZER_H
#define TANDEM_TRAIN_OPTIMIZER_H

#include "infer/adapter.h"

typedef enum tdm_optimizer_kind { TDM_OPTIMIZER_ADAMW, TDM_OPTIMIZER_SGD } tdm_optimizer_kind;
typedef enum tdm_schedule { TDM_SCHEDULE_CONSTANT, TDM_SCHEDULE_LINEAR, TDM_SCHEDULE_COSINE } tdm_schedule;

typedef struct tdm_optimizer_config {
    tdm_optimizer_kind kind;
    tdm_schedule schedule;
    double lr, beta1, beta2, eps, weight_decay, max_grad_norm; /* max_grad_norm 0: no clipping */
    int64_t warmup_updates, total_updates;
} tdm_optimizer_config;

typedef struct tdm_optimizer {
    tdm_optimizer_config config;
    const tdm_backend *be;
    tdm_stream *s;
    int64_t count, updates;     /* parameters; optimizer steps done */
    float *master, *grad, *m, *v; /* [count], borrowed, in the backend's memory; m, v NULL for sgd */
    uint16_t *param;            /* [count] bf16, borrowed, in the backend's memory */
    double *squares;            /* [1], likewise */
} tdm_optimizer;

/* Bytes of the adapter region: bf16 parameters, masters, gradients, moments. */
size_t tdm_optimizer_bytes(int64_t count, tdm_optimizer_kind kind);
/* Cuts the region; gives the adapter its parameters. */
/* Moments start at zero. */
tdm_status tdm_optimizer_init(tdm_optimizer *o, const tdm_optimizer_config *config, const tdm_backend *be, tdm_stream *s, tdm_adapter *a,
                              void *region, tdm_error *err);
/* Parameters follow the masters (after an init or a resume); moments and update count are the caller's to set. */
tdm_status tdm_optimizer_publish(tdm_optimizer *o, tdm_error *err);
tdm_status tdm_optimizer_zero_grad(tdm_optimizer *o, tdm_error *err);
/* Clips, updates, publishes. grad_norm: before clipping. A gradient that is not finite is an error: nothing is updated. */
tdm_status tdm_optimizer_step(tdm_optimizer *o, double *grad_norm, double *lr, tdm_error *err);
/* Learning rate of update number `update` (from 0), as transformers' get_scheduler has it: with a warm-up the first update's is 0. */
double tdm_schedule_lr(const tdm_optimizer_config *c, int64_t update);

#endif
