/* What PPO adds to a policy gradient: advantages of tokens by generalized advantage estimation, and the loss of the critic whose values they
 * are made from. Host arithmetic in double on a few numbers a token. Definitions are verl's (verl/trainer/ppo/core_algos.py,
 * compute_gae_advantage_return, compute_value_loss; utils/torch_functional.py, masked_whiten), which are TRL's
 * (trl/experimental/ppo/ppo_trainer.py):
 *   delta_t = r_t + gamma V_(t+1) - V_t;  A_t = delta_t + gamma lambda A_(t+1);  return_t = A_t + V_t       arXiv:1506.02438
 *   r_t     -kl * KL_t where KL is in the reward, and the completion's score at its last token
 *   whiten  (x - mean) / sqrt(var + 1e-8) over the tokens of the step, var with Bessel's correction
 *   value   1/2 max((v - return)^2, (clamp(v, V - c, V + c) - return)^2), times the token's weight; V: as before the first update
 * Tokens outside the mask are skipped: what follows one is the next token in it. */
#ifndef TANDEM_TRAIN_GAE_H
#define TANDEM_TRAIN_GAE_H

#include "kernels/base.h"

typedef struct tdm_gae {
    double gamma, lambda;
} tdm_gae;

/* reward, value, advantage, returns [count]; mask [count] or NULL: all. Outside the mask advantage and returns become 0. advantage may be
 * the memory of reward. */
void tdm_gae_eval(const tdm_gae *g, const float *reward, const float *value, const uint8_t *mask, int64_t count, float *advantage, float *returns);

/* Mean and variance over tokens, taken sequence after sequence: first every sequence is added, then the second pass is. */
typedef struct tdm_moments {
    int64_t count;
    double sum, squares; /* squares: of x less the mean, in the second pass */
} tdm_moments;
void tdm_moments_add(tdm_moments *m, const float *x, const uint8_t *mask, int64_t count);
void tdm_moments_add_squares(tdm_moments *m, const float *x, const uint8_t *mask, int64_t count);
double tdm_moments_mean(const tdm_moments *m);
double tdm_moments_variance(const tdm_moments *m); /* Bessel's; of one token 0 */
/* x of the tokens in the mask; shift false: the mean stays (TRL's whiten_rewards). */
void tdm_whiten(const tdm_moments *m, bool shift, float *x, const uint8_t *mask, int64_t count);

typedef struct tdm_value_config {
    double clip;   /* cliprange_value */
    double factor; /* vf_coef */
} tdm_value_config;

/* Sums over tokens; loss is already weighted. */
typedef struct tdm_value_sums {
    double loss;
    int64_t tokens, clipped;
} tdm_value_sums;

/* d loss / d v of one token with the weight `weight`; old: its value before the first update. */
double tdm_value_loss(const tdm_value_config *c, double v, double old, double returns, double weight, tdm_value_sums *sums);

#endif
