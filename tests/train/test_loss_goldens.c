/* tests/train/test_loss_goldens.c  labels: golden
 * Every loss with every aggregation, correction and rejection against TRL's and verl's own code on the same numbers (tests/golden/make_losses.py): the loss, and
 * d loss / d log-probability of every token. What follows from these, the adapter's gradient, is shown in tests/conformance/train.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "testing/golden_file.h"
#include "train/advantage.h"
#include "train/loss.h"
#include "train/reject.h"

enum { B = 6, T = 8, MAX_NEW = 12 };
static const double clip_low = 0.2, clip_high = 0.28, delta = 1.5, stale = 0.02, kl = 0.1, top = 0.4;

typedef struct batch {
    float lp[B][T], old[B][T], sampler[B][T], ref[B][T], entropy[B][T];
    uint8_t mask[B][T], policy[B][T];
    int64_t length[B];
    double advantage[B];
} batch;

static test_goldens *goldens;

static void fill(float out[B][T], const char *name) { memcpy(out, test_golden(goldens, "%s", name).data, sizeof(float[B][T])); }

static void open_batch(batch *b)
{
    float mask[B][T];
    fill(b->lp, "lp");
    fill(b->old, "old");
    fill(b->sampler, "sampler");
    fill(b->ref, "ref");
    fill(b->entropy, "entropy");
    fill(mask, "mask");
    for (int i = 0; i < B; i++) {
        b->length[i] = 0;
        b->advantage[i] = (double)((const float *)test_golden(goldens, "advantage").data)[i];
        for (int t = 0; t < T; t++) b->length[i] += b->mask[i][t] = mask[i][t] > 0.0f;
    }
}

/* The tokens of most entropy, as runtime/run/job_correct.c finds them. */
static void find_policy(batch *b)
{
    float all[B * T];
    int64_t n = 0;
    for (int i = 0; i < B; i++)
        for (int t = 0; t < b->length[i]; t++) all[n++] = b->entropy[i][t];
    const float least = tdm_quantile(all, n, 1.0 - top);
    for (int i = 0; i < B; i++)
        for (int t = 0; t < T; t++) b->policy[i][t] = b->entropy[i][t] >= least;
}

typedef struct setting {
    tdm_loss_config loss;
    bool corrected, kl, top_entropy, normalize; /* corrected: old is the trainer's; else the sampler's */
} setting;

static tdm_loss_tokens tokens_of(const batch *b, const setting *s, int i)
{
    return (tdm_loss_tokens){.count = b->length[i], .lp = b->lp[i], .old = s->corrected ? b->old[i] : b->sampler[i], .sampler = b->sampler[i],
                             .ref = s->kl ? b->ref[i] : NULL, .mask = b->mask[i], .policy = s->top_entropy ? b->policy[i] : NULL, .advantage = b->advantage[i]};
}

static int64_t in_loss(const batch *b, int i)
{
    int64_t n = 0;
    for (int t = 0; t < b->length[i]; t++) n += b->mask[i][t] == 1;
    return n;
}

static void expect_golden(const char *name, const double *got, int64_t count)
{
    const float *want = test_golden(goldens, "%s", name).data;
    double error = 0.0, norm = 0.0;
    for (int64_t i = 1; i < count; i++) {
        error += (got[i] - (double)want[i]) * (got[i] - (double)want[i]);
        norm += (double)want[i] * (double)want[i];
    }
    if (!(fabs(got[0] - (double)want[0]) <= 1e-6 * fmax(1.0, fabs((double)want[0])))) fail_msg("%s: loss %.9g, want %.9g", name, got[0], (double)want[0]);
    if (!(sqrt(error) <= 1e-6 * sqrt(norm) + 1e-12)) fail_msg("%s: the gradient is off by %.3g of %.3g", name, sqrt(error), sqrt(norm));
}

