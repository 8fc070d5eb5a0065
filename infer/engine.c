/* The scheduler: who runs, who waits, who gives pages back. */
#include "infer/engine_internal.h"

#include <stdlib.h>
#include <string.h>

static int64_t pages_of(const tdm_backend *be, int64_t positions) { return tdm_ceil_div(positions, be->kv_page_tokens); }

int64_t tdm_engine_min_pages(const tdm_backend *be, const tdm_engine_spec *spec)
{
    return pages_of(be, spec->context) + 1 + tdm_engine_records(be); /* one sequence, the shared last page of its prompt, and padding's */
}

int64_t tdm_engine_max_pages(const tdm_backend *be, const tdm_engine_spec *spec)
{
    return tdm_max_i64(tdm_engine_min_pages(be, spec), (pages_of(be, spec->context) + 1) * spec->sequences + spec->sequences + 1);
}

#define TAKE(field, count)                                                                                                           \
    do {                                                                                                                             \
        if (base) e->field = (void *)(base + at);                                                                                    \
        at += tdm_align_up((count) * sizeof *e->field, 64);                                                                          \
    } while (0)

/* The scheduler's own arrays in one allocation; with base NULL only counts. */
static size_t lay_host(tdm_engine *e, char *base)
{
    const tdm_engine_spec *s = &e->spec;
    const size_t seqs = (size_t)s->sequences, per = (size_t)e->pages_per_sequence;
    size_t at = 0;
    TAKE(slot, seqs);
    TAKE(ready, seqs);
    TAKE(sample, (size_t)s->samples);
    TAKE(hold, (size_t)s->requests);
    const size_t parked = s->turns ? seqs : 0, holds = seqs + parked;
    TAKE(parked, parked);
    for (size_t i = 0; i < holds + (size_t)s->requests; i++) {
        int32_t *page = (int32_t *)(void *)(base + at);
        if (base && i < seqs) e->slot[i].page = page;
        else if (base && i < holds) e->parked[i - seqs].page = page;
        else if (base) e->hold[i - holds].page = page;
        at += tdm_align_up(per * sizeof(int32_t), 64);
    }
    return at;
}

size_t tdm_engine_mirror_lay(tdm_engine *e, const tdm_model_config *c, char *base)
{
    const tdm_engine_spec *s = &e->spec;
    const size_t seqs = (size_t)s->sequences, tokens = (size_t)s->batch_tokens, rows = (size_t)s->head_rows;
    size_t at = 0;
    TAKE(ids, tokens);
    TAKE(position, tokens);
    TAKE(q_start, seqs + 1);
    TAKE(kv_len, seqs);
    TAKE(pages, seqs * (size_t)e->pages_per_sequence);
    TAKE(head_row, tokens);
    TAKE(target, rows);
    TAKE(sampling, seqs);
    TAKE(draw, seqs);
    TAKE(history_at, seqs);
    TAKE(history_len, seqs);
    e->pushed_bytes = at;
    TAKE(history, rows * (size_t)s->context);
    TAKE(token, seqs);
    TAKE(logprob, seqs > rows ? seqs : rows);
    TAKE(support, rows * (size_t)tdm_ceil_div(c->vocab, 32));
    TAKE(routes, s->routes ? (size_t)(c->layers * s->batch_tokens * c->experts_used) : 0);
    return at;
}
#undef TAKE

static size_t mirror_bytes(const tdm_backend *be, const tdm_model_config *c, const tdm_engine_spec *spec)
{
    tdm_engine e = {.spec = *spec, .pages_per_sequence = pages_of(be, spec->context)};
    return tdm_engine_mirror_lay(&e, c, NULL);
}

size_t tdm_engine_buffer_bytes(const tdm_backend *be, const tdm_model_config *c, const tdm_engine_spec *spec)
{
    tdm_engine_buffers b;
    return mirror_bytes(be, c, spec) + tdm_engine_buffers_lay(&b, c, spec, NULL);
}

size_t tdm_engine_host_bytes(const tdm_backend *be, const tdm_model_config *c, const tdm_engine_spec *spec)
{
    tdm_engine e = {.spec = *spec, .pages_per_sequence = pages_of(be, spec->context)};
    return lay_host(&e, NULL) + (size_t)spec->kv_pages * 2 * sizeof(int32_t) + (be->device ? mirror_bytes(be, c, spec) : 0);
}

