#include "train/optimizer.h"

#include <math.h>

static size_t part(int64_t count, size_t size) { return tdm_align_up((size_t)count * size, 64); }

size_t tdm_optimizer_bytes(int64_t count, tdm_optimizer_kind kind)
{
    return part(1, sizeof(double)) + part(count, sizeof(uint16_t)) + (kind == TDM_OPTIMIZER_ADAMW ? 4 : 2) * part(count, sizeof(float));
}

static tdm_view flat(float *x, int64_t count) { return tdm_view_make(x, TDM_DTYPE_F32, 1, count); }

tdm_status tdm_optimizer_init(tdm_optimizer *o, const tdm_optimizer_config *config, const tdm_backend *be, tdm_stream *s, tdm_adapter *a,
                              void *region, tdm_error *err)
{
    tdm_status st = TDM_OK;
    *o = (tdm_optimizer){.config = *config, .be = be, .s = s, .count = a->count};
    char *at = region;
    const size_t floats = part(a->count, sizeof(float));
    o->squares = (double *)(void *)at;
    at += part(1, sizeof(double));
    o->param = (uint16_t *)(void *)at;
    at += part(a->count, sizeof(uint16_t));
    o->master = (float *)(void *)at;
    o->grad = (float *)(void *)(at + floats);
    a->param = o->param;
    if (config->kind == TDM_OPTIMIZER_ADAMW) {
        o->m = (float *)(void *)(at + 2 * floats);
        o->v = (float *)(void *)(at + 3 * floats);
        TDM_TRY(st, be->zero(s, flat(o->m, o->count), err), done);
        TDM_TRY(st, be->zero(s, flat(o->v, o->count), err), done);
    }
done:
    return st;
}

tdm_status tdm_optimizer_publish(tdm_optimizer *o, tdm_error *err)
{
    const tdm_view param = tdm_view_make(o->param, TDM_DTYPE_BF16, 1, o->count);
    return o->be->convert(o->s, param, tdm_view_const(flat(o->master, o->count)), err);
}

tdm_status tdm_optimizer_zero_grad(tdm_optimizer *o, tdm_error *err)
{
    return o->be->zero(o->s, flat(o->grad, o->count), err);
}

double tdm_schedule_lr(const tdm_optimizer_config *c, int64_t update)
{
    if (update < c->warmup_updates) return c->lr * (double)update / (double)c->warmup_updates;
    if (c->schedule == TDM_SCHEDULE_CONSTANT) return c->lr;
    const double span = (double)tdm_max_i64(1, c->total_updates - c->warmup_updates);
    const double left = fmax(0.0, (double)(c->total_updates - update) / span);
    if (c->schedule == TDM_SCHEDULE_LINEAR) return c->lr * left;
    return c->lr * fmax(0.0, 0.5 * (1.0 + cos(acos(-1.0) * (1.0 - left))));
}

tdm_status tdm_optimizer_step(tdm_optimizer *o, double *grad_norm, double *lr, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_optimizer_config *c = &o->config;
    double squares = 0.0;
    TDM_TRY(st, o->be->sum_squares(o->s, o->grad, o->count, o->squares, err), done);
    TDM_TRY(st, o->be->download(o->s, &squares, o->squares, sizeof squares, err), done);
    TDM_TRY(st, o->be->stream_sync(o->s, err), done);
    *grad_norm = sqrt(squares);
    *lr = tdm_schedule_lr(c, o->updates);
    if (!isfinite(*grad_norm)) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, "train.lr", "lower the learning rate; the last checkpoint is whole",
                      "the gradient is not finite at update %lld", (long long)o->updates + 1);
        goto done;
    }
    /* torch.nn.utils.clip_grad_norm_: the factor is max / (norm + 1e-6), at most 1 */
    const double factor = c->max_grad_norm > 0.0 ? fmin(1.0, c->max_grad_norm / (*grad_norm + 1e-6)) : 1.0;
    o->updates++;
    if (c->kind == TDM_OPTIMIZER_SGD) {
        const tdm_sgd a = {.master = o->master, .grad = o->grad, .param = o->param, .n = o->count, .lr = (float)*lr,
                           .weight_decay = (float)c->weight_decay, .grad_scale = (float)factor};
        st = o->be->sgd(o->s, &a, err);
    } else {
        const tdm_adamw a = {.master = o->master, .m = o->m, .v = o->v, .grad = o->grad, .param = o->param, .n = o->count,
                             .step = o->updates, .lr = (float)*lr, .beta1 = (float)c->beta1, .beta2 = (float)c->beta2,
                             .eps = (float)c->eps, .weight_decay = (float)c->weight_decay, .grad_scale = (float)factor};
        st = o->be->adamw(o->s, &a, err);
    }
done:
    return st;
}
