/* train.importance: bounds of the correction, and what is rejected. */
#include "runtime/recipe/schema.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REFUSE(key, hint, ...) TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(r, (key), (char[TDM_RECIPE_WHERE]){0}), (hint), __VA_ARGS__)

/* The correction's weights are kept within [floor, cap], around the 1 of a sampler that agrees with the trainer. */
static tdm_status check_bounds(const tdm_recipe *r, tdm_error *err)
{
    const tdm_recipe_importance *i = &r->train.importance;
    if (i->correction == TDM_CORRECTION_NONE && i->level == TDM_LEVEL_GEOMETRIC)
        return REFUSE("train.importance.level", "use importance.correction: mask or truncate, or another level",
                      "train.importance.level: geometric is of the correction, and importance.correction is none");
    if (i->correction == TDM_CORRECTION_NONE && i->floor > 0.0)
        return REFUSE("train.importance.floor", "use importance.correction: mask or truncate, or remove the floor",
                      "train.importance.floor bounds the correction, and importance.correction is none");
    if (i->floor >= i->cap)
        return REFUSE("train.importance.floor", "use a floor below the cap", "train.importance.floor is %g, importance.cap is %g", i->floor, i->cap);
    if (i->correction == TDM_CORRECTION_MASK && i->cap < 1.0)
        return REFUSE("train.importance.cap", "use a cap of 1 or more, or importance.correction: truncate",
                      "train.importance.cap is %g: mask would drop what sampler and trainer agree on", i->cap);
    return TDM_OK;
}

static const char *const reject_hint = "use token_k1, k2 or k3, seq_sum_k1, k2 or k3, seq_mean_k1, k2 or k3, seq_max_k2 or k3";

static tdm_status read_kind(const tdm_recipe *r, const char *name, tdm_reject_kind *kind, tdm_error *err)
{
    for (int k = 0; k < TDM_REJECT_COUNT; k++)
        if (strcmp(tdm_reject_names[k], name) == 0) return *kind = (tdm_reject_kind)k, TDM_OK;
    return REFUSE("train.importance.reject", reject_hint, "train.importance.reject: there is no rule \"%.64s\"", name);
}

/* "0.999_1.001"; of a ratio alone "1.001" too, whose other bound is its reciprocal. */
static bool read_threshold(const char *text, tdm_reject_rule *rule)
{
    char low[40];
    const char *bar = strchr(text, '_');
    const size_t len = bar ? (size_t)(bar - text) : 0;
    if (bar && (!tdm_reject_is_ratio(rule->kind) || len >= sizeof low)) return false;
    snprintf(low, sizeof low, "%.*s", (int)len, text);
    if (!tdm_number_read(bar ? bar + 1 : text, &rule->high) || (bar && !tdm_number_read(low, &rule->low))) return false;
    if (!(rule->high > 0.0 && isfinite(rule->high))) return false;
    if (!bar) rule->low = tdm_reject_is_ratio(rule->kind) ? 1.0 / rule->high : 0.0;
    return !tdm_reject_is_ratio(rule->kind) || (rule->low > 0.0 && rule->low <= 1.0 && rule->high >= 1.0);
}

static tdm_status settle_rejects(tdm_recipe *r, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_recipe_importance *i = &r->train.importance;
    const int64_t thresholds = i->reject_threshold.count;
    if (i->reject.count == 0 && thresholds)
        return REFUSE("train.importance.reject_threshold", "name rules in train.importance.reject, or remove it", "train.importance.reject_threshold is of rules, and there are none");
    if (i->reject.count && thresholds != 1 && thresholds != i->reject.count)
        return REFUSE("train.importance.reject_threshold", "give one for all rules, or one for each", "train.importance.reject has %lld rules, reject_threshold %lld values",
                      (long long)i->reject.count, (long long)thresholds);
    for (int64_t k = 0; k < i->reject.count; k++) {
        const char *text = i->reject_threshold.items[thresholds == 1 ? 0 : k];
        tdm_reject_rule rule = {0};
        TDM_TRY(st, read_kind(r, i->reject.items[k], &rule.kind, err), done);
        for (int d = 0; d < i->rejects.count; d++)
            if (i->rejects.rule[d].kind == rule.kind) return REFUSE("train.importance.reject", "write each once", "train.importance.reject has %s twice", i->reject.items[k]);
        if (!read_threshold(text, &rule))
            return REFUSE("train.importance.reject_threshold", tdm_reject_is_ratio(rule.kind) ? "write two ratios around 1, as in \"0.999_1.001\", or the upper one" : "write one bound above 0, as in \"0.01\"",
                          "train.importance.reject_threshold: \"%.64s\" does not bound %s", text, i->reject.items[k]);
        i->rejects.rule[i->rejects.count++] = rule;
    }
    i->rejects.veto = i->veto;
done:
    return st;
}

static tdm_status check_normalize(const tdm_recipe *r, tdm_error *err)
{
    const tdm_recipe_importance *i = &r->train.importance;
    if (i->batch_normalize && i->correction == TDM_CORRECTION_NONE)
        return REFUSE("train.importance.batch_normalize", "use importance.correction: truncate or mask, or remove it",
                      "train.importance.batch_normalize divides the correction's weights, and importance.correction is none");
    if (i->batch_normalize && r->train.loss == TDM_LOSS_VESPO)
        return REFUSE("train.importance.batch_normalize", "remove it, or use another loss", "train.importance.batch_normalize divides weights, and train.loss: vespo has them in its own");
    return TDM_OK;
}

tdm_status tdm_recipe_settle_importance(tdm_recipe *r, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, check_bounds(r, err), done);
    TDM_TRY(st, settle_rejects(r, err), done);
    TDM_TRY(st, check_normalize(r, err), done);
done:
    return st;
}
