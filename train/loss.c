#include "train/loss.h"

#include <math.h>
#include <stdlib.h>

static bool corrects(const tdm_loss_config *c) { return c->correction != TDM_CORRECTION_NONE; }

/* One value for all tokens of a sequence. */
static bool of_sequence(const tdm_loss_config *c) { return c->ratio_of_sequence || c->kind == TDM_LOSS_VESPO || c->kind == TDM_LOSS_GMPO || c->kind == TDM_LOSS_RLOO; }
/* The ratio is a weight on the token's own lp. */
static bool weighs_lp(const tdm_loss_config *c) { return c->kind == TDM_LOSS_CISPO || c->kind == TDM_LOSS_VESPO || (c->kind >= TDM_LOSS_DPPO_TV && c->kind <= TDM_LOSS_REINFORCE); }

bool tdm_loss_needs_sequence(const tdm_loss_config *c)
{
    return c->kind != TDM_LOSS_SFT && c->kind != TDM_LOSS_FROZEN && (of_sequence(c) || c->off_policy_threshold > 0.0 || (corrects(c) && c->level != TDM_LEVEL_TOKEN));
}

tdm_aggregation tdm_loss_aggregation(tdm_loss_kind kind)
{
    switch (kind) {
    case TDM_LOSS_GRPO:
    case TDM_LOSS_SAPO:
    case TDM_LOSS_GMPO:
    case TDM_LOSS_RLOO: return TDM_AGGREGATION_SEQUENCE_MEAN;
    case TDM_LOSS_LUSPO: return TDM_AGGREGATION_SEQUENCE_SUM;
    case TDM_LOSS_DR_GRPO: return TDM_AGGREGATION_CONSTANT;
    default: return TDM_AGGREGATION_TOKEN_MEAN;
    }
}

double tdm_loss_weight(const tdm_loss_config *c, int64_t tokens, int64_t sequences, int64_t total_tokens)
{
    const double length = (double)tdm_max_i64(tokens, 1), count = (double)tdm_max_i64(sequences, 1);
    switch (c->aggregation == TDM_AGGREGATION_AUTO ? tdm_loss_aggregation(c->kind) : c->aggregation) {
    case TDM_AGGREGATION_SEQUENCE_MEAN: return 1.0 / (length * count);
    case TDM_AGGREGATION_SEQUENCE_SUM: return 1.0 / count;
    case TDM_AGGREGATION_CONSTANT: return 1.0 / (count * (double)c->max_new_tokens);
    case TDM_AGGREGATION_TOKEN_SUM: return 1.0;
    default: return 1.0 / (double)tdm_max_i64(total_tokens, 1);
    }
}

static bool in_loss(const tdm_loss_tokens *t, int64_t i) { return !t->mask || t->mask[i] == 1; }
/* A weight of a sequence is of what was rejected too. */
static bool in_weight(const tdm_loss_tokens *t, int64_t i) { return !t->mask || t->mask[i]; }
static double old_of(const tdm_loss_tokens *t, int64_t i) { return t->old ? t->old[i] : t->lp[i]; }
static double log_ratio(const tdm_loss_tokens *t, int64_t i) { return (double)t->lp[i] - old_of(t, i); }
static double advantage_of(const tdm_loss_tokens *t, int64_t i) { return t->advantages ? (double)t->advantages[i] : t->advantage; }
/* 1 where the objective counts the token, 0 where only the KL term does. */
static double counts(const tdm_loss_tokens *t, int64_t i) { return !t->policy || t->policy[i] ? 1.0 : 0.0; }

/* The weight for a log-ratio old - sampler, of a token or of a sequence. */
static double importance(const tdm_loss_config *c, double delta)
{
    const double ratio = exp(delta);
    if (isnan(ratio)) return 0.0; /* a sampler that gave -inf to its own token says nothing usable */
    if (ratio >= c->floor && ratio <= c->cap) return ratio;
    if (c->correction == TDM_CORRECTION_MASK) return 0.0;
    return ratio > c->cap ? c->cap : c->floor;
}

static double normalized(const tdm_loss_config *c, double u) { return c->normalizer > 0.0 ? u / c->normalizer : u; }