tdm_status tdm_engine_open(tdm_engine **out, const tdm_model *m, const tdm_engine_spec *spec, void *kv, void *buffers, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_ASSERT(spec->batch_tokens >= spec->sequences && spec->kv_pages >= tdm_engine_min_pages(m->be, spec));
    tdm_engine *e = calloc(1, sizeof *e);
    *out = e;
    if (!e) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the rollout engine");
    e->m = m;
    e->spec = *spec;
    e->pages_per_sequence = pages_of(m->be, spec->context);
    e->host = calloc(1, lay_host(e, NULL));
    if (!e->host) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the rollout engine");
        goto done;
    }
    lay_host(e, e->host);
    const size_t mirrored = mirror_bytes(m->be, m->c, spec);
    TDM_TRY(st, tdm_mirror_open(&e->mirror, m->be, buffers, mirrored, err), done);
    tdm_engine_mirror_lay(e, m->c, e->mirror.host);
    tdm_engine_buffers_lay(&e->buf, m->c, spec, (char *)buffers + mirrored);
    TDM_TRY(st, tdm_kv_cache_open(&e->kv, m, spec->kv_pages, kv, err), done);
done:
    if (st != TDM_OK) {
        tdm_engine_close(e);
        *out = NULL;
    }
    return st;
}

void tdm_engine_close(tdm_engine *e)
{
    if (!e) return;
    if (e->m) tdm_engine_forget_recorded(e);
    tdm_kv_cache_close(&e->kv);
    tdm_mirror_close(&e->mirror);
    free(e->host);
    free(e);
}

const tdm_engine_stats *tdm_engine_run_stats(const tdm_engine *e) { return &e->stats; }

tdm_sequence *tdm_engine_sequence(const tdm_engine *e, int64_t sample)
{
    const tdm_sample_state *s = &e->sample[sample];
    return &e->request[s->request].sequence[s->index];
}

static const int32_t *run_tokens(const tdm_engine *e, const tdm_slot *slot) { return tdm_engine_sequence(e, slot->sample)->tokens; }

static void drop_hold(tdm_engine *e, tdm_prompt_hold *h)
{
    for (int64_t i = 0; i < h->pages; i++) tdm_kv_release(&e->kv, h->page[i]);
    h->pages = 0;
}

/* Gives back the pages of a held prompt other than `keep`'s; true when something was dropped. */
static bool drop_some_hold(tdm_engine *e, int64_t requests, int64_t keep)
{
    for (int64_t r = requests - 1; r >= 0; r--)
        if (r != keep && e->hold[r].pages > 0) {
            drop_hold(e, &e->hold[r]);
            return true;
        }
    if (keep >= 0 && e->hold[keep].pages > 0) {
        drop_hold(e, &e->hold[keep]);
        return true;
    }
    return false;
}

void tdm_engine_wait(tdm_engine *e, int64_t sample)
{
    e->sample[sample].next = e->waiting;
    e->waiting = sample;
}

static void preempt_last(tdm_engine *e)
{
    tdm_slot *slot = &e->slot[--e->running];
    tdm_prompt_hold *h = &e->hold[e->sample[slot->sample].request];
    if (h->filler == slot->sample) h->filler = -1;
    tdm_slot_release(e, slot);
    tdm_engine_wait(e, slot->sample);
    e->stats.preemptions++;
}

/* Pages for slot b's next `take` tokens. Later slots are preempted to find them; false: slot b itself was. */
static bool take_pages(tdm_engine *e, int64_t b, int64_t requests)
{
    tdm_slot *slot = &e->slot[b];
    const int64_t need = pages_of(e->m->be, slot->cached + slot->take);
    while (slot->pages < need) {
        const int32_t page = tdm_kv_take(&e->kv);
        if (page >= 0) {
            slot->page[slot->pages++] = page;
            continue;
        }
        if (drop_some_hold(e, requests, e->sample[slot->sample].request) || tdm_engine_evict(e)) continue;
        const bool self = e->running - 1 == b;
        TDM_ASSERT(!self || e->running > 1); /* one sequence always fits: tdm_engine_min_pages */
        preempt_last(e);
        if (self) return false;
    }
    return true;
}

/* Starts from the group's prompt pages: full ones are shared, the one that holds the prompt's last position is copied. The last prompt
 * token is computed again by this sample, for its logits. */
static tdm_status fork_pages(tdm_engine *e, tdm_slot *slot, const tdm_prompt_hold *h, int64_t prompt, tdm_error *err)
{
    const int64_t size = e->m->be->kv_page_tokens, full = (prompt - 1) / size;
    for (int64_t i = 0; i < full; i++) {
        slot->page[i] = h->page[i];
        tdm_kv_share(&e->kv, h->page[i]);
    }
    slot->pages = full;
    slot->cached = full * size;
    if ((prompt - 1) % size == 0) return TDM_OK;
    const int32_t page = tdm_kv_take(&e->kv);
    if (page < 0) return TDM_OK; /* the few positions of the last page are computed again instead */
    slot->page[slot->pages++] = page;
    slot->cached = prompt - 1;
    return tdm_kv_copy_page(&e->kv, page, h->page[full], err);
}