static void expect_case(const char *name, const batch *b, setting s)
{
    double got[1 + B * T] = {0}, sum = 0.0;
    int64_t total = 0, count = 0;
    tdm_loss_sums sums = {0};
    for (int i = 0; i < B; i++) total += in_loss(b, i);
    for (int i = 0; s.normalize && i < B; i++) { /* of what is rejected too */
        const tdm_loss_tokens t = tokens_of(b, &s, i);
        tdm_loss_add_weights(&s.loss, &t, &sum, &count);
    }
    if (s.normalize) s.loss.normalizer = sum / (double)count;
    for (int i = 0; i < B; i++) {
        float coef[T];
        tdm_loss_tokens t = tokens_of(b, &s, i);
        t.weight = tdm_loss_weight(&s.loss, in_loss(b, i), B, total);
        tdm_loss_eval(&s.loss, &t, 0, t.count, coef, &sums);
        for (int k = 0; k < b->length[i]; k++) got[1 + i * T + k] = (double)coef[k];
    }
    got[0] = sums.loss;
    expect_golden(name, got, 1 + B * T);
}

/* ---- TRL ---- */

static const struct { const char *name; tdm_loss_kind kind; bool sequence; } trl_losses[] = {
    {"grpo", TDM_LOSS_GRPO, false}, {"bnpo", TDM_LOSS_BNPO, false}, {"dr_grpo", TDM_LOSS_DR_GRPO, false}, {"dapo", TDM_LOSS_DAPO, false},
    {"cispo", TDM_LOSS_CISPO, false}, {"sapo", TDM_LOSS_SAPO, false}, {"luspo", TDM_LOSS_LUSPO, true}, {"vespo", TDM_LOSS_VESPO, false},
    {"gspo", TDM_LOSS_GRPO, true}, {"gmpo", TDM_LOSS_GMPO, false}, {"rloo", TDM_LOSS_RLOO, false}};
static const struct { const char *name; tdm_level level; tdm_correction correction; double floor, cap; } trl_corrections[] = {
    {"none", TDM_LEVEL_TOKEN, TDM_CORRECTION_NONE, 0.0, 2.0},
    {"token_truncate", TDM_LEVEL_TOKEN, TDM_CORRECTION_TRUNCATE, 0.7, 1.4}, {"token_mask", TDM_LEVEL_TOKEN, TDM_CORRECTION_MASK, 0.7, 1.4},
    {"sequence_truncate", TDM_LEVEL_SEQUENCE, TDM_CORRECTION_TRUNCATE, 0.5, 1.6}, {"sequence_mask", TDM_LEVEL_SEQUENCE, TDM_CORRECTION_MASK, 0.5, 1.6},
    {"geometric_truncate", TDM_LEVEL_GEOMETRIC, TDM_CORRECTION_TRUNCATE, 0.93, 1.06}, {"geometric_mask", TDM_LEVEL_GEOMETRIC, TDM_CORRECTION_MASK, 0.93, 1.06}};
static const char *const trl_options[] = {"plain", "kl", "kl_bias", "top_entropy", "off_policy", "delta", "entropy_kl"};

/* As make_losses.py has it. */
static bool trl_has(size_t l, size_t c, const char *option)
{
    const tdm_loss_kind kind = trl_losses[l].kind;
    const bool plain = strcmp(option, "plain") == 0, by_token = trl_corrections[c].level == TDM_LEVEL_TOKEN && c > 0;
    if (kind == TDM_LOSS_RLOO) return c == 0 && plain;
    if (kind == TDM_LOSS_GMPO) return c == 0 && (plain || strcmp(option, "kl") == 0 || strcmp(option, "top_entropy") == 0);
    if (trl_losses[l].sequence && by_token) return false;
    return strcmp(option, "delta") != 0 || kind <= TDM_LOSS_DAPO || kind == TDM_LOSS_LUSPO;
}

