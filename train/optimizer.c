#include "train/optimizer.h"

#include <math.h>

/* Elements of a tensor; 0: the projection has no adapter. */
static int64_t size_of(const tdm_adapter *a, int p, bool b)
{
    if (a->offset_a[p] < 0) return 0;
    return a->spec.rank * (b ? a->n[p] : a->k[p]);
}

static bool is_small(int64_t size) { return size < TDM_ADAMW_8BIT_LEAST; }

/* State of adamw_8bit that lies before the tensor, in its layer; of all the layer with p == TDM_PROJ_COUNT. */
typedef struct before {
    int64_t small, blocks; /* elements kept in 32 bits; blocks of the others */
    bool whole;            /* no element of the former, and no block that is not full */
} before;

static void pass(before *at, int64_t size)
{
    if (is_small(size)) at->small += size;
    else at->blocks += tdm_ceil_div(size, TDM_ADAMW_BLOCK);
    at->whole = at->whole && (size == 0 || (!is_small(size) && size % TDM_ADAMW_BLOCK == 0));
}

static void pass_pair(before *at, const tdm_adapter *a, int p)
{
    pass(at, size_of(a, p, false));
    pass(at, size_of(a, p, true));
}

static before state_before(const tdm_adapter *a, int p, int64_t expert, bool b)
{
    before at = {.whole = true};
    for (int i = 0; i < p; i++)
        for (int64_t e = 0; e < a->modules[i]; e++) pass_pair(&at, a, i);
    for (int64_t e = 0; e < expert; e++) pass_pair(&at, a, p);
    if (b) pass(&at, size_of(a, p, false));
    return at;
}

/* And of all layers, with the head's own when `head`: where the head's begins, and where everything ends. */
static before state_total(const tdm_adapter *a, bool head)
{
    before at = state_before(a, TDM_PROJ_COUNT, 0, false);
    const int64_t size = head ? a->head_count : 0;
    at.small = at.small * a->layers + (is_small(size) ? size : 0);
    at.blocks = at.blocks * a->layers + (is_small(size) ? 0 : tdm_ceil_div(size, TDM_ADAMW_BLOCK));
    at.whole = at.whole && (size == 0 || (!is_small(size) && size % TDM_ADAMW_BLOCK == 0));
    return at;
}

/* The next `count` elements of `size` bytes; with base NULL only counts. */
static void *take(char *base, size_t *at, int64_t count, size_t size)
{
    char *p = base ? base + *at : NULL;
    *at += tdm_align_up((size_t)count * size, 64);
    return p;
}

static size_t lay(tdm_optimizer *o, const tdm_adapter *a, tdm_optimizer_kind kind, char *base)
{
    const before all = state_total(a, true);
    const int64_t n = a->count, moments = kind == TDM_OPTIMIZER_ADAMW ? n : kind == TDM_OPTIMIZER_ADAMW_8BIT ? all.small : 0;
    size_t at = 0;
    o->squares = take(base, &at, 1, sizeof *o->squares);
    o->param = take(base, &at, n, sizeof *o->param);
    o->grad = take(base, &at, n, sizeof *o->grad);
    const size_t state = at;
    o->state = o->master = take(base, &at, n, sizeof *o->master);
    o->m = take(base, &at, moments, sizeof *o->m);
    o->v = take(base, &at, moments, sizeof *o->v);
    if (kind == TDM_OPTIMIZER_SGD) o->m = o->v = NULL;
    if (kind == TDM_OPTIMIZER_ADAMW_8BIT) {
        o->m_code = take(base, &at, n, sizeof *o->m_code);
        o->v_code = take(base, &at, n, sizeof *o->v_code);
        o->m_most = take(base, &at, all.blocks, sizeof *o->m_most);
        o->v_most = take(base, &at, all.blocks, sizeof *o->v_most);
    }
    o->state_bytes = at - state;
    return at;
}

size_t tdm_optimizer_bytes(const tdm_adapter *a, tdm_optimizer_kind kind)
{
    tdm_optimizer o = {0};
    return lay(&o, a, kind, NULL);
}

static tdm_view flat(float *x, int64_t count) { return tdm_view_make(x, TDM_DTYPE_F32, 1, count); }

tdm_status tdm_optimizer_init(tdm_optimizer *o, const tdm_optimizer_config *config, const tdm_backend *be, tdm_stream *s, tdm_adapter *a,
                              void *region, tdm_error *err)
{
    *o = (tdm_optimizer){.config = *config, .be = be, .s = s, .adapter = a, .count = a->count};
    lay(o, a, config->kind, region);
    a->param = o->param;
    a->head = a->head_count > 0 ? o->master + a->head_first : NULL;
    const size_t masters = (size_t)o->count * sizeof *o->master; /* the caller writes these */
    return be->zero(s, tdm_view_make((char *)o->state + masters, TDM_DTYPE_U8, 1, (int64_t)(o->state_bytes - masters)), err);
}