/* The weight that the loss has, counted as it was before the division. */
static double weigh(const tdm_loss_config *c, double delta, tdm_loss_sums *s)
{
    const double u = importance(c, delta), ratio = exp(delta);
    s->importance += u;
    s->importance_squares += u * u;
    s->importance_min = s->importance_count ? fmin(s->importance_min, u) : u;
    s->importance_max = s->importance_count ? fmax(s->importance_max, u) : u;
    s->importance_count++;
    s->importance_high += ratio > c->cap;
    s->importance_low += ratio < c->floor;
    return normalized(c, u);
}

static bool corrected(const tdm_loss_config *c, const tdm_loss_tokens *t) { return t->sampler && corrects(c); }
static double delta_of(const tdm_loss_tokens *t, int64_t i) { return old_of(t, i) - (double)t->sampler[i]; }

void tdm_loss_add_weights(const tdm_loss_config *c, const tdm_loss_tokens *t, double *sum, int64_t *count)
{
    double delta = 0.0;
    int64_t tokens = 0;
    for (int64_t i = 0; corrected(c, t) && i < t->count; i++) {
        if (!in_weight(t, i)) continue;
        tokens++;
        delta += delta_of(t, i);
        if (c->level == TDM_LEVEL_TOKEN) *sum += importance(c, delta_of(t, i));
    }
    if (c->level == TDM_LEVEL_TOKEN) *count += tokens;
    if (c->level == TDM_LEVEL_TOKEN || tokens == 0) return;
    *sum += importance(c, c->level == TDM_LEVEL_GEOMETRIC ? delta / (double)tokens : delta);
    (*count)++;
}

static double clamp(double x, double low, double high) { return x < low ? low : x > high ? high : x; }

static double kl_at(tdm_kl_type kind, double d, double *derivative)
{
    switch (kind) {
    case TDM_KL_K1: *derivative = 1.0; return d;
    case TDM_KL_K2: *derivative = d; return 0.5 * d * d;
    case TDM_KL_K3: break;
    }
    *derivative = 1.0 - exp(-d);
    return exp(-d) + d - 1.0;
}

static double kl_of(const tdm_loss_config *c, double lp, double ref, double *derivative)
{
    const double in = c->kl_input_clamp > 0.0 ? c->kl_input_clamp : INFINITY, out = c->kl_output_clamp > 0.0 ? c->kl_output_clamp : INFINITY;
    const double d = lp - ref, kl = kl_at(c->kl_kind, clamp(d, -in, in), derivative);
    if (fabs(d) > in || fabs(kl) > out) *derivative = 0.0;
    return clamp(kl, -out, out);
}

/* Whether x lies outside the bounds on the side to which the advantage pushes it; counted. */
static bool passes(double x, double low, double high, double a, tdm_loss_sums *s)
{
    const bool clipped = (x < low && a < 0.0) || (x > high && a > 0.0);
    s->clipped += clipped;
    s->clip_count += 1.0;
    return clipped;
}

static double sapo_loss(const tdm_loss_config *c, double w, double a, double *derivative)
{
    const double tau = c->sapo.temperature[a <= 0.0], gate = 1.0 / (1.0 + exp(-tau * (w - 1.0)));
    *derivative = -a * 4.0 * gate * (1.0 - gate) * w;
    return -a * 4.0 / tau * gate;
}

/* The objective at log-ratio d: the loss, and d loss / d d; where the ratio is a weight on lp, d loss / d lp alone. */
static double objective(const tdm_loss_config *c, double d, double a, double *derivative, tdm_loss_sums *s)
{
    const double w = exp(d), low = 1.0 - c->clip_low, high = 1.0 + c->clip_high;
    if (c->kind == TDM_LOSS_SAPO) return sapo_loss(c, w, a, derivative);
    const double bounded = clamp(w, low, high);
    const bool clipped = passes(w, low, high, a, s);
    const double most = c->delta > 0.0 ? c->delta : INFINITY;
    *derivative = c->kind == TDM_LOSS_CISPO ? -bounded * a : clipped || w > most ? 0.0 : -w * a;
    return -fmin(fmin(w, most) * a, bounded * a);
}

