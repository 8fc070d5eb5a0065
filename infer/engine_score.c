/* Scoring given tokens through the KV cache: a prefill of the first part, then decodes, as a rollout would have computed them. */
#include "infer/engine_internal.h"

#include <string.h>

static tdm_status log_rows(tdm_engine *e, float *const *logprob, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_sampling plain = {.temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f};
    for (int64_t b = 0; b < e->running; b++) {
        tdm_slot *slot = &e->slot[b];
        const tdm_sequence *seq = &e->scored[slot->sample];
        for (int64_t first = 0; first < slot->take; first += e->spec.head_rows) {
            int64_t rows = tdm_min_i64(e->spec.head_rows, slot->take - first);
            const int64_t at = slot->cached + first; /* these rows predict tokens at + 1 .. at + rows */
            if (at + rows >= seq->count) rows = seq->count - 1 - at;
            if (rows <= 0) break;
            for (int64_t i = 0; i < rows; i++) {
                e->head_row[i] = (int32_t)(e->q_start[b] + first + i);
                e->target[i] = seq->tokens[at + 1 + i];
            }
            TDM_TRY(st, tdm_engine_push(e, err), done);
            TDM_TRY(st, tdm_engine_logits(e, tdm_engine_twin(e, e->head_row), rows, err), done);
            const tdm_logprob lp = {.logits = tdm_view_rows(e->buf.logits, 0, rows), .target = tdm_engine_twin(e, e->target),
                                    .logprob = tdm_engine_twin(e, e->logprob), .sampling = &plain};
            TDM_TRY(st, e->m->be->logprob(e->m->s, &lp, err), done);
            TDM_TRY(st, tdm_mirror_pull(&e->mirror, e->m->s, e->logprob, (size_t)rows * sizeof *e->logprob, err), done);
            TDM_TRY(st, e->m->be->stream_sync(e->m->s, err), done);
            memcpy(logprob[slot->sample] + at, e->logprob, (size_t)rows * sizeof *e->logprob);
        }
    }
done:
    return st;
}

static const int32_t *score_tokens(const tdm_engine *e, const tdm_slot *slot)
{
    return e->scored[slot->sample].tokens;
}

/* Fills slots with sequences while their pages fit. Pages for the whole sequence are taken at once: scoring never preempts. */
static void admit(tdm_engine *e, const tdm_sequence *sequences, int64_t count, int64_t *next)
{
    const int64_t page = e->m->be->kv_page_tokens;
    while (*next < count && e->running < e->spec.sequences) {
        const int64_t need = tdm_ceil_div(sequences[*next].count - 1, page);
        if (need > e->kv.free_count) break;
        tdm_slot *slot = &e->slot[e->running++];
        slot->sample = (*next)++;
        slot->cached = 0;
        for (slot->pages = 0; slot->pages < need; slot->pages++) slot->page[slot->pages] = tdm_kv_take(&e->kv);
    }
}

static void retire(tdm_engine *e, const tdm_sequence *sequences)
{
    int64_t kept = 0;
    for (int64_t b = 0; b < e->running; b++) {
        e->slot[b].cached += e->slot[b].take;
        if (e->slot[b].cached >= sequences[e->slot[b].sample].count - 1) {
            tdm_slot_release(e, &e->slot[b]);
            continue;
        }
        const tdm_slot swap = e->slot[kept];
        e->slot[kept++] = e->slot[b];
        if (kept - 1 != b) e->slot[b] = swap;
    }
    e->running = kept;
}

tdm_status tdm_engine_score(tdm_engine *e, const tdm_adapter *adapter, const tdm_sequence *sequences, int64_t count, bool prefill_only,
                            float *const *logprob, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int64_t i = 0; i < count; i++) TDM_ASSERT(sequences[i].count >= 2 && sequences[i].count <= e->spec.context);
    tdm_kv_cache_reset(&e->kv);
    e->running = 0;
    e->scored = sequences;
    for (int64_t next = 0; next < count || e->running > 0;) {
        admit(e, sequences, count, &next);
        TDM_ASSERT(e->running > 0);
        int64_t left = e->spec.batch_tokens;
        for (int64_t b = 0; b < e->running; b++) {
            tdm_slot *slot = &e->slot[b];
            const int64_t total = sequences[slot->sample].count - 1; /* nothing is predicted from the last token */
            const int64_t prefill = prefill_only ? total : (total + 1) / 2;
            const int64_t ahead = slot->cached < prefill ? prefill - slot->cached : 1;
            slot->take = tdm_min_i64(ahead, left - (e->running - 1 - b));
            left -= slot->take;
        }
        tdm_engine_batch(e, score_tokens);
        TDM_TRY(st, tdm_engine_push(e, err), done);
        TDM_TRY(st, tdm_engine_forward(e, adapter, err), done);
        TDM_TRY(st, log_rows(e, logprob, err), done);
        retire(e, sequences);
    }
done:
    e->scored = NULL;
    return st;
}