/* Parameters [first, first + count) are one tensor; small, blocks: state of adamw_8bit before it. */
static tdm_optimizer_tensor tensor_at(const tdm_optimizer *o, int64_t first, int64_t count, int64_t small, int64_t blocks)
{
    tdm_optimizer_tensor t = {.first = first, .count = count, .master = o->master + first};
    if (o->config.kind == TDM_OPTIMIZER_ADAMW) {
        t.m = o->m + first;
        t.v = o->v + first;
    }
    if (o->config.kind != TDM_OPTIMIZER_ADAMW_8BIT) return t;
    if (is_small(count)) {
        t.m = o->m + small;
        t.v = o->v + small;
        return t;
    }
    t.m_code = o->m_code + first;
    t.v_code = o->v_code + first;
    t.m_most = o->m_most + blocks;
    t.v_most = o->v_most + blocks;
    t.blocks = tdm_ceil_div(count, TDM_ADAMW_BLOCK);
    return t;
}

tdm_optimizer_tensor tdm_optimizer_tensor_of(const tdm_optimizer *o, int64_t layer, tdm_proj p, int64_t expert, bool b)
{
    const tdm_adapter *a = o->adapter;
    const int64_t offset = (b ? a->offset_b[p] : a->offset_a[p]) + expert * a->step[p];
    TDM_ASSERT(a->offset_a[p] >= 0 && expert < a->modules[p]);
    const before here = state_before(a, (int)p, expert, b), all = state_before(a, TDM_PROJ_COUNT, 0, false);
    return tensor_at(o, layer * a->layer_count + offset, size_of(a, (int)p, b), layer * all.small + here.small, layer * all.blocks + here.blocks);
}

tdm_optimizer_tensor tdm_optimizer_head_of(const tdm_optimizer *o)
{
    const tdm_adapter *a = o->adapter;
    const before layers = state_total(a, false);
    TDM_ASSERT(a->head_count > 0);
    return tensor_at(o, a->head_first, a->head_count, layers.small, layers.blocks);
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

/* AdamW over the elements of t, in the form their moments have. */
static tdm_status adamw(const tdm_optimizer *o, const tdm_optimizer_tensor *t, float lr, float scale, tdm_error *err)
{
    const tdm_optimizer_config *c = &o->config;
    const float beta1 = (float)c->beta1, beta2 = (float)c->beta2, eps = (float)c->eps, decay = (float)c->weight_decay;
    if (t->m_code) {
        const tdm_adamw_8bit a = {.master = t->master, .m = t->m_code, .v = t->v_code, .m_most = t->m_most, .v_most = t->v_most,
                                  .grad = o->grad + t->first, .param = o->param + t->first, .n = t->count, .step = o->updates, .lr = lr,
                                  .beta1 = beta1, .beta2 = beta2, .eps = eps, .weight_decay = decay, .grad_scale = scale};
        return o->be->adamw_8bit(o->s, &a, err);
    }
    const tdm_adamw a = {.master = t->master, .m = t->m, .v = t->v, .grad = o->grad + t->first, .param = o->param + t->first, .n = t->count,
                         .step = o->updates, .lr = lr, .beta1 = beta1, .beta2 = beta2, .eps = eps, .weight_decay = decay, .grad_scale = scale};
    return o->be->adamw(o->s, &a, err);
}

static tdm_status adamw_by_tensor(const tdm_optimizer *o, float lr, float scale, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int64_t l = 0; l < o->adapter->layers; l++)
        for (int p = 0; p < TDM_PROJ_COUNT; p++)
            for (int64_t i = 0; i < 2 * o->adapter->modules[p]; i++) {
                const tdm_optimizer_tensor t = tdm_optimizer_tensor_of(o, l, (tdm_proj)p, i / 2, i % 2);
                TDM_TRY(st, adamw(o, &t, lr, scale, err), done);
            }
    if (o->adapter->head_count == 0) goto done;
    const tdm_optimizer_tensor head = tdm_optimizer_head_of(o);
    TDM_TRY(st, adamw(o, &head, lr, scale, err), done);
done:
    return st;
}

static tdm_status update(const tdm_optimizer *o, float lr, float scale, tdm_error *err)
{
    const tdm_optimizer_config *c = &o->config;
    if (c->kind == TDM_OPTIMIZER_SGD) {
        const tdm_sgd a = {.master = o->master, .grad = o->grad, .param = o->param, .n = o->count, .lr = lr,
                           .weight_decay = (float)c->weight_decay, .grad_scale = scale};
        return o->be->sgd(o->s, &a, err);
    }
    /* all as one tensor, where the blocks of the whole are those of its parts */
    const bool eight = c->kind == TDM_OPTIMIZER_ADAMW_8BIT;
    if (eight && !state_total(o->adapter, true).whole) return adamw_by_tensor(o, lr, scale, err);
    const tdm_optimizer_tensor all = {.count = o->count, .master = o->master, .m = o->m, .v = o->v, .m_code = o->m_code, .v_code = o->v_code,
                                      .m_most = o->m_most, .v_most = o->v_most};
    return adamw(o, &all, lr, scale, err);
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
    st = update(o, (float)*lr, (float)factor, err);
done:
    return st;
}