/* KL(p_old, p) of the two outcomes, this token or another. */
static double binary_kl(double old_lp, double lp)
{
    const double old = exp(old_lp), p = exp(lp);
    return old * (old_lp - lp) + (1.0 - old) * log((1.0 - old + 1e-8) / (1.0 - p + 1e-8));
}

/* Whether the token's probability has moved past the bound on the side to which the advantage pushes it; counted. */
static bool dppo_stops(const tdm_loss_config *c, double lp, double old_lp, double a, tdm_loss_sums *s)
{
    const bool up = a > 0.0;
    const double moved = up ? exp(lp) - exp(old_lp) : exp(old_lp) - exp(lp), bound = up ? c->clip_high : c->clip_low;
    const bool stops = moved > 0.0 && (c->kind == TDM_LOSS_DPPO_TV ? moved : binary_kl(old_lp, lp)) > bound;
    s->clipped += stops;
    s->clip_count += 1.0;
    return stops;
}

/* The objective of one token where its ratio is its own: as objective() of its log-ratio. */
static double token_objective(const tdm_loss_config *c, const tdm_loss_tokens *t, int64_t i, double *derivative, tdm_loss_sums *s)
{
    const double a = advantage_of(t, i), d = log_ratio(t, i), most = c->delta > 0.0 ? c->delta : INFINITY;
    switch (c->kind) {
    case TDM_LOSS_DPPO_TV:
    case TDM_LOSS_DPPO_KL: *derivative = dppo_stops(c, (double)t->lp[i], old_of(t, i), a, s) ? 0.0 : -fmin(exp(d), most) * a; break;
    case TDM_LOSS_REINFORCE: *derivative = -a; break;
    default: return objective(c, d, a, derivative, s);
    }
    return 0.0; /* a weight on lp: the caller's */
}

/* gmpo's log-ratio of a token. */
static double gmpo_bounded(const tdm_loss_config *c, double d, double a) { return a > 0.0 ? fmin(d, c->clip_high) : fmax(d, -c->clip_low); }

static const double vespo_least = -18.420680743952367, vespo_most = 20.0; /* ln 1e-8, as TRL bounds what it takes for a logarithm of 0 */

static double vespo_phi(const tdm_loss_config *c, double log_w, double a)
{
    const double k = c->vespo.k[a < 0.0], lambda = fmax(c->vespo.lambda[a < 0.0], 1e-4), bounded = clamp(log_w, vespo_least, vespo_most);
    const double phi = exp(lambda + k * bounded - lambda * exp(bounded));
    return isfinite(phi) ? phi : 0.0;
}

double tdm_loss_kl_token(const tdm_loss_config *c, double lp, double ref)
{
    double derivative;
    return kl_of(c, lp, ref, &derivative);
}

double tdm_loss_kl(const tdm_loss_config *c, const tdm_loss_tokens *t, float *each)
{
    double sum = 0.0, derivative;
    for (int64_t i = 0; i < t->count; i++) {
        const double kl = in_loss(t, i) ? kl_of(c, t->lp[i], t->ref[i], &derivative) : NAN;
        if (each) each[i] = (float)kl;
        if (in_loss(t, i)) sum += kl;
    }
    return sum;
}

void tdm_loss_count(const tdm_loss_tokens *t, int64_t i, tdm_loss_sums *s)
{
    s->tokens++;
    if (!t->sampler) return;
    const double d = (double)t->lp[i] - (double)t->sampler[i], m = fabs(d);
    s->mismatch += m;
    s->mismatch_k1 -= d;
    s->mismatch_k3 += exp(clamp(d, -20.0, 20.0)) - d - 1.0;
    s->mismatch_tokens++;
    if (!(m <= s->mismatch_max)) s->mismatch_max = m;
}

/* KL's part, never weighted by the correction. w: what kl_ratio multiplies it with; mean: of a sequence's ratio the mean of its tokens' KL, by which
 * each of them moves it; NULL: w is the token's own. */
