/* A row of logits as a distribution: what `sample` and `logprob` share, so that the log-probability recorded while sampling and
 * the trainer's are made by the same instructions. A token outside the support has the logit -inf. */
#ifndef TANDEM_KERNELS_CPU_LOGITS_H
#define TANDEM_KERNELS_CPU_LOGITS_H

#include "kernels/cpu/lanes.h"

enum { LOGITS_BLOCK = 512, LOGITS_BINS = 4096 };

/* A thread's scratch for rows of V logits. */
typedef struct logits_scratch {
    float *weight;       /* [V] */
    uint32_t *candidate; /* [V] */
    uint32_t *seen, *negative; /* [ceil(V / 32)] bits; zero between rows */
    uint32_t *support;   /* [ceil(V / 32)] bits */
    double *bin;         /* [LOGITS_BINS] */
    double *block;       /* [ceil(V / LOGITS_BLOCK)] sums of exp(z - max) */
} logits_scratch;

/* The layout over `base`, or its size alone when base is NULL. */
size_t TDM_CPU(logits_scratch_layout)(logits_scratch *w, char *base, int64_t vocab);

/* Whether sampling leaves tokens out, that is, whether a row has a support to record. */
static inline bool logits_truncates(const tdm_sampling *s)
{
    return s->temperature > 0.0f && (s->top_k > 0 || s->top_p < 1.0f || s->min_p > 0.0f);
}

/* Repetition penalty, each id of the history once, then / temperature (not when it is 0). w->seen and w->negative hold bits for
 * the ids until logits_forget. */
void TDM_CPU(logits_process)(float *z, int64_t vocab, const tdm_sampling *s, const int32_t *history, int64_t history_len,
                             logits_scratch *w);
/* Clears the bits again; with p, first sets the sign of p where the raw logit was negative. */
void TDM_CPU(logits_forget)(float *p, const tdm_sampling *s, const int32_t *history, int64_t history_len, logits_scratch *w);
/* top-k, then top-p, then min-p, as transformers' processors define them: -inf in z for the tokens left out. */
void TDM_CPU(logits_truncate)(float *z, int64_t vocab, const tdm_sampling *s, logits_scratch *w);
/* -inf in z for the tokens whose bit is clear; and the bits of the tokens that are not -inf. */
void TDM_CPU(logits_mask)(float *z, int64_t vocab, const uint32_t *support);
void TDM_CPU(logits_support)(uint32_t *support, const float *z, int64_t vocab);

typedef struct logits_sum {
    float max, log_sum; /* ln p[v] = (z[v] - max) - log_sum */
    double sum;         /* of exp(z - max) */
    float dot;          /* sum of exp(z - max) (z - max), where it was asked for */
} logits_sum;
/* With `exps`, z becomes exp(z - max) and the dot is taken. Sums run over 16 lanes within a block, then block after block. */
logits_sum TDM_CPU(logits_sum_row)(float *z, int64_t vocab, bool exps, logits_scratch *w);

/* ln p of a token, z its processed logit. */
static inline float logits_logprob(const logits_sum *l, float z) { return (z - l->max) - l->log_sum; }

#endif