static tdm_status fork_prompt(tdm_engine *e, tdm_slot *slot, const tdm_prompt_hold *h, int64_t prompt, tdm_error *err)
{
    const tdm_status st = fork_pages(e, slot, h, prompt, err);
    if (st == TDM_OK) tdm_engine_copy_routes(e, slot->sample, h->filled, slot->cached);
    return st;
}

static tdm_status admit(tdm_engine *e, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_engine_unpark(e);
    for (int64_t *link = &e->waiting; *link >= 0 && e->running < e->spec.sequences;) {
        const int64_t sample = *link;
        tdm_sample_state *s = &e->sample[sample];
        tdm_prompt_hold *h = &e->hold[s->request];
        const tdm_sequence *seq = tdm_engine_sequence(e, sample);
        if (h->pages == 0 && h->filler >= 0) { /* a sibling is computing the prompt: wait for it */
            link = &s->next;
            continue;
        }
        const int64_t shared = h->pages > 0 ? (seq->prompt - 1) / e->m->be->kv_page_tokens : 0;
        const int64_t need = pages_of(e->m->be, seq->count + 1) - shared;
        /* room for those who run to grow by a page each; what those who wait hold is worth more than an early start */
        if (e->running + e->parked_count > 0 && e->kv.free_count < need + e->running) break;
        *link = s->next;
        tdm_slot *slot = &e->slot[e->running++];
        slot->sample = sample;
        slot->cached = slot->pages = 0;
        if (h->pages > 0) TDM_TRY(st, fork_prompt(e, slot, h, seq->prompt, err), done);
        else if (e->request[s->request].samples > 1) h->filler = sample;
    }
done:
    return st;
}

static bool truncates(const tdm_sampling *s) { return s->temperature > 0.0f && (s->top_k > 0 || s->top_p < 1.0f || s->min_p > 0.0f); }

/* Which slots' prefixes this step completes, and how their next tokens are drawn. */
static void describe_samples(tdm_engine *e)
{
    e->ready_count = 0;
    e->careful = false;
    for (int64_t b = 0; b < e->running; b++) {
        const tdm_slot *slot = &e->slot[b];
        const tdm_sample_state *s = &e->sample[slot->sample];
        const tdm_request *r = &e->request[s->request];
        const tdm_sequence *seq = tdm_engine_sequence(e, slot->sample);
        if (slot->cached + slot->take != seq->count) continue;
        const int64_t i = e->ready_count++;
        e->ready[i] = (int32_t)b;
        e->head_row[i] = e->q_start[b + 1] - 1;
        e->sampling[i] = r->sampling;
        e->draw[i] = (tdm_draw){r->seed, r->step, r->prompt_index, (uint32_t)s->index, (uint32_t)tdm_sequence_completion(seq)};
        e->history_at[i] = (int32_t)(i % e->spec.head_rows * e->spec.context);
        e->history_len[i] = (int32_t)seq->count;
        e->careful = e->careful || truncates(&r->sampling) || r->sampling.repetition_penalty != 1.0f;
    }
}

static void build_step(tdm_engine *e, int64_t requests)
{
    int64_t left = e->spec.batch_tokens;
    for (int64_t b = 0; b < e->running; b++) {
        tdm_slot *slot = &e->slot[b];
        slot->take = tdm_min_i64(tdm_engine_sequence(e, slot->sample)->count - slot->cached, left - (e->running - 1 - b));
        if (!take_pages(e, b, requests)) break;
        left -= slot->take;
    }
    tdm_engine_batch(e, run_tokens);
    describe_samples(e);
}

/* Keeps the prompt's pages for the siblings once they are computed. */
static void hold_prompt(tdm_engine *e, const tdm_slot *slot)
{
    const tdm_sample_state *s = &e->sample[slot->sample];
    tdm_prompt_hold *h = &e->hold[s->request];
    const int64_t prompt = tdm_engine_sequence(e, slot->sample)->prompt;
    if (h->filler != slot->sample || slot->cached < prompt) return;
    h->filler = -1;
    h->filled = slot->sample;
    if (h->remaining <= 1) return;
    h->pages = pages_of(e->m->be, prompt);
    for (int64_t i = 0; i < h->pages; i++) {
        h->page[i] = slot->page[i];
        tdm_kv_share(&e->kv, slot->page[i]);
    }
}