static double add_kl(const tdm_loss_config *c, const tdm_loss_tokens *t, int64_t i, double w, const double *mean, tdm_loss_sums *s)
{
    if (!t->ref) return 0.0;
    double derivative;
    const double kl = kl_of(c, t->lp[i], t->ref[i], &derivative);
    if (c->kl_ratio) derivative = w * (derivative + (mean ? *mean : kl));
    const double term = c->kl_ratio ? w * kl : kl;
    s->kl += term;
    s->loss += t->weight * c->kl * term;
    return t->weight * c->kl * derivative;
}

/* What the tokens in the loss have in common. */
typedef struct shared {
    double length;           /* tokens in the loss, at least 1 */
    double counted;          /* of them in the objective; at least 1 */
    double ratio, kl;        /* exp of the mean of lp - old; mean of KL: for kl_ratio */
    double d;                /* mean of lp - old; gmpo: over those in the objective, each clipped */
    double weighed, delta;   /* tokens in the correction's weight, at least 1; sum of old - sampler over them */
    double weight;           /* sum over those in the objective of the weights at token level, each 1 without them */
    double stale;            /* mean of sampler - lp, without a sampler of old - lp */
    double log_w;            /* vespo: sum of lp - old, and of ln of the weights at token level */
} shared;

static shared shared_of(const tdm_loss_config *c, const tdm_loss_tokens *t)
{
    shared q = {0};
    double tokens = 0.0, gmpo = 0.0, derivative;
    for (int64_t i = 0; i < t->count; i++) {
        if (corrected(c, t) && in_weight(t, i)) {
            q.delta += delta_of(t, i);
            q.weighed += 1.0;
        }
        if (!in_loss(t, i)) continue;
        const double d = log_ratio(t, i), in = counts(t, i);
        const bool by_token = corrected(c, t) && c->level == TDM_LEVEL_TOKEN;
        const double u = by_token ? importance(c, delta_of(t, i)) : 1.0;
        tokens += 1.0;
        q.counted += in;
        q.d += d;
        gmpo += in * gmpo_bounded(c, d, t->advantage);
        q.log_w += clamp(d, -20.0, 20.0);
        const double stale = t->sampler ? (double)t->sampler[i] - (double)t->lp[i] : -d;
        if (!isnan(stale)) q.stale += stale;
        if (t->ref && c->kl_ratio) q.kl += kl_of(c, t->lp[i], t->ref[i], &derivative);
        q.weight += in * (by_token ? normalized(c, u) : 1.0);
        if (by_token) q.log_w += clamp(log(u), vespo_least, vespo_most);
    }
    q.length = fmax(tokens, 1.0);
    q.counted = fmax(q.counted, 1.0);
    q.weighed = fmax(q.weighed, 1.0);
    q.d /= q.length;
    q.ratio = exp(q.d);
    q.kl /= q.length;
    q.stale /= q.length;
    if (c->kind == TDM_LOSS_GMPO) q.d = gmpo / q.counted;
    return q;
}

/* The loss that all tokens of a sequence share; u: the correction's weight of the sequence. */
static double sequence_loss(const tdm_loss_config *c, const tdm_loss_tokens *t, const shared *q, double u, double *derivative, tdm_loss_sums *s)
{
    const double a = t->advantage;
    double loss;
    switch (c->kind) {
    case TDM_LOSS_VESPO: *derivative = -vespo_phi(c, q->log_w + clamp(log(u), vespo_least, vespo_most), a) * a; return 0.0;
    case TDM_LOSS_GMPO: *derivative = -exp(q->d) * a; return *derivative;
    case TDM_LOSS_RLOO:
        loss = objective(c, q->d * q->length, a, derivative, s);
        *derivative *= q->length; /* each token moves the product by itself, and has 1 / length of the loss */
        return loss;
    default: return objective(c, q->d, a, derivative, s);
    }
}

/* Whether the sequence has moved too far from what sampled it for its advantage to say something (TRL's off_policy_mask_threshold); counted. */
static bool stale(const tdm_loss_config *c, const tdm_loss_tokens *t, const shared *q, tdm_loss_sums *s)
{
    if (c->off_policy_threshold <= 0.0) return false;
    const bool far = q->stale > c->off_policy_threshold;
    bool dropped = false;
    for (int64_t i = 0; far && i < t->count; i++) dropped = dropped || (in_loss(t, i) && advantage_of(t, i) < 0.0);
    s->sequences++;
    s->off_policy += dropped;
    return dropped;
}

