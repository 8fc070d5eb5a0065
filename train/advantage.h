/* Rewards to advantages: what a completion got against what the others did. Host arithmetic in double. */
#ifndef TANDEM_TRAIN_ADVANTAGE_H
#define TANDEM_TRAIN_ADVANTAGE_H

#include "kernels/base.h"

typedef enum tdm_advantage { TDM_ADVANTAGE_GROUP_STD, TDM_ADVANTAGE_BATCH_STD, TDM_ADVANTAGE_NONE, TDM_ADVANTAGE_LEAVE_ONE_OUT, TDM_ADVANTAGE_GDPO,
                             TDM_ADVANTAGE_REINFORCE_PP, TDM_ADVANTAGE_REINFORCE_PP_BASELINE } tdm_advantage;

/* Advantages of rewards [groups * group_size]; NaN: no reward was given (the sample gets 0 and does not count in the group).
 *   group_std   (r - mean) / (std + 1e-4), Bessel's correction     batch_std  (r - mean of group) / (std of batch + 1e-4)
 *   none        r - mean of group                                  leave_one_out  r - mean of the others
 * A group of equal rewards says nothing about the policy: its advantages are 0.
 *   reinforce_pp            r, and with _baseline r - mean of group, less its mean over the batch's tokens and divided by its deviation over them (not
 *                           Bessel's), whatever the group; arXiv:2501.03262, NeMo-RL's ReinforcePlusPlusAdvantageEstimator
 * tokens [groups * group_size]: of each sample; reinforce_pp only. advantage may be the memory of reward. */
void tdm_advantages(tdm_advantage kind, const double *reward, const int64_t *tokens, const int64_t *group_start, int64_t groups, double *advantage);
/* REINFORCE++ with the KL in each token's reward (OpenRLHF's compute_reward and get_cumulative_returns, verl's compute_reinforce_plus_plus_outcome_advantage,
 * gamma 1): a token's advantage is the reward, of the completion and so at its end, with baseline less the group's mean, less factor times the KL of this token
 * and of all after it; standardized over the tokens in the loss as above.
 * value [samples] -> [tokens]: each token's KL, NaN outside the loss; its advantage afterwards, there 0. */
void tdm_advantages_by_token(bool baseline, const double *reward, double factor, const int64_t *tokens, const int64_t *group_start, int64_t groups,
                             float *const *value);
/* GDPO (arXiv:2601.05242; TRL's multi_objective_aggregation: normalize_then_sum): each reward by itself is (r - mean of group) / (std of group
 * + 1e-4); the sum of these by weight then is (sum - mean of batch) / (std of batch + 1e-4), so that a reward of small spread counts as much as
 * one of large spread. score [rewards, samples], unweighted, NaN: no opinion. A reward that is equal in a group, or was given once there,
 * adds 0; a sample that no reward has an opinion on gets 0 and does not count. sum [samples] is room to work in. */
void tdm_advantages_gdpo(const double *score, const double *weight, int64_t rewards, const int64_t *group_start, int64_t groups, double *sum,
                         double *advantage);
/* Whether the rewards that were given in [first, last) are one value, or none at all: such a group tells no completion from another. */
bool tdm_rewards_equal(const double *reward, int64_t first, int64_t last);

#endif