/* Histories of ready rows [first, first + rows), where one of them has a penalty. */
static tdm_status push_history(const tdm_engine *e, int64_t first, int64_t rows, bool *penalty, tdm_error *err)
{
    tdm_status st = TDM_OK;
    *penalty = false;
    for (int64_t i = first; i < first + rows; i++) {
        if (e->sampling[i].repetition_penalty == 1.0f) continue;
        const tdm_sequence *seq = tdm_engine_sequence(e, e->slot[e->ready[i]].sample);
        int32_t *at = e->history + e->history_at[i];
        memcpy(at, seq->tokens, (size_t)seq->count * sizeof *at);
        TDM_TRY(st, tdm_mirror_push(&e->mirror, e->m->s, at, (size_t)seq->count * sizeof *at, err), done);
        *penalty = true;
    }
done:
    return st;
}

static tdm_status pull_support(tdm_engine *e, int64_t first, int64_t rows, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const int64_t words = tdm_ceil_div(e->m->c->vocab, 32);
    TDM_TRY(st, tdm_mirror_pull(&e->mirror, e->m->s, e->support, (size_t)(rows * words) * sizeof *e->support, err), done);
    TDM_TRY(st, e->m->be->stream_sync(e->m->s, err), done);
    for (int64_t i = 0; i < rows; i++) {
        tdm_sequence *seq = tdm_engine_sequence(e, e->slot[e->ready[first + i]].sample);
        if (seq->support && truncates(&e->sampling[first + i]))
            memcpy(seq->support + tdm_sequence_completion(seq) * words, e->support + i * words, (size_t)words * sizeof *e->support);
    }
done:
    return st;
}

tdm_status tdm_engine_sample(tdm_engine *e, int64_t count, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int64_t first = 0; first < count; first += e->spec.head_rows) {
        const int64_t rows = tdm_min_i64(e->spec.head_rows, count - first);
        bool penalty = false;
        if (e->careful) TDM_TRY(st, push_history(e, first, rows, &penalty, err), done);
        TDM_TRY(st, tdm_engine_logits(e, tdm_engine_twin(e, e->head_row + first), rows, err), done);
        const tdm_sample a = {.logits = tdm_view_rows(e->buf.logits, 0, rows),
                              .token = tdm_engine_twin(e, e->token + first),
                              .logprob = tdm_engine_twin(e, e->logprob + first),
                              .support = e->careful ? tdm_engine_twin(e, e->support) : NULL,
                              .sampling = tdm_engine_twin(e, e->sampling + first),
                              .draw = tdm_engine_twin(e, e->draw + first),
                              .history = penalty ? tdm_engine_twin(e, e->history) : NULL,
                              .history_at = tdm_engine_twin(e, e->history_at + first),
                              .history_len = tdm_engine_twin(e, e->history_len + first)};
        TDM_TRY(st, e->m->be->sample(e->m->s, &a, err), done);
        if (e->careful) TDM_TRY(st, pull_support(e, first, rows, err), done); /* the next rows write over it */
    }
done:
    return st;
}

/* The sampled tokens join their sequences. */
static tdm_status take_samples(tdm_engine *e, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const size_t n = (size_t)e->ready_count;
    TDM_TRY(st, tdm_mirror_pull(&e->mirror, e->m->s, e->token, n * sizeof *e->token, err), done);
    TDM_TRY(st, tdm_mirror_pull(&e->mirror, e->m->s, e->logprob, n * sizeof *e->logprob, err), done);
    TDM_TRY(st, e->m->be->stream_sync(e->m->s, err), done);
    for (int64_t i = 0; i < e->ready_count; i++) {
        tdm_sequence *seq = tdm_engine_sequence(e, e->slot[e->ready[i]].sample);
        seq->logprob[tdm_sequence_completion(seq)] = e->logprob[i];
        seq->tokens[seq->count++] = e->token[i];
        e->generated++;
    }
done:
    return st;
}

static void check_finish(const tdm_request *r, tdm_sequence *seq)
{
    const int32_t last = seq->tokens[seq->count - 1];
    for (int i = 0; i < r->stop_count; i++)
        if (r->stop_ids[i] == last) seq->finish = TDM_FINISH_STOP;
    if (seq->finish == TDM_FINISH_NONE && r->stop && r->stop(r->stop_ctx, seq)) seq->finish = TDM_FINISH_STOP;
    if (seq->finish == TDM_FINISH_NONE && seq->count == seq->room) seq->finish = TDM_FINISH_LENGTH;
}