static void trl_case(const batch *b, size_t l, size_t c, const char *option)
{
    char name[48];
    const bool sequence = trl_losses[l].sequence;
    const tdm_loss_kind kind = trl_losses[l].kind;
    setting s = {.corrected = c > 0};
    s.loss = (tdm_loss_config){.kind = kind, .ratio_of_sequence = sequence, .clip_low = kind == TDM_LOSS_CISPO ? 1.0 : clip_low, .clip_high = clip_high, .kl_kind = TDM_KL_K3,
                               .sapo = {{1.0, 1.05}}, .vespo = {{2.0, 3.0}, {3.0, 2.0}}, .correction = trl_corrections[c].correction,
                               .level = trl_corrections[c].level, .floor = trl_corrections[c].floor, .cap = trl_corrections[c].cap, .max_new_tokens = MAX_NEW};
    s.top_entropy = strstr(option, "entropy") != NULL;
    s.kl = strstr(option, "kl") != NULL;
    s.loss.kl = s.kl ? kl : 0.0;
    s.loss.kl_ratio = strcmp(option, "kl_bias") == 0;
    if (strcmp(option, "off_policy") == 0) s.loss.off_policy_threshold = stale;
    if (strcmp(option, "delta") == 0) s.loss.delta = delta;
    snprintf(name, sizeof name, "trl/%s/%s/%s", trl_losses[l].name, trl_corrections[c].name, option);
    expect_case(name, b, s);
}

static void every_loss_and_correction_is_trl_s(void **state)
{
    (void)state;
    batch b;
    open_batch(&b);
    find_policy(&b);
    for (size_t l = 0; l < TDM_COUNT(trl_losses); l++)
        for (size_t c = 0; c < TDM_COUNT(trl_corrections); c++)
            for (size_t o = 0; o < TDM_COUNT(trl_options); o++)
                if (trl_has(l, c, trl_options[o])) trl_case(&b, l, c, trl_options[o]);
}

/* ---- verl ---- */

static const struct { const char *name; tdm_loss_kind kind; bool sequence, any; } verl_losses[] = { /* any: with every aggregation */
    {"vanilla", TDM_LOSS_DAPO, false, true}, {"gspo", TDM_LOSS_GRPO, true, false}, {"sapo", TDM_LOSS_SAPO, false, false}, {"cispo", TDM_LOSS_CISPO, false, true},
    {"geo_mean", TDM_LOSS_GMPO, false, false}, {"dppo_tv", TDM_LOSS_DPPO_TV, false, true}, {"dppo_kl", TDM_LOSS_DPPO_KL, false, true}, {"gpg", TDM_LOSS_REINFORCE, false, true}};
static const char *const aggregations[] = {[TDM_AGGREGATION_TOKEN_MEAN] = "token_mean", [TDM_AGGREGATION_SEQUENCE_MEAN] = "sequence_mean",
                                           [TDM_AGGREGATION_SEQUENCE_SUM] = "sequence_sum", [TDM_AGGREGATION_CONSTANT] = "constant",
                                           [TDM_AGGREGATION_TOKEN_SUM] = "token_sum"};

