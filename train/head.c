/* From hidden states to log-probabilities and back, a tile of tokens at a time: the logits of a whole batch never exist. */
#include "train/trainer_internal.h"

#include <string.h>

static tdm_status tile_forward(tdm_trainer *t, int64_t n, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model *m = t->m;
    const tdm_view last = t->x[t->spec.forward_only ? 0 : m->c->layers], x = tdm_view_rows(t->head.x, 0, n);
    TDM_TRY(st, m->be->gather_rows(m->s, x, tdm_view_const(tdm_view_rows(last, 0, t->batch.tokens)), tdm_trainer_twin(t, t->row), err), done);
    TDM_TRY(st, tdm_forward_head(m, tdm_view_const(x), t->head.xn, t->head.rstd, t->head.codes, t->head.scales, t->head.logits, err), done);
done:
    return st;
}

tdm_status tdm_head_logprobs(tdm_trainer *t, int64_t first, int64_t n, tdm_train_item *items, const tdm_sampling *sampling, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const int64_t words = tdm_ceil_div(t->m->c->vocab, 32);
    const bool penalty = sampling->repetition_penalty != 1.0f;
    bool support = false;
    for (int64_t i = 0; i < n; i++) {
        const tdm_head_token *tok = &t->token[first + i];
        const tdm_sequence *s = items[tok->item].seq;
        t->row[i] = tok->row;
        t->target[i] = tok->target;
        t->history_at[i] = tok->row - t->position[tok->row];
        t->history_len[i] = (int32_t)(s->prompt + tok->index);
        if (!s->support) continue;
        support = true;
        memcpy(t->support + i * words, s->support + tok->index * words, (size_t)words * sizeof *t->support);
    }
    TDM_TRY(st, tdm_mirror_push(&t->mirror, t->m->s, t->row, t->tile_bytes, err), done);
    if (support) TDM_TRY(st, tdm_mirror_push(&t->mirror, t->m->s, t->support, (size_t)(n * words) * sizeof *t->support, err), done);
    TDM_TRY(st, tile_forward(t, n, err), done);
    const tdm_logprob a = {.logits = tdm_view_rows(t->head.logits, 0, n), .target = tdm_trainer_twin(t, t->target),
                           .logprob = tdm_trainer_twin(t, t->lp), .entropy = tdm_trainer_twin(t, t->entropy),
                           .support = support ? tdm_trainer_twin(t, t->support) : NULL, .sampling = sampling,
                           .history = penalty ? tdm_trainer_twin(t, t->ids) : NULL, .history_at = tdm_trainer_twin(t, t->history_at),
                           .history_len = tdm_trainer_twin(t, t->history_len)};
    TDM_TRY(st, t->m->be->logprob(t->m->s, &a, err), done);
    TDM_TRY(st, tdm_mirror_pull(&t->mirror, t->m->s, t->lp, (size_t)n * sizeof *t->lp, err), done);
    TDM_TRY(st, tdm_mirror_pull(&t->mirror, t->m->s, t->entropy, (size_t)n * sizeof *t->entropy, err), done);
    TDM_TRY(st, t->m->be->stream_sync(t->m->s, err), done);
    for (int64_t i = 0; i < n; i++) {
        const tdm_head_token *tok = &t->token[first + i];
        items[tok->item].lp[tok->index] = t->lp[i];
        if (items[tok->item].entropy) items[tok->item].entropy[tok->index] = t->entropy[i];
    }
done:
    return st;
}

tdm_status tdm_head_score(tdm_trainer *t, tdm_train_item *items, const tdm_sampling *sampling, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int64_t first = 0; first < t->tokens_head; first += t->spec.head_rows)
        TDM_TRY(st, tdm_head_logprobs(t, first, tdm_min_i64(t->spec.head_rows, t->tokens_head - first), items, sampling, err), done);
done:
    return st;
}

tdm_status tdm_head_into_layers(tdm_trainer *t, int64_t n, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model *m = t->m;
    const tdm_head_buffers *h = &t->head;
    const tdm_view dxn = tdm_view_rows(h->dxn, 0, n), dx = tdm_view_rows(h->dx, 0, n);
    TDM_TRY(st, m->be->zero(m->s, dx, err), done);
    TDM_TRY(st,
            m->be->rms_norm_backward(m->s, dx, tdm_view_const(dxn), tdm_view_const(tdm_view_rows(h->x, 0, n)), tdm_weights_final_norm(m->w),
                                     tdm_view_const(tdm_view_rows(h->rstd, 0, n)), err),
            done);
    TDM_TRY(st, m->be->scatter_rows(m->s, tdm_view_rows(t->back.dx, 0, t->batch.tokens), tdm_view_const(dx), tdm_trainer_twin(t, t->row), err), done);
done:
    return st;
}

static tdm_loss_tokens loss_tokens(const tdm_train_item *it)
{
    return (tdm_loss_tokens){.count = tdm_sequence_completion(it->seq), .lp = it->lp, .old = it->old, .sampler = it->sampler, .ref = it->ref,
                             .mask = it->mask, .policy = it->policy, .coef = it->coef, .advantages = it->advantages, .advantage = it->advantage, .weight = it->weight};
}

