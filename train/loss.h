/* Policy-gradient losses on log-probabilities. Host arithmetic in double on a few numbers a token.
 * Definitions are TRL's (trl/trainer/grpo_trainer.py, _compute_loss):
 *   d = lp - old; token level w = exp(d); sequence level w = exp(mean of d over the sequence's tokens)
 *   l = -min(w A, clip(w, 1 - clip_low, 1 + clip_high) A), times the importance weight of the correction, plus kl * KL(lp, ref)
 *   grpo: mean over sequences of the mean over tokens | bnpo, dapo: sum over tokens / tokens of the optimizer step
 *   dr_grpo: sum over tokens / (sequences * max_new_tokens) | luspo: mean over sequences of the sum over tokens (arXiv:2602.05261)
 * A ratio above delta (TRL's; dual clip, arXiv:1912.09729; 0: none) has no gradient where A < 0: there l is -A delta at most. With
 * off_policy_threshold (TRL's off_policy_mask_threshold, arXiv:2512.02556; 0: none) a sequence of A < 0 whose mean of sampler - lp passes it has no l.
 * KL's log-ratio and value are clamped to +-kl_input_clamp and +-kl_output_clamp (NeMo-RL's calculate_kl; 0: not), where it has no gradient.
 * And with another l, [x] being held constant in the derivative:
 *   cispo (arXiv:2506.13585; as dapo)  -[clip(w)] A lp; TRL clips above only, which is clip_low 1
 *   sapo  (arXiv:2511.20347; as grpo)  -A 4 / tau sigmoid(tau (w - 1)), tau by the sign of A
 *   vespo (arXiv:2602.10693; as dapo)  -[phi] A lp; ln phi = lambda + k ln W - lambda W, k and lambda by the sign of A, ln W the sequence's sum
 *                                      of d within +-20 and of the logarithms of the correction's weights, in [ln 1e-8, 20]; no other weight
 *   gmpo  (arXiv:2507.20673; as grpo)  -A exp(mean of d over the sequence, each d clipped to [-clip_low, clip_high] on the side A pushes to);
 *                                      trl/experimental/gmpo
 *   rloo  (arXiv:2402.14740)           the clipped objective of the product of w over the sequence, mean over sequences; trl/trainer/rloo_trainer.py
 *   dppo_tv, dppo_kl (arXiv:2602.04879; as dapo)  -[min(w, delta)] A lp where p has not moved from p_old past clip_high (A > 0) or clip_low (else): by p - p_old, or
 *                                      by the KL of the two outcomes, this token or another; verl's compute_policy_loss_dppo_tv and _kl
 *   reinforce (as dapo)                -A lp; verl's gpg (arXiv:2504.02546) and its bypass_mode with loss_type reinforce
 * The correction of what sampler and trainer differ by, u = exp(old - sampler): of each token, the product over the sequence (TRL's
 * vllm_importance_sampling_mode), or the geometric mean over it, the root of that product (verl's rollout_is_level: geometric, later its rejection by seq_mean_k1).
 * truncate: u is clamped to [floor, cap]; mask: u outside it is 0 (token level: IcePop, arXiv:2510.18855). A weight of 0 takes a token
 * out of the sum, not out of the count it is divided by, as in TRL. normalizer: then every u is divided by it (verl's rollout_is_batch_normalize).
 * kl_ratio: the KL term of a token is multiplied by its ratio w (TRL's use_bias_correction_kl, arXiv:2512.02556), which has a gradient there.
 * A token that `policy` leaves out has its KL term alone (TRL's top_entropy_quantile, arXiv:2506.01939); gmpo's mean then is over the others.
 * frozen: d loss / d lp was computed before from a pass over all sequences (train/preference.h); the loss itself is not summed here. */
#ifndef TANDEM_TRAIN_LOSS_H
#define TANDEM_TRAIN_LOSS_H

#include "kernels/base.h"

typedef enum tdm_loss_kind { TDM_LOSS_GRPO, TDM_LOSS_BNPO, TDM_LOSS_DR_GRPO, TDM_LOSS_DAPO, TDM_LOSS_CISPO, TDM_LOSS_SAPO, TDM_LOSS_LUSPO,
                             TDM_LOSS_VESPO, TDM_LOSS_GMPO, TDM_LOSS_RLOO, TDM_LOSS_DPPO_TV, TDM_LOSS_DPPO_KL, TDM_LOSS_REINFORCE, TDM_LOSS_SFT, TDM_LOSS_FROZEN } tdm_loss_kind;
/* How tokens' losses become one: the mean over the update's tokens, or over sequences the mean over a sequence's tokens, their sum, or their sum
 * divided by max_new_tokens; or the plain sum over tokens. AUTO: the loss's own. */
typedef enum tdm_aggregation { TDM_AGGREGATION_AUTO, TDM_AGGREGATION_TOKEN_MEAN, TDM_AGGREGATION_SEQUENCE_MEAN, TDM_AGGREGATION_SEQUENCE_SUM,
                               TDM_AGGREGATION_CONSTANT, TDM_AGGREGATION_TOKEN_SUM } tdm_aggregation;