static const struct { const char *name; tdm_level level; tdm_correction correction; double floor, cap; bool normalize; tdm_reject_config reject; } verl_corrections[] = {
    {"none", TDM_LEVEL_TOKEN, TDM_CORRECTION_NONE, 0.0, 2.0, false, {.count = 0}},
    {"token_tis", TDM_LEVEL_TOKEN, TDM_CORRECTION_TRUNCATE, 0.0, 1.2, false, {.count = 0}},
    {"token_tis_norm", TDM_LEVEL_TOKEN, TDM_CORRECTION_TRUNCATE, 0.0, 1.2, true, {.count = 0}},
    {"icepop", TDM_LEVEL_TOKEN, TDM_CORRECTION_MASK, 0.7, 1.4, false, {.count = 0}},
    {"icepop_norm", TDM_LEVEL_TOKEN, TDM_CORRECTION_MASK, 0.7, 1.4, true, {.count = 0}},
    {"seq_tis", TDM_LEVEL_SEQUENCE, TDM_CORRECTION_TRUNCATE, 0.0, 1.6, false, {.count = 0}},
    {"seq_tis_norm", TDM_LEVEL_SEQUENCE, TDM_CORRECTION_TRUNCATE, 0.0, 1.6, true, {.count = 0}},
    {"seq_mis", TDM_LEVEL_SEQUENCE, TDM_CORRECTION_MASK, 0.5, 1.6, false, {.count = 0}},
    {"reject_token_k1", TDM_LEVEL_TOKEN, TDM_CORRECTION_NONE, 0.0, 2.0, false, {.rule = {{TDM_REJECT_TOKEN_K1, 0.75, 1.4}}, .count = 1}},
    {"reject_token_k2", TDM_LEVEL_TOKEN, TDM_CORRECTION_NONE, 0.0, 2.0, false, {.rule = {{TDM_REJECT_TOKEN_K2, 0.0, 0.05}}, .count = 1}},
    {"reject_token_k3", TDM_LEVEL_TOKEN, TDM_CORRECTION_NONE, 0.0, 2.0, false, {.rule = {{TDM_REJECT_TOKEN_K3, 0.0, 0.05}}, .count = 1}},
    {"reject_seq_sum_k1", TDM_LEVEL_TOKEN, TDM_CORRECTION_NONE, 0.0, 2.0, false, {.rule = {{TDM_REJECT_SEQ_SUM_K1, 0.6, 1.6}}, .count = 1}},
    {"reject_seq_sum_k2", TDM_LEVEL_TOKEN, TDM_CORRECTION_NONE, 0.0, 2.0, false, {.rule = {{TDM_REJECT_SEQ_SUM_K2, 0.0, 0.25}}, .count = 1}},
    {"reject_seq_sum_k3", TDM_LEVEL_TOKEN, TDM_CORRECTION_NONE, 0.0, 2.0, false, {.rule = {{TDM_REJECT_SEQ_SUM_K3, 0.0, 0.25}}, .count = 1}},
    {"reject_seq_mean_k1", TDM_LEVEL_TOKEN, TDM_CORRECTION_NONE, 0.0, 2.0, false, {.rule = {{TDM_REJECT_SEQ_MEAN_K1, 0.9, 1.1}}, .count = 1}},
    {"reject_seq_mean_k2", TDM_LEVEL_TOKEN, TDM_CORRECTION_NONE, 0.0, 2.0, false, {.rule = {{TDM_REJECT_SEQ_MEAN_K2, 0.0, 0.05}}, .count = 1}},
    {"reject_seq_mean_k3", TDM_LEVEL_TOKEN, TDM_CORRECTION_NONE, 0.0, 2.0, false, {.rule = {{TDM_REJECT_SEQ_MEAN_K3, 0.0, 0.05}}, .count = 1}},
    {"reject_seq_max_k2", TDM_LEVEL_TOKEN, TDM_CORRECTION_NONE, 0.0, 2.0, false, {.rule = {{TDM_REJECT_SEQ_MAX_K2, 0.0, 0.1}}, .count = 1}},
    {"reject_seq_max_k3", TDM_LEVEL_TOKEN, TDM_CORRECTION_NONE, 0.0, 2.0, false, {.rule = {{TDM_REJECT_SEQ_MAX_K3, 0.0, 0.1}}, .count = 1}},
    {"veto", TDM_LEVEL_TOKEN, TDM_CORRECTION_NONE, 0.0, 2.0, false, {.veto = 0.6}},
    {"reject_two", TDM_LEVEL_TOKEN, TDM_CORRECTION_NONE, 0.0, 2.0, false,
     {.rule = {{TDM_REJECT_TOKEN_K3, 0.0, 0.05}, {TDM_REJECT_SEQ_MEAN_K1, 0.9, 1.1}}, .count = 2}},
    {"token_tis_reject", TDM_LEVEL_TOKEN, TDM_CORRECTION_TRUNCATE, 0.0, 1.2, false, {.rule = {{TDM_REJECT_SEQ_MEAN_K1, 0.9, 1.1}}, .count = 1}},
    {"seq_tis_norm_reject", TDM_LEVEL_SEQUENCE, TDM_CORRECTION_TRUNCATE, 0.0, 1.6, true, {.rule = {{TDM_REJECT_TOKEN_K2, 0.0, 0.05}}, .count = 1}},
};