static void eval_sequence(const tdm_loss_config *c, const tdm_loss_tokens *t, float *coef, tdm_loss_sums *s)
{
    const shared q = shared_of(c, t);
    const bool by_token = corrected(c, t) && c->level == TDM_LEVEL_TOKEN, shares = of_sequence(c), vespo = c->kind == TDM_LOSS_VESPO, gmpo = c->kind == TDM_LOSS_GMPO;
    const bool drops = stale(c, t, &q, s);
    double loss = 0.0, derivative = 0.0, u = 1.0;
    if (corrected(c, t) && !by_token) u = weigh(c, c->level == TDM_LEVEL_GEOMETRIC ? q.delta / q.weighed : q.delta, s);
    if (shares) loss = sequence_loss(c, t, &q, u, &derivative, s);
    /* each token's loss is the sequence's; its ratio depends on every token by 1 / length, so a token gets the mean of their weights. gmpo's is of the
     * tokens in the objective, and has one loss a sequence: each token has 1 / length of it, whatever their number */
    const double mean = gmpo ? u * q.length / q.counted : u * q.weight / q.length;
    for (int64_t i = 0; i < t->count; i++) {
        coef[i] = 0.0f;
        if (!in_loss(t, i)) continue;
        const double a = advantage_of(t, i), d = log_ratio(t, i), in = counts(t, i), kept = drops && a < 0.0 ? 0.0 : 1.0;
        if (by_token) u = weigh(c, delta_of(t, i), s);
        if (!shares) loss = token_objective(c, t, i, &derivative, s);
        if (weighs_lp(c)) loss = derivative * (double)t->lp[i];
        const bool still = gmpo && passes(d, -c->clip_low, c->clip_high, a, s);
        const double own = kept * (vespo ? 1.0 : u) * (gmpo ? 1.0 : in); /* vespo's weights are in phi */
        const double slope = gmpo ? (still ? 0.0 : kept * in * mean) : shares && !weighs_lp(c) ? kept * mean : own;
        s->loss += t->weight * own * loss;
        coef[i] = (float)(t->weight * slope * derivative + add_kl(c, t, i, c->ratio_of_sequence ? q.ratio : exp(d), c->ratio_of_sequence ? &q.kl : NULL, s));
        tdm_loss_count(t, i, s);
    }
}

static double eval_token(const tdm_loss_config *c, const tdm_loss_tokens *t, int64_t i, tdm_loss_sums *s)
{
    if (c->kind == TDM_LOSS_SFT) {
        s->loss -= t->weight * (double)t->lp[i];
        return -t->weight;
    }
    if (c->kind == TDM_LOSS_FROZEN) return (double)t->coef[i];
    double derivative, loss = token_objective(c, t, i, &derivative, s);
    if (weighs_lp(c)) loss = derivative * (double)t->lp[i];
    const double u = counts(t, i) * (corrected(c, t) ? weigh(c, delta_of(t, i), s) : 1.0);
    s->loss += t->weight * u * loss;
    return t->weight * u * derivative + add_kl(c, t, i, exp(log_ratio(t, i)), NULL, s);
}

void tdm_loss_eval(const tdm_loss_config *c, const tdm_loss_tokens *t, int64_t first, int64_t n, float *coef, tdm_loss_sums *sums)
{
    if (tdm_loss_needs_sequence(c)) {
        TDM_ASSERT(first == 0 && n == t->count);
        eval_sequence(c, t, coef, sums);
        return;
    }
    for (int64_t i = first; i < first + n; i++) {
        coef[i - first] = 0.0f;
        if (!in_loss(t, i)) continue;
        coef[i - first] = (float)eval_token(c, t, i, sums);
        tdm_loss_count(t, i, sums);
    }
}

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

float tdm_quantile(float *x, int64_t n, double q)
{
    qsort(x, (size_t)n, sizeof *x, by_value);
    const double rank = q * (double)(n - 1);
    const int64_t below = (int64_t)rank, above = tdm_min_i64(n - 1, below + 1);
    return x[below] + (float)(rank - (double)below) * (x[above] - x[below]);
}
