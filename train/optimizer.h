/* The adapter's optimizer: FP32 masters, gradients, moments, all in the adapter's order.
 * adamw_8bit keeps the moments of a tensor in 8 bits where it has TDM_ADAMW_8BIT_LEAST elements or more, as bitsandbytes does. */
#ifndef TANDEM_TRAIN_OPTIMIZER_H
#define TANDEM_TRAIN_OPTIMIZER_H

#include "infer/adapter.h"

typedef enum tdm_optimizer_kind { TDM_OPTIMIZER_ADAMW, TDM_OPTIMIZER_SGD, TDM_OPTIMIZER_ADAMW_8BIT } tdm_optimizer_kind;
enum { TDM_ADAMW_8BIT_LEAST = 4096 };
typedef enum tdm_schedule { TDM_SCHEDULE_CONSTANT, TDM_SCHEDULE_LINEAR, TDM_SCHEDULE_COSINE } tdm_schedule;

typedef struct tdm_optimizer_config {
    tdm_optimizer_kind kind;
    tdm_schedule schedule;
    double lr, beta1, beta2, eps, weight_decay, max_grad_norm; /* max_grad_norm 0: no clipping */
    int64_t warmup_updates, total_updates;
} tdm_optimizer_config;

/* All pointers borrowed, in the backend's memory. */
typedef struct tdm_optimizer {
    tdm_optimizer_config config;
    const tdm_backend *be;
    tdm_stream *s;
    const tdm_adapter *adapter;
    int64_t count, updates;     /* parameters; optimizer steps done */
    double *squares;            /* [1] */
    uint16_t *param;            /* [count] bf16 */
    float *grad;                /* [count] */
    void *state;                /* what a checkpoint holds: state_bytes from here on, and nothing else */
    size_t state_bytes;
    float *master;              /* [count] */
    float *m, *v;               /* adamw: [count]; adamw_8bit: those of the tensors that are too small; sgd: NULL */
    uint8_t *m_code, *v_code;   /* adamw_8bit: [count]; else NULL */
    float *m_most, *v_most;     /* adamw_8bit: one for 256 elements of a tensor, tensor after tensor */
} tdm_optimizer;

/* One tensor's part of the state: A or B of a projection (of an expert of it), or the head. */
typedef struct tdm_optimizer_tensor {
    int64_t first, count;       /* in the adapter's order */
    float *master;
    float *m, *v;               /* NULL: 8 bits, or sgd */
    uint8_t *m_code, *v_code;   /* NULL: not 8 bits */
    float *m_most, *v_most;
    int64_t blocks;
} tdm_optimizer_tensor;
tdm_optimizer_tensor tdm_optimizer_tensor_of(const tdm_optimizer *o, int64_t layer, tdm_proj p, int64_t expert, bool b);
tdm_optimizer_tensor tdm_optimizer_head_of(const tdm_optimizer *o); /* the adapter has one */

/* Bytes of the adapter region: bf16 parameters, gradients, masters, moments. */
size_t tdm_optimizer_bytes(const tdm_adapter *a, tdm_optimizer_kind kind);
/* Cuts the region (64-byte aligned); gives the adapter, which has to stay where it is, its parameters. Moments start at zero. */
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
