#include "train/preference.h"

#include <math.h>

bool tdm_preference_pairs(tdm_preference_kind kind) { return kind != TDM_PREFERENCE_KTO; }
bool tdm_preference_reference(tdm_preference_kind kind) { return kind != TDM_PREFERENCE_ORPO && kind != TDM_PREFERENCE_REWARD; }

static double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
static double log_sigmoid(double x) { return x < 0.0 ? x - log1p(exp(x)) : -log1p(exp(-x)); }
/* ln(1 - exp(x)) for x < 0; the branch at -ln 2 avoids cancellation. */
static double log1mexp(double x) { return x < -0.6931471805599453 ? log1p(-exp(x)) : log(-expm1(x)); }

static double ratio_of(const tdm_preference_sequence *s) { return s->lp - s->ref; }
static double mean_of(const tdm_preference_sequence *s) { return s->lp / (double)s->tokens; }

double tdm_preference_kl(const tdm_preference_sequence *mismatched, int64_t count)
{
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++) sum += ratio_of(&mismatched[i]);
    return fmax(0.0, sum / (double)tdm_max_i64(1, count));
}

/* DPO of one pair, as a function of x = what is compared: the loss, and d loss / d x. */
static double compared(const tdm_preference_config *c, double x, double *derivative)
{
    const double b = c->beta, s = c->smoothing, keep = 1.0 - s;
    switch (c->kind) {
    case TDM_PREFERENCE_HINGE:
        *derivative = b * x < 1.0 ? -b : 0.0;
        return fmax(0.0, 1.0 - b * x);
    case TDM_PREFERENCE_IPO: {
        const double e = x - 1.0 / (2.0 * b);
        *derivative = 2.0 * e;
        return e * e;
    }
    case TDM_PREFERENCE_ROBUST:
        *derivative = b * (-keep * sigmoid(-b * x) - s * sigmoid(b * x)) / (1.0 - 2.0 * s);
        return (-keep * log_sigmoid(b * x) + s * log_sigmoid(-b * x)) / (1.0 - 2.0 * s);
    case TDM_PREFERENCE_ORPO:
        *derivative = -b * sigmoid(-x);
        return -b * log_sigmoid(x);
    case TDM_PREFERENCE_SIGMOID:
    case TDM_PREFERENCE_KTO:
    case TDM_PREFERENCE_REWARD: break;
    }
    *derivative = b * (-keep * sigmoid(-b * x) + s * sigmoid(b * x));
    return -keep * log_sigmoid(b * x) - s * log_sigmoid(-b * x);
}

/* What a pair is compared by, and its slope in the answer's sum of log-probabilities. */
static double score_of(const tdm_preference_config *c, const tdm_preference_sequence *s, double *slope)
{
    const double n = (double)s->tokens;
    if (c->kind == TDM_PREFERENCE_ORPO) { /* ln p - ln(1 - p), whose derivative in ln p is 1 / (1 - p) */
        *slope = -1.0 / (n * expm1(mean_of(s)));
        return mean_of(s) - log1mexp(mean_of(s));
    }
    *slope = c->kind == TDM_PREFERENCE_IPO ? 1.0 / n : 1.0;
    return c->kind == TDM_PREFERENCE_IPO ? ratio_of(s) / n : ratio_of(s);
}

/* The reward a metric speaks of: beta times the log-ratio, or orpo's mean log-probability, or the score. */
static double reward_of(const tdm_preference_config *c, const tdm_preference_sequence *s)
{
    if (c->kind == TDM_PREFERENCE_REWARD) return s->score;
    return c->beta * (c->kind == TDM_PREFERENCE_ORPO ? mean_of(s) : ratio_of(s));
}

static void count_sequence(const tdm_preference_config *c, const tdm_preference_sequence *s, tdm_preference_sums *sums)
{
    sums->reward[s->wanted] += reward_of(c, s);
    sums->lp[s->wanted] += c->kind == TDM_PREFERENCE_ORPO ? mean_of(s) : s->lp;
    sums->count[s->wanted]++;
}

