/* Which tokens are in the loss, and by what their weights are divided: where sampler and trainer differ too far they leave (train/reject.h). */
#include "runtime/run/job_internal.h"

#include <string.h>

static const tdm_recipe_importance *importance_of(const tdm_job *j) { return &j->r->train.importance; }
static bool rejects(const tdm_job *j) { return importance_of(j)->rejects.count > 0 || importance_of(j)->rejects.veto > 0.0; }

bool tdm_job_compares(const tdm_job *j) { return j->item[0].sampler && (rejects(j) || importance_of(j)->batch_normalize); }

int64_t tdm_job_tokens_in_loss(const tdm_train_item *it)
{
    const int64_t n = tdm_sequence_completion(it->seq);
    int64_t kept = 0;
    if (!it->mask) return n;
    for (int64_t i = 0; i < n; i++) kept += it->mask[i] == 1;
    return kept;
}

/* The mean of the step's weights, as they are before anything is rejected. A mean of 0 divides nothing. */
static double normalizer(const tdm_job *j, float *const *old)
{
    double sum = 0.0;
    int64_t count = 0;
    for (int64_t i = 0; i < j->sequence_count; i++) {
        const tdm_train_item *it = &j->item[i];
        const tdm_loss_tokens t = {.count = tdm_sequence_completion(it->seq), .lp = old[i], .sampler = it->sampler, .mask = it->mask};
        tdm_loss_add_weights(&j->loss, &t, &sum, &count);
    }
    return count && sum / (double)count > 1e-8 ? sum / (double)count : 1.0;
}

static void reject(tdm_job *j, int64_t i, const float *old)
{
    tdm_train_item *it = &j->item[i];
    uint8_t *keep = j->sequences.keep[i];
    const int64_t n = tdm_sequence_completion(it->seq);
    if (it->mask) memcpy(keep, it->mask, (size_t)n);
    else memset(keep, 1, (size_t)n);
    tdm_reject(&importance_of(j)->rejects, old, it->sampler, n, keep, &j->fig.rejected);
    it->mask = keep;
}

void tdm_job_correct(tdm_job *j, float *const *old)
{
    if (importance_of(j)->batch_normalize) j->fig.normalizer = j->loss.normalizer = normalizer(j, old);
    for (int64_t i = 0; rejects(j) && i < j->sequence_count; i++) reject(j, i, old[i]);
}
