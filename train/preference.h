/* Losses over preferences: pairs of a chosen and a rejected answer (DPO, ORPO, a reward model's), or answers that are wanted or not (KTO). Host arithmetic in
 * double on a few numbers a sequence. Definitions are TRL's 1.16 (trl/trainer/dpo_trainer.py and kto_trainer.py, _compute_loss;
 * trl/experimental/orpo/orpo_trainer.py, odds_ratio_loss; trl/trainer/reward_trainer.py, compute_loss), means over the sequences or pairs of an optimizer step:
 *   r = sum over the answer of lp - ref; d = r of chosen - r of rejected; n tokens of an answer
 *   sigmoid  -(1 - s) ln sigmoid(beta d) - s ln sigmoid(-beta d)     hinge  max(0, 1 - beta d)     s: label smoothing
 *   robust   (-(1 - s) ln sigmoid(beta d) + s ln sigmoid(-beta d)) / (1 - 2 s)
 *   ipo      (r/n of chosen - r/n of rejected - 1 / (2 beta))^2
 *   orpo     -beta ln sigmoid(o), o = ln odds of chosen - ln odds of rejected, of p = exp(mean lp of the answer); plus the chosen sequence's
 *            negative log-likelihood, its prompt included
 *   kto      wanted: w (1 - sigmoid(beta (r - z))), unwanted: v (1 - sigmoid(beta (z - r))), z the KL's estimate, no gradient through it
 *   reward   -ln sigmoid(s of chosen - s of rejected - margin) + center (s of chosen + s of rejected)^2, s the model's score of a sequence
 *            (Bradley and Terry); lp, ref and tokens do not enter, and coef is d loss / d s
 * The sigmoid's smoothing is what TRL had before 1.0 (cDPO). `sft` adds that multiple of the chosen answers' negative log-likelihood, a mean
 * over their tokens (TRL: loss_type [..., "sft"] with its weight, rpo_alpha before).
 * In all but the last a sequence's log-probabilities enter as sums, so d loss / d lp is one number for the tokens of an answer. */
#ifndef TANDEM_TRAIN_PREFERENCE_H
#define TANDEM_TRAIN_PREFERENCE_H

#include "kernels/base.h"

typedef enum tdm_preference_kind {
    TDM_PREFERENCE_SIGMOID, TDM_PREFERENCE_HINGE, TDM_PREFERENCE_IPO, TDM_PREFERENCE_ROBUST, /* dpo's, in the order of their names */
    TDM_PREFERENCE_ORPO, TDM_PREFERENCE_KTO, TDM_PREFERENCE_REWARD
} tdm_preference_kind;

typedef struct tdm_preference_config {
    tdm_preference_kind kind;
    double beta, smoothing, sft;
    double desirable, undesirable; /* kto's weights */
    double center;          /* reward's: center_rewards_coefficient */
} tdm_preference_config;

typedef struct tdm_preference_sequence {
    double lp, ref;         /* sums over the answer; ref 0 where there is no reference */
    int64_t tokens;         /* of the answer, at least 1 */
    double prompt_lp;       /* sum over what of the prompt is scored: orpo's chosen */
    int64_t prompt_tokens;
    double score, margin;   /* reward's; margin of the chosen */
    bool wanted;            /* chosen of a pair; kto: the label */
    double coef, prompt_coef; /* filled: d loss / d lp of each token of the answer, of the prompt */
} tdm_preference_sequence;

/* Sums of what TRL's metrics are means of. */
typedef struct tdm_preference_sums {
    double loss;            /* sum over the calls: each is a whole step's loss */
    double reward[2], lp[2]; /* over unwanted, wanted */
    int64_t count[2];
    double accuracy, nll, log_odds_ratio, log_odds, kl; /* accuracy over pairs, the others over calls */
    int64_t calls;
} tdm_preference_sums;

bool tdm_preference_pairs(tdm_preference_kind kind);     /* sequences come as chosen, rejected, chosen, ... */
bool tdm_preference_reference(tdm_preference_kind kind); /* ref is needed */
/* The estimate z of kto: the mean of lp - ref over answers that belong to other prompts, at least 0. */
double tdm_preference_kl(const tdm_preference_sequence *mismatched, int64_t count);
/* The loss of one optimizer step over all its sequences: coefficients into s, figures added to sums. z: kto's. */
void tdm_preference_eval(const tdm_preference_config *c, tdm_preference_sequence *s, int64_t count, double z, tdm_preference_sums *sums);

#endif
