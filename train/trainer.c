/* Micro-batches: packing sequences, running the forward over them, handing them to head and backward. */
#include "train/trainer_internal.h"

/* Tokens of a sequence that a pass runs over: from the last nothing is predicted. */
static int64_t rows_of(const tdm_train_pass *pass, const tdm_sequence *s) { return pass->values == TDM_VALUES_SEQUENCE ? s->count : s->count - 1; }

/* Items [first, returned) fit one micro-batch. */
static int64_t micro_end(const tdm_trainer *t, const tdm_train_pass *pass, const tdm_train_item *items, int64_t first, int64_t count)
{
    int64_t tokens = 0, i = first;
    for (; i < count && i - first < t->spec.sequences; i++) {
        tokens += rows_of(pass, items[i].seq);
        if (tokens > t->spec.micro_tokens) break;
    }
    TDM_ASSERT(i > first);
    return i;
}

static bool wanted(const tdm_train_item *it, int64_t index) { return !it->mask || it->mask[index] == 1; }

/* The tokens of item i, from `row` on, that are wanted. */
static void want(tdm_trainer *t, const tdm_train_pass *pass, const tdm_train_item *it, int64_t i, int64_t row)
{
    const tdm_sequence *s = it->seq;
    if (pass->values == TDM_VALUES_SEQUENCE) {
        t->token[t->tokens_head++] = (tdm_head_token){.row = (int32_t)(row + s->count - 1), .item = i};
        return;
    }
    for (int64_t j = s->prompt; j < s->count; j++)
        if (wanted(it, j - s->prompt)) t->token[t->tokens_head++] = (tdm_head_token){(int32_t)(row + j - 1), s->tokens[j], i, j - s->prompt};
}

static void pack(tdm_trainer *t, const tdm_train_pass *pass, const tdm_train_item *items, int64_t first, int64_t end)
{
    const int64_t page = t->m->be->kv_page_tokens;
    int64_t row = 0, next_page = 0, longest = 0;
    t->tokens_head = 0;
    for (int64_t i = first; i < end; i++) {
        const tdm_train_item *it = &items[i];
        const tdm_sequence *s = it->seq;
        const int64_t b = i - first, n = rows_of(pass, s);
        TDM_ASSERT(n >= 1 && s->prompt >= 1 && s->count <= t->spec.context);
        t->q_start[b] = (int32_t)row;
        t->kv_len[b] = (int32_t)n;
        longest = tdm_max_i64(longest, n);
        for (int64_t p = 0; p < tdm_ceil_div(n, page); p++) t->pages[b * t->page_stride + p] = (int32_t)next_page++;
        want(t, pass, it, i, row);
        for (int64_t j = 0; j < n; j++, row++) {
            t->ids[row] = s->tokens[j];
            t->position[row] = (int32_t)j;
            t->dropout_token[row] = it->dropout_token + (uint32_t)j;
        }
    }
    t->q_start[end - first] = (int32_t)row;
    t->batch = (tdm_batch){.tokens = row, .sequences = end - first, .q_start = tdm_trainer_twin(t, t->q_start),
                           .kv_len = tdm_trainer_twin(t, t->kv_len), .position = tdm_trainer_twin(t, t->position),
                           .pages = tdm_trainer_twin(t, t->pages), .pages_stride = t->page_stride, .q_most = longest, .kv_most = longest};
}

/* keep: for backward. */
static tdm_status forward(tdm_trainer *t, const tdm_run *run, bool keep, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, tdm_mirror_push(&t->mirror, t->m->s, t->ids, t->batch_bytes, err), done);
    const int64_t layers = t->m->c->layers;
    const bool tape = !t->spec.forward_only;
    TDM_TRY(st, tdm_forward_embed(run, tdm_view_rows(t->x[0], 0, t->batch.tokens), tdm_trainer_twin(t, t->ids), err), done);
    for (int64_t l = 0; l < layers; l++) {
        tdm_layer_acts *a = &t->acts[tape && !t->spec.checkpointing ? l : 0];
        a->x_in = t->x[tape ? l : 0];
        if (keep) TDM_TRY(st, tdm_offload_forward(t, l, err), done);
        TDM_TRY(st, tdm_forward_layer(run, l, a, t->x[tape ? l + 1 : 0], err), done);
    }
done:
    return st;
}