/* d loss / d lp of the tile's tokens, where a token's loss is its own. */
static void tile_coefs(tdm_trainer *t, int64_t first, int64_t n, const tdm_train_item *items, const tdm_loss_config *loss, tdm_loss_sums *sums)
{
    for (int64_t i = 0; i < n; i++) {
        const tdm_head_token *tok = &t->token[first + i];
        const tdm_loss_tokens tokens = loss_tokens(&items[tok->item]);
        tdm_loss_eval(loss, &tokens, tok->index, 1, &t->coef[i], sums);
    }
}

/* d loss / d lp of every head token of the micro-batch, sequence by sequence. */
static void sequence_coefs(tdm_trainer *t, const tdm_train_item *items, const tdm_loss_config *loss, tdm_loss_sums *sums)
{
    for (int64_t i = 0; i < t->tokens_head;) {
        const int64_t item = t->token[i].item;
        const tdm_loss_tokens tokens = loss_tokens(&items[item]);
        /* coefficients of a whole completion never outnumber the micro-batch's tokens, and masked ones are dropped below */
        float *out = t->sequence_coef + i;
        TDM_ASSERT(i + tokens.count <= t->spec.micro_tokens);
        tdm_loss_eval(loss, &tokens, 0, tokens.count, out, sums);
        int64_t kept = 0;
        for (; i < t->tokens_head && t->token[i].item == item; i++) out[kept++] = out[t->token[i].index];
    }
}

/* Whether some of the tile's entropies have a gradient; their part of the sums. */
static bool entropy_coefs(tdm_trainer *t, int64_t first, int64_t n, const tdm_train_item *items, tdm_loss_sums *sums)
{
    bool any = false;
    for (int64_t i = 0; i < n; i++) {
        const tdm_head_token *tok = &t->token[first + i];
        const tdm_train_item *it = &items[tok->item];
        const bool in = !it->policy || it->policy[tok->index];
        const double weight = in ? it->entropy_weight : 0.0;
        t->entropy_coef[i] = (float)-weight;
        any = any || weight != 0.0;
        sums->entropy += (double)t->entropy[i];
        sums->objective_entropy += in ? (double)t->entropy[i] : 0.0;
        sums->objective_tokens += in;
        sums->loss -= weight * (double)t->entropy[i];
    }
    return any;
}

static tdm_status tile_backward(tdm_trainer *t, int64_t n, bool entropy, const tdm_sampling *sampling, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model *m = t->m;
    const bool penalty = sampling->repetition_penalty != 1.0f;
    tdm_head_buffers *h = &t->head;
    const tdm_view dlogits = tdm_view_rows(h->dlogits, 0, n);
    const tdm_logprob_backward lp = {.dlogits = dlogits, .p = tdm_view_const(tdm_view_rows(h->logits, 0, n)), .target = tdm_trainer_twin(t, t->target),
                                     .coef = tdm_trainer_twin(t, t->coef), .entropy_coef = entropy ? tdm_trainer_twin(t, t->entropy_coef) : NULL,
                                     .entropy = entropy ? tdm_trainer_twin(t, t->entropy) : NULL, .sampling = sampling,
                                     .history = penalty ? tdm_trainer_twin(t, t->ids) : NULL, .history_at = tdm_trainer_twin(t, t->history_at),
                                     .history_len = tdm_trainer_twin(t, t->history_len)};
    TDM_TRY(st, tdm_mirror_push(&t->mirror, m->s, t->coef, (size_t)n * sizeof *t->coef, err), done);
    if (entropy) TDM_TRY(st, tdm_mirror_push(&t->mirror, m->s, t->entropy_coef, (size_t)n * sizeof *t->entropy_coef, err), done);
    TDM_TRY(st, m->be->logprob_backward(m->s, &lp, err), done);
    TDM_TRY(st, tdm_head_backward(t, n, err), done);
done:
    return st;
}

tdm_status tdm_head_backward(tdm_trainer *t, int64_t n, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model *m = t->m;
    tdm_head_buffers *h = &t->head;
    const tdm_view dlogits = tdm_view_rows(h->dlogits, 0, n), dxn = tdm_view_rows(h->dxn, 0, n);
    const tdm_linear_backward l = {.dx = dxn, .dy = tdm_view_const(dlogits), .w = tdm_weights_head(m->w)};
    TDM_TRY(st, m->be->linear_backward(m->s, &l, err), done);
    TDM_TRY(st, tdm_head_into_layers(t, n, err), done);
done:
    return st;
}

tdm_status tdm_head_train(tdm_trainer *t, tdm_train_item *items, const tdm_train_pass *pass, tdm_loss_sums *sums, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const bool by_sequence = tdm_loss_needs_sequence(pass->loss);
    if (by_sequence) {
        TDM_TRY(st, tdm_head_score(t, items, pass->sampling, err), done);
        sequence_coefs(t, items, pass->loss, sums);
    }
    TDM_TRY(st, t->m->be->zero(t->m->s, tdm_view_rows(t->back.dx, 0, t->batch.tokens), err), done);
    for (int64_t first = 0; first < t->tokens_head; first += t->spec.head_rows) {
        const int64_t n = tdm_min_i64(t->spec.head_rows, t->tokens_head - first);
        TDM_TRY(st, tdm_head_logprobs(t, first, n, items, pass->sampling, err), done);
        if (by_sequence) memcpy(t->coef, t->sequence_coef + first, (size_t)n * sizeof *t->coef);
        else tile_coefs(t, first, n, items, pass->loss, sums);
        const bool entropy = entropy_coefs(t, first, n, items, sums);
        TDM_TRY(st, tile_backward(t, n, entropy, pass->sampling, err), done);
    }
done:
    return st;
}