/* The chosen sequences' negative log-likelihood, `factor` times: a mean over their tokens. */
static double likelihood(tdm_preference_sequence *s, int64_t count, double factor, tdm_preference_sums *sums)
{
    double lp = 0.0, tokens = 0.0;
    for (int64_t i = 0; i < count; i += 2) {
        lp += s[i].lp + s[i].prompt_lp;
        tokens += (double)(s[i].tokens + s[i].prompt_tokens);
    }
    for (int64_t i = 0; i < count; i += 2) {
        s[i].coef -= factor / tokens;
        s[i].prompt_coef = -factor / tokens;
    }
    sums->nll -= lp / tokens;
    return -factor * lp / tokens;
}

static double eval_pairs(const tdm_preference_config *c, tdm_preference_sequence *s, int64_t count, tdm_preference_sums *sums)
{
    const double pairs = (double)(count / 2), factor = c->kind == TDM_PREFERENCE_ORPO ? 1.0 : c->sft;
    double loss = 0.0, odds = 0.0, odds_ratio = 0.0;
    for (int64_t i = 0; i < count; i += 2) {
        double up, down, derivative;
        const double x = score_of(c, &s[i], &up) - score_of(c, &s[i + 1], &down);
        loss += compared(c, x, &derivative) / pairs;
        s[i].coef = derivative * up / pairs;
        s[i + 1].coef = -derivative * down / pairs;
        odds += x / pairs;
        odds_ratio += log_sigmoid(x) / pairs;
        sums->accuracy += reward_of(c, &s[i]) > reward_of(c, &s[i + 1]);
    }
    sums->log_odds += odds;
    sums->log_odds_ratio += odds_ratio;
    return factor > 0.0 ? loss + likelihood(s, count, factor, sums) : loss;
}

static double eval_scores(const tdm_preference_config *c, tdm_preference_sequence *s, int64_t count, tdm_preference_sums *sums)
{
    const double pairs = (double)(count / 2);
    double loss = 0.0;
    for (int64_t i = 0; i < count; i += 2) {
        const double x = s[i].score - s[i + 1].score - s[i].margin, sum = s[i].score + s[i + 1].score;
        loss += (c->center * sum * sum - log_sigmoid(x)) / pairs;
        s[i].coef = (2.0 * c->center * sum - sigmoid(-x)) / pairs;
        s[i + 1].coef = (2.0 * c->center * sum + sigmoid(-x)) / pairs;
        sums->accuracy += s[i].score > s[i + 1].score;
    }
    return loss;
}

static double eval_labels(const tdm_preference_config *c, tdm_preference_sequence *s, int64_t count, double z)
{
    double loss = 0.0;
    for (int64_t i = 0; i < count; i++) {
        const double sign = s[i].wanted ? 1.0 : -1.0, weight = (s[i].wanted ? c->desirable : c->undesirable) / (double)count;
        const double p = sigmoid(sign * c->beta * (ratio_of(&s[i]) - z));
        loss += weight * (1.0 - p);
        s[i].coef = -sign * weight * c->beta * p * (1.0 - p);
    }
    return loss;
}

void tdm_preference_eval(const tdm_preference_config *c, tdm_preference_sequence *s, int64_t count, double z, tdm_preference_sums *sums)
{
    TDM_ASSERT(!tdm_preference_pairs(c->kind) || count % 2 == 0);
    for (int64_t i = 0; i < count; i++) {
        TDM_ASSERT(s[i].tokens > 0);
        s[i].prompt_coef = 0.0;
        count_sequence(c, &s[i], sums);
    }
    sums->loss += c->kind == TDM_PREFERENCE_REWARD ? eval_scores(c, s, count, sums)
                  : tdm_preference_pairs(c->kind)  ? eval_pairs(c, s, count, sums)
                                                   : eval_labels(c, s, count, z);
    sums->kl += z;
    sums->calls++;
}