/* Items [first, end) name the experts of their tokens, and the pass is one of the policy: then *replay, and they are in the mirror. */
static tdm_status push_routes(tdm_trainer *t, const tdm_train_pass *pass, const tdm_train_item *items, int64_t first, int64_t end, bool *replay, tdm_error *err)
{
    const tdm_model_config *c = t->m->c;
    const int64_t used = c->experts_used, tokens = t->batch.tokens;
    *replay = t->spec.routes && pass->adapter && !pass->values;
    for (int64_t i = first; i < end; i++) *replay = *replay && items[i].seq->routes;
    if (!*replay) return TDM_OK;
    for (int64_t i = first; i < end; i++)
        for (int64_t row = t->q_start[i - first]; row < t->q_start[i - first + 1]; row++) {
            const uint16_t *from = items[i].seq->routes + t->position[row] * c->layers * used;
            for (int64_t l = 0; l < c->layers; l++)
                for (int64_t u = 0; u < used; u++) t->routes[(l * tokens + row) * used + u] = from[l * used + u];
        }
    return tdm_mirror_push(&t->mirror, t->m->s, t->routes, (size_t)(c->layers * tokens * used) * sizeof *t->routes, err);
}

static tdm_run run_of(const tdm_trainer *t, const tdm_adapter *adapter, float dropout, uint64_t seed, bool replay)
{
    return (tdm_run){.routes = replay ? tdm_trainer_twin(t, t->routes) : NULL, .replay = replay, .m = t->m, .adapter = adapter, .batch = &t->batch, .scratch = t->scratch,
                     .dropout = {.p = dropout, .seed = seed, .token = tdm_trainer_twin(t, t->dropout_token)}};
}

tdm_status tdm_trainer_look(tdm_trainer *t, const tdm_train_pass *pass, tdm_train_item *items, int64_t count, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int64_t first = 0; first < count;) {
        if (pass->keep_going && !pass->keep_going(pass->ctx)) return TDM_STOPPED;
        const int64_t end = micro_end(t, pass, items, first, count);
        TDM_TRY(st, t->m->be->stream_sync(t->m->s, err), done); /* what was pushed is written over */
        pack(t, pass, items, first, end);
        bool replay;
        TDM_TRY(st, push_routes(t, pass, items, first, end, &replay, err), done);
        const tdm_run run = run_of(t, pass->adapter, pass->dropout, pass->dropout_seed, replay);
        TDM_TRY(st, forward(t, &run, false, err), done);
        TDM_TRY(st, pass->values ? tdm_value_score(t, items, pass, err) : tdm_head_score(t, items, pass->sampling, err), done);
        first = end;
    }
done:
    return st;
}

tdm_status tdm_trainer_score(tdm_trainer *t, const tdm_adapter *adapter, tdm_train_item *items, int64_t count, const tdm_sampling *sampling,
                             tdm_error *err)
{
    return tdm_trainer_look(t, &(tdm_train_pass){.adapter = adapter, .sampling = sampling}, items, count, err);
}

tdm_status tdm_trainer_accumulate(tdm_trainer *t, const tdm_train_pass *pass, tdm_train_item *items, int64_t count, tdm_loss_sums *sums,
                                  tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_ASSERT(!t->spec.forward_only && (!pass->distills || t->spec.distills));
    for (int64_t first = 0; first < count;) {
        if (pass->keep_going && !pass->keep_going(pass->ctx)) return TDM_STOPPED;
        const int64_t end = micro_end(t, pass, items, first, count);
        TDM_TRY(st, t->m->be->stream_sync(t->m->s, err), done); /* what was pushed is written over */
        pack(t, pass, items, first, end);
        bool replay;
        TDM_TRY(st, push_routes(t, pass, items, first, end, &replay, err), done);
        const tdm_run run = run_of(t, pass->adapter, pass->dropout, pass->dropout_seed, replay);
        if (pass->distills) {
            const tdm_run teacher = run_of(t, pass->teacher, 0.0f, 0, false);
            TDM_TRY(st, forward(t, &teacher, false, err), done);
            TDM_TRY(st, tdm_distill_keep(t, err), done);
        }
        TDM_TRY(st, forward(t, &run, true, err), done);
        TDM_TRY(st,
                pass->values     ? tdm_value_train(t, items, pass, err)
                : pass->distills ? tdm_distill_train(t, items, pass, sums, err)
                                 : tdm_head_train(t, items, pass, sums, err),
                done);
        TDM_TRY(st, tdm_backward_layers(t, &run, pass->opt, err), done);
        first = end;
    }
done:
    return st;
}
