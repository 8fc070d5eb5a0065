/* Rejection of what sampler and trainer differ on too far: tokens, or whole sequences, leave the loss and the counts it is divided by. Host arithmetic in double.
 * Definitions are verl's (verl/trainer/ppo/rollout_corr_helper.py, compute_rollout_rejection_mask; arXiv:2512.23075), r = exp(old - sampler) within e^+-20:
 *   k1 = -ln r, within [ln low, ln high]     k2 = (ln r)^2 / 2, at most high     k3 = r - 1 - ln r, at most high
 * of each token (token_*), or their sum, mean or greatest over the sequence (seq_sum_*, seq_mean_*, seq_max_*). A token stays that passes all rules. veto: a
 * sequence with one token of r below it leaves whole (verl's rollout_token_veto_threshold, in its releases to 0.6). */
#ifndef TANDEM_TRAIN_REJECT_H
#define TANDEM_TRAIN_REJECT_H

#include "kernels/base.h"

typedef enum tdm_reject_kind {
    TDM_REJECT_TOKEN_K1, TDM_REJECT_TOKEN_K2, TDM_REJECT_TOKEN_K3, TDM_REJECT_SEQ_SUM_K1, TDM_REJECT_SEQ_SUM_K2, TDM_REJECT_SEQ_SUM_K3,
    TDM_REJECT_SEQ_MEAN_K1, TDM_REJECT_SEQ_MEAN_K2, TDM_REJECT_SEQ_MEAN_K3, TDM_REJECT_SEQ_MAX_K2, TDM_REJECT_SEQ_MAX_K3, TDM_REJECT_COUNT
} tdm_reject_kind;
extern const char *const tdm_reject_names[]; /* verl's, in that order; NULL-terminated */

/* Whether the kind has two bounds, of a ratio; else it has one, of a divergence. */
static inline bool tdm_reject_is_ratio(tdm_reject_kind k) { return k == TDM_REJECT_TOKEN_K1 || k == TDM_REJECT_SEQ_SUM_K1 || k == TDM_REJECT_SEQ_MEAN_K1; }

typedef struct tdm_reject_rule {
    tdm_reject_kind kind;
    double low, high; /* low: of a ratio */
} tdm_reject_rule;

typedef struct tdm_reject_config {
    tdm_reject_rule rule[TDM_REJECT_COUNT];
    int count;
    double veto; /* 0: none */
} tdm_reject_config;

typedef struct tdm_reject_sums {
    int64_t tokens, rejected;          /* in the loss before; of them gone */
    int64_t sequences, touched, vetoed; /* with a token in the loss before; of them with a token gone; by the veto */
} tdm_reject_sums;

/* keep [n]: 1 where a token is in the loss; those that are rejected become 2 (train/loss.h). old, sampler [n]: log-probabilities. */
void tdm_reject(const tdm_reject_config *c, const float *old, const float *sampler, int64_t n, uint8_t *keep, tdm_reject_sums *s);

#endif