void tdm_engine_done(tdm_engine *e, int64_t sample)
{
    tdm_prompt_hold *h = &e->hold[e->sample[sample].request];
    e->sample[sample].done = true;
    e->done++;
    if (--h->remaining == 0) drop_hold(e, h);
}

/* Takes those whose sequence has ended out of the running ones, whose order stays; the turn of one that has turns is told. */
static tdm_status retire(tdm_engine *e, tdm_error *err)
{
    int64_t kept = 0;
    tdm_status st = TDM_OK;
    for (int64_t b = 0; b < e->running; b++) {
        const int64_t sample = e->slot[b].sample;
        tdm_sample_state *s = &e->sample[sample];
        const tdm_turns *turns = e->request[s->request].turns;
        if (tdm_engine_sequence(e, sample)->finish == TDM_FINISH_NONE) {
            const tdm_slot swap = e->slot[kept];
            e->slot[kept] = e->slot[b];
            if (kept != b) e->slot[b] = swap;
            kept++;
            continue;
        }
        if (!turns) {
            tdm_slot_release(e, &e->slot[b]);
            tdm_engine_done(e, sample);
            continue;
        }
        tdm_engine_park(e, b);
        if (st == TDM_OK) st = turns->ended(turns->ctx, s->request, s->index, err);
    }
    e->running = kept;
    return st;
}

static tdm_status finish_step(tdm_engine *e, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, tdm_engine_take_routes(e, err), done);
    for (int64_t b = 0; b < e->running; b++) {
        tdm_slot *slot = &e->slot[b];
        slot->cached += slot->take;
        if (slot->take > 1) e->stats.tokens_prefill += slot->take;
        else e->stats.tokens_decode++;
        hold_prompt(e, slot);
    }
    TDM_TRY(st, take_samples(e, err), done);
    for (int64_t i = 0; i < e->ready_count; i++) {
        const int64_t sample = e->slot[e->ready[i]].sample;
        check_finish(&e->request[e->sample[sample].request], tdm_engine_sequence(e, sample));
    }
    const int64_t used = e->kv.pages - e->kv.free_count;
    if (used > e->stats.pages_peak) e->stats.pages_peak = used;
    st = retire(e, err);
done:
    return st;
}

static void begin_run(tdm_engine *e, tdm_request *requests, int64_t count)
{
    e->request = requests;
    e->running = e->parked_count = e->done = e->generated = 0;
    e->stats = (tdm_engine_stats){0};
    tdm_kv_cache_reset(&e->kv);
    e->pad_page = tdm_engine_records(e->m->be) ? tdm_kv_take(&e->kv) : -1;
    int64_t total = 0;
    for (int64_t r = 0; r < count; r++) {
        e->hold[r].pages = 0;
        e->hold[r].filler = -1;
        e->hold[r].remaining = requests[r].samples;
        e->hold[r].first = total;
        TDM_ASSERT(requests[r].turns == requests[0].turns && (!requests[r].turns || e->spec.turns));
        for (int64_t i = 0; i < requests[r].samples; i++, total++) {
            TDM_ASSERT(total < e->spec.samples);
            tdm_sequence *seq = &requests[r].sequence[i];
            TDM_ASSERT(seq->prompt > 0 && seq->room > seq->prompt && seq->room <= e->spec.context);
            seq->count = seq->turn = seq->prompt;
            seq->finish = TDM_FINISH_NONE;
            e->sample[total] = (tdm_sample_state){.request = r, .index = i, .next = total + 1};
        }
    }
    e->total = total;
    e->waiting = total > 0 ? 0 : -1;
    if (total > 0) e->sample[total - 1].next = -1;
}

tdm_status tdm_engine_run(tdm_engine *e, const tdm_adapter *adapter, tdm_request *requests, int64_t count, tdm_engine_tick_fn *tick,
                          void *tick_ctx, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_ASSERT(count <= e->spec.requests);
    begin_run(e, requests, count);
    const tdm_turns *turns = count > 0 ? requests[0].turns : NULL;
    while (e->done < e->total) {
        TDM_TRY(st, admit(e, err), done);
        if (turns) TDM_TRY(st, turns->answer(turns->ctx, e, e->running == 0, err), done);
        if (e->running > 0) {
            build_step(e, count);
            TDM_TRY(st, tdm_engine_compute(e, adapter, err), done);
            TDM_TRY(st, finish_step(e, err), done);
        }
        if (tick && !tick(tick_ctx, e->done, e->generated)) {
            st = TDM_STOPPED;
            goto done;
        }
    }
done:
    e->request = NULL;
    return st;
}