typedef enum tdm_kl_type { TDM_KL_K1, TDM_KL_K2, TDM_KL_K3 } tdm_kl_type;
typedef enum tdm_level { TDM_LEVEL_TOKEN, TDM_LEVEL_SEQUENCE, TDM_LEVEL_GEOMETRIC } tdm_level;
typedef enum tdm_correction { TDM_CORRECTION_NONE, TDM_CORRECTION_TRUNCATE, TDM_CORRECTION_MASK } tdm_correction;

/* Of two numbers the first is for advantages above 0 (vespo: 0 and above), the second for the others. */
typedef struct tdm_sapo { double temperature[2]; } tdm_sapo;
typedef struct tdm_vespo { double k[2], lambda[2]; } tdm_vespo;

typedef struct tdm_loss_config {
    tdm_loss_kind kind;
    tdm_aggregation aggregation;
    bool ratio_of_sequence; /* w of the sequence (GSPO); else of each token */
    double clip_low, clip_high;
    double kl;              /* of the term in the loss */
    double delta, off_policy_threshold;
    tdm_kl_type kl_kind;
    double kl_input_clamp, kl_output_clamp;
    bool kl_ratio;          /* the term is weighed by w */
    tdm_sapo sapo;
    tdm_vespo vespo;
    tdm_correction correction;
    tdm_level level;        /* of the correction */
    double floor, cap;      /* floor 0: none */
    double normalizer;      /* of the weights; 0: none */
    int64_t max_new_tokens; /* the constant of the last aggregation */
} tdm_loss_config;

/* What is known of a token before the trainer's pass. NULL arrays: old is lp itself (the first pass), no sampler, no reference. */
typedef struct tdm_loss_tokens {
    int64_t count;
    const float *lp, *old, *sampler, *ref; /* [count] */
    const uint8_t *mask;                   /* [count] 1: in the loss; NULL: all; 2: rejected, but in the correction's weight of the sequence */
    const uint8_t *policy;                 /* [count] 0: of those, in the KL term alone; NULL: none */
    const float *advantages;               /* [count] each token's own; NULL: `advantage`. For losses whose ratio is the token's */
    const float *coef;                     /* [count] frozen's derivatives; others: not read */
    double advantage, weight;              /* weight: this sequence's factor on each token's loss, from tdm_loss_weight */
} tdm_loss_tokens;

typedef struct tdm_loss_sums {
    double loss;                 /* the step's loss, already normalized */
    double kl, entropy;          /* sums over tokens */
    double objective_entropy;    /* over those in the objective, and their number */
    int64_t objective_tokens;
    double clipped, clip_count;  /* tokens, or sequences where the ratio is theirs */
    double mismatch, mismatch_max; /* of |lp - sampler| */
    double mismatch_k1, mismatch_k3; /* of the estimators of KL(sampler, lp): sampler - lp, and k3 */
    int64_t tokens, mismatch_tokens;
    /* weights of the correction as they are used, one a token or a sequence, and how many ratios lay above cap and below floor; none
     * without a correction or a sampler */
    double importance, importance_min, importance_max;
    int64_t importance_count, importance_high, importance_low;
    double importance_squares;   /* of the weights */
    int64_t off_policy, sequences; /* with off_policy_threshold: sequences that passed it, of how many */
} tdm_loss_sums;

/* True where the loss of a token depends on other tokens of its sequence, so all log-probabilities are needed first. */
bool tdm_loss_needs_sequence(const tdm_loss_config *c);
/* The loss's own; never AUTO. */
tdm_aggregation tdm_loss_aggregation(tdm_loss_kind kind);
/* The factor of each token of a sequence with `tokens` in the loss, in an optimizer step of `sequences` and `total_tokens`. */
double tdm_loss_weight(const tdm_loss_config *c, int64_t tokens, int64_t sequences, int64_t total_tokens);
/* d loss / d lp of tokens [first, first + n) into coef [n], and their part of the sums. A range may be asked for by
 * itself, but where the loss needs its sequence: then the whole sequence at once. */
void tdm_loss_eval(const tdm_loss_config *c, const tdm_loss_tokens *t, int64_t first, int64_t n, float *coef, tdm_loss_sums *sums);

/* One token in the loss, and how far sampler and trainer are apart there. */
void tdm_loss_count(const tdm_loss_tokens *t, int64_t i, tdm_loss_sums *sums);
/* Adds the weights of the correction, as they are before the division, and their number: what the normalizer is the mean of. */
void tdm_loss_add_weights(const tdm_loss_config *c, const tdm_loss_tokens *t, double *sum, int64_t *count);
/* The estimator of KL of one token. */
double tdm_loss_kl_token(const tdm_loss_config *c, double lp, double ref);

/* The estimator of KL(lp, ref), as the term in the loss has it without its ratio, summed over the tokens in the loss; each [count] gets every token's, NaN
 * outside the loss, or is NULL. */
double tdm_loss_kl(const tdm_loss_config *c, const tdm_loss_tokens *t, float *each);

/* The q-th quantile of x [n], which is sorted: as torch.quantile has it, between the two nearest, in FP32. */
float tdm_quantile(float *x, int64_t n, double q);

#endif