static void verl_case(size_t l, tdm_aggregation how, size_t c)
{
    char name[48];
    batch b;
    tdm_reject_sums rejected = {0};
    setting s = {.corrected = true, .normalize = verl_corrections[c].normalize};
    const tdm_loss_kind kind = verl_losses[l].kind;
    const bool dppo = kind == TDM_LOSS_DPPO_TV || kind == TDM_LOSS_DPPO_KL;
    s.loss = (tdm_loss_config){.kind = kind, .aggregation = how, .ratio_of_sequence = verl_losses[l].sequence, .clip_low = dppo ? 0.04 : clip_low,
                               .clip_high = dppo ? 0.06 : clip_high, .delta = kind == TDM_LOSS_DAPO || dppo ? delta : 0.0, .sapo = {{1.0, 1.05}}, .correction = verl_corrections[c].correction,
                               .level = verl_corrections[c].level, .floor = verl_corrections[c].floor, .cap = verl_corrections[c].cap, .max_new_tokens = MAX_NEW};
    open_batch(&b);
    for (int i = 0; i < B; i++) tdm_reject(&verl_corrections[c].reject, b.old[i], b.sampler[i], b.length[i], b.mask[i], &rejected);
    snprintf(name, sizeof name, "verl/%s/%s/%s", verl_losses[l].name, aggregations[how], verl_corrections[c].name);
    expect_case(name, &b, s);
}

/* gspo's gradient of a token has that token's weight in verl, and the mean of all in TRL and here; geo_mean's weight is one a sequence. */
static void every_loss_aggregation_and_rejection_is_verl_s(void **state)
{
    (void)state;
    for (size_t l = 0; l < TDM_COUNT(verl_losses); l++)
        for (int how = TDM_AGGREGATION_TOKEN_MEAN; how <= TDM_AGGREGATION_TOKEN_SUM; how++)
            for (size_t c = 0; c < TDM_COUNT(verl_corrections); c++) {
                const bool one = verl_losses[l].sequence || verl_losses[l].kind == TDM_LOSS_GMPO;
                const bool by_token = verl_corrections[c].correction != TDM_CORRECTION_NONE && verl_corrections[c].level == TDM_LEVEL_TOKEN;
                if ((one && by_token) || (!verl_losses[l].any && how != TDM_AGGREGATION_SEQUENCE_MEAN)) continue;
                verl_case(l, (tdm_aggregation)how, c);
            }
}

static void the_advantages_of_tokens_are_reinforce_pp_s(void **state)
{
    (void)state;
    static const int64_t start[] = {0, B};
    batch b;
    float value[B][T], *rows[B];
    const tdm_loss_config k1 = {.kl_kind = TDM_KL_K1};
    const float *want = test_golden(goldens, "advantages_by_token").data;
    open_batch(&b);
    for (int i = 0; i < B; i++) {
        const tdm_loss_tokens t = {.count = b.length[i], .lp = b.old[i], .ref = b.ref[i]};
        tdm_loss_kl(&k1, &t, rows[i] = value[i]);
    }
    tdm_advantages_by_token(false, b.advantage, kl, b.length, start, 1, rows);
    for (int i = 0; i < B; i++)
        for (int t = 0; t < b.length[i]; t++)
            if (!(fabs((double)value[i][t] - (double)want[i * T + t]) < 1e-5)) fail_msg("advantage %d of %d is %g, verl %g", t, i, (double)value[i][t], (double)want[i * T + t]);
}

static int open_goldens(void **state)
{
    (void)state;
    goldens = test_goldens_open("tests/golden/data/losses.bin");
    return 0;
}

static int close_goldens(void **state)
{
    (void)state;
    test_goldens_close(goldens);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_loss_and_correction_is_trl_s),
        cmocka_unit_test(every_loss_aggregation_and_rejection_is_verl_s),
        cmocka_unit_test(the_advantages_of_tokens_are_reinforce_pp_s),
    };
    return cmocka_run_group_tests(tests, open_goldens, close_goldens);
}
