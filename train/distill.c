/* On-policy distillation: each token's whole distribution against the teacher's, a tile of tokens at a time. The teacher is the same base with another adapter,
 * or with none: it runs over the micro-batch first, without a tape, and of it only the last hidden states stay. */
#include "train/trainer_internal.h"

tdm_status tdm_distill_keep(tdm_trainer *t, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model *m = t->m;
    const tdm_cview last = tdm_view_const(tdm_view_rows(t->x[m->c->layers], 0, t->batch.tokens));
    for (int64_t first = 0; first < t->tokens_head; first += t->spec.head_rows) {
        const int64_t n = tdm_min_i64(t->spec.head_rows, t->tokens_head - first);
        TDM_TRY(st, m->be->stream_sync(m->s, err), done); /* what was pushed is written over */
        for (int64_t i = 0; i < n; i++) t->row[i] = t->token[first + i].row;
        TDM_TRY(st, tdm_mirror_push(&t->mirror, m->s, t->row, (size_t)n * sizeof *t->row, err), done);
        TDM_TRY(st, m->be->gather_rows(m->s, tdm_view_rows(t->teacher, first, n), last, tdm_trainer_twin(t, t->row), err), done);
    }
    st = m->be->stream_sync(m->s, err);
done:
    return st;
}

/* The teacher's distributions of tokens [first, first + n), for which the student's head has just run. */
static tdm_status teacher_tile(tdm_trainer *t, int64_t first, int64_t n, const tdm_sampling *sampling, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model *m = t->m;
    tdm_head_buffers *h = &t->head;
    TDM_TRY(st, tdm_forward_head(m, tdm_view_const(tdm_view_rows(t->teacher, first, n)), h->xn, h->teacher_rstd, h->codes, h->scales, h->teacher, err), done);
    const tdm_logprob q = {.logits = tdm_view_rows(h->teacher, 0, n), .target = tdm_trainer_twin(t, t->target),
                           .logprob = tdm_trainer_twin(t, t->divergence), .sampling = sampling}; /* the logarithms are not looked at */
    TDM_TRY(st, m->be->logprob(m->s, &q, err), done);
done:
    return st;
}

static tdm_status tile(tdm_trainer *t, int64_t first, int64_t n, tdm_train_item *items, const tdm_train_pass *pass, tdm_loss_sums *sums, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model *m = t->m;
    const tdm_head_buffers *h = &t->head;
    TDM_TRY(st, tdm_head_logprobs(t, first, n, items, pass->sampling, err), done);
    TDM_TRY(st, teacher_tile(t, first, n, pass->sampling, err), done);
    for (int64_t i = 0; i < n; i++) t->coef[i] = (float)items[t->token[first + i].item].weight;
    TDM_TRY(st, tdm_mirror_push(&t->mirror, m->s, t->coef, (size_t)n * sizeof *t->coef, err), done);
    const tdm_divergence d = {.dlogits = tdm_view_rows(h->dlogits, 0, n), .p = tdm_view_const(tdm_view_rows(h->logits, 0, n)),
                              .q = tdm_view_const(tdm_view_rows(h->teacher, 0, n)), .coef = tdm_trainer_twin(t, t->coef),
                              .value = tdm_trainer_twin(t, t->divergence), .beta = (float)pass->beta, .temperature = pass->sampling->temperature};
    TDM_TRY(st, m->be->divergence(m->s, &d, err), done);
    TDM_TRY(st, tdm_head_backward(t, n, err), done);
    TDM_TRY(st, tdm_mirror_pull(&t->mirror, m->s, t->divergence, (size_t)n * sizeof *t->divergence, err), done);
    TDM_TRY(st, m->be->stream_sync(m->s, err), done);
    for (int64_t i = 0; i < n; i++) {
        const tdm_head_token *tok = &t->token[first + i];
        const tdm_train_item *it = &items[tok->item];
        const tdm_loss_tokens tokens = {.count = tdm_sequence_completion(it->seq), .lp = it->lp, .sampler = it->sampler};
        sums->loss += it->weight * (double)t->divergence[i];
        sums->kl += (double)t->divergence[i];
        sums->entropy += (double)t->entropy[i];
        tdm_loss_count(&tokens, tok->index, sums);
    }
done:
    return st;
}

tdm_status tdm_distill_train(tdm_trainer *t, tdm_train_item *items, const tdm_train_pass *pass, tdm_loss_sums *sums, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_ASSERT(pass->sampling->repetition_penalty == 1.0f);
    TDM_TRY(st, t->m->be->zero(t->m->s, tdm_view_rows(t->back.dx, 0, t->batch.tokens), err), done);
    for (int64_t first = 0; first < t->tokens_head; first += t->spec.head_rows)
        TDM_TRY(st, tile(t, first, tdm_min_i64(t->spec.head_rows, t->tokens_head - first), items, pass, sums, err), done);
done:
    return st;
}
