/* From hidden states to values and back, a tile of tokens at a time, by the adapter's head: a critic's values, a reward model's scores. */
#include "train/trainer_internal.h"

/* Values of the tile into t->lp. */
static tdm_status tile_values(tdm_trainer *t, const tdm_adapter *adapter, int64_t first, int64_t n, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model *m = t->m;
    const tdm_view last = t->x[t->spec.forward_only ? 0 : m->c->layers], x = tdm_view_rows(t->head.x, 0, n);
    for (int64_t i = 0; i < n; i++) t->row[i] = t->token[first + i].row;
    TDM_TRY(st, tdm_mirror_push(&t->mirror, m->s, t->row, (size_t)n * sizeof *t->row, err), done);
    TDM_TRY(st, m->be->gather_rows(m->s, x, tdm_view_const(tdm_view_rows(last, 0, t->batch.tokens)), tdm_trainer_twin(t, t->row), err), done);
    TDM_TRY(st, tdm_forward_value(m, adapter, tdm_view_const(x), t->head.xn, t->head.rstd, tdm_trainer_twin(t, t->lp), err), done);
    TDM_TRY(st, tdm_mirror_pull(&t->mirror, m->s, t->lp, (size_t)n * sizeof *t->lp, err), done);
    TDM_TRY(st, m->be->stream_sync(m->s, err), done);
done:
    return st;
}

tdm_status tdm_value_score(tdm_trainer *t, const tdm_train_item *items, const tdm_train_pass *pass, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int64_t first = 0; first < t->tokens_head; first += t->spec.head_rows) {
        const int64_t n = tdm_min_i64(t->spec.head_rows, t->tokens_head - first);
        TDM_TRY(st, tile_values(t, pass->adapter, first, n, err), done);
        for (int64_t i = 0; i < n; i++) items[t->token[first + i].item].value[t->token[first + i].index] = t->lp[i];
    }
done:
    return st;
}

/* d loss / d value of the tile's tokens. */
static void tile_coefs(tdm_trainer *t, const tdm_train_item *items, const tdm_train_pass *pass, int64_t first, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const tdm_head_token *tok = &t->token[first + i];
        const tdm_train_item *it = &items[tok->item];
        t->coef[i] = pass->value_loss ? (float)tdm_value_loss(pass->value_loss, (double)t->lp[i], (double)it->value[tok->index],
                                                              (double)it->returns[tok->index], it->weight, pass->value_sums)
                                      : it->coef[tok->index];
    }
}

static tdm_status tile_backward(tdm_trainer *t, const tdm_train_pass *pass, int64_t n, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_model *m = t->m;
    const tdm_adapter *a = pass->adapter;
    const tdm_value_backward v = {.dx = tdm_view_rows(t->head.dxn, 0, n), .dy = tdm_trainer_twin(t, t->coef),
                                  .grad_w = tdm_view_make(pass->opt->grad + a->head_first, TDM_DTYPE_F32, 1, a->head_count),
                                  .x = tdm_view_const(tdm_view_rows(t->head.xn, 0, n)), .w = tdm_adapter_head(a)};
    TDM_TRY(st, tdm_mirror_push(&t->mirror, m->s, t->coef, (size_t)n * sizeof *t->coef, err), done);
    TDM_TRY(st, m->be->value_backward(m->s, &v, err), done);
    TDM_TRY(st, tdm_head_into_layers(t, n, err), done);
done:
    return st;
}

tdm_status tdm_value_train(tdm_trainer *t, const tdm_train_item *items, const tdm_train_pass *pass, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, t->m->be->zero(t->m->s, tdm_view_rows(t->back.dx, 0, t->batch.tokens), err), done);
    for (int64_t first = 0; first < t->tokens_head; first += t->spec.head_rows) {
        const int64_t n = tdm_min_i64(t->spec.head_rows, t->tokens_head - first);
        TDM_TRY(st, tile_values(t, pass->adapter, first, n, err), done);
        tile_coefs(t, items, pass, first, n);
        TDM_TRY(st, tile_backward(t, pass, n, err), done);
    }
done:
    return st;
}
