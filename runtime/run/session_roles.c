/* Adapters of a session: the policy's parameters, and the roles beside it on the same base. */
#include "runtime/run/session.h"

#include <stdlib.h>
#include <string.h>

tdm_status tdm_session_describe(const tdm_session *s, const char *dir, const tdm_adapter_spec *fresh, tdm_peft **peft, tdm_adapter *a, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_adapter_spec spec = {0};
    if (fresh) spec = *fresh;
    if (dir) {
        TDM_TRY(st, spec.head ? tdm_peft_open_head(peft, dir, s->config, err) : tdm_peft_open(peft, dir, s->config, err), done);
        const tdm_peft_config *c = tdm_peft_config_of(*peft);
        spec = (tdm_adapter_spec){.rank = c->rank, .alpha = (float)c->alpha, .rslora = c->rslora, .head = c->head};
        memcpy(spec.target, c->targets, sizeof spec.target);
    }
    if (tdm_adapter_ffn_differs(s->config, spec.target))
        return TDM_FAIL(err, TDM_ERR_RECIPE, dir ? dir : "adapter.targets", "use targets: [q_proj, k_proj, v_proj, o_proj]",
                        "gate_proj, up_proj and down_proj are experts in some layers of this model and one matrix each in others");
    tdm_adapter_init(a, &spec, s->config);
done:
    return st;
}

static void copy_tensor(float *to, tdm_cview v)
{
    const int64_t n = v.rows * v.cols;
    TDM_ASSERT_EQ(v.stride, v.cols);
    if (v.dtype == TDM_DTYPE_F32) memcpy(to, v.data, (size_t)n * sizeof *to);
    else
        for (int64_t j = 0; j < n; j++) to[j] = tdm_bf16_to_f32(((const uint16_t *)v.data)[j]);
}

tdm_status tdm_session_masters(const tdm_adapter *a, const tdm_peft *peft, uint64_t seed, float **out, tdm_error *err)
{
    float *master = *out = calloc((size_t)a->count, sizeof *master); /* zero: layers the file leaves out have no adapter */
    if (!master) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the adapter");
    if (!peft) {
        tdm_adapter_init_params(a, seed, master);
        return TDM_OK;
    }
    int64_t count;
    const tdm_peft_pair *pairs = tdm_peft_pairs(peft, &count);
    for (int64_t i = 0; i < count; i++) {
        const int p = (int)pairs[i].proj;
        TDM_ASSERT(a->offset_a[p] >= 0 && pairs[i].expert < a->modules[p]);
        float *m = master + pairs[i].layer * a->layer_count + pairs[i].expert * a->step[p];
        copy_tensor(m + a->offset_a[p], pairs[i].a);
        copy_tensor(m + a->offset_b[p], pairs[i].b);
    }
    if (a->head_count > 0) copy_tensor(master + a->head_first, tdm_peft_head(peft));
    return TDM_OK;
}

tdm_status tdm_roles_describe(tdm_session *s, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_ASSERT(s->spec.role_count <= TDM_SESSION_ROLES);
    s->role_count = s->spec.role_count;
    for (int i = 0; i < s->role_count; i++) {
        const tdm_role_spec *r = &s->spec.roles[i];
        TDM_TRY(st, tdm_session_describe(s, r->dir, &r->adapter, &s->role[i].peft, &s->role[i].adapter, err), done);
    }
done:
    return st;
}

/* Of a role that is not trained: parameters, then the head. */
static size_t param_bytes(const tdm_adapter *a) { return tdm_align_up((size_t)a->count * sizeof *a->param, 64); }
static size_t frozen_bytes(const tdm_adapter *a) { return param_bytes(a) + tdm_align_up((size_t)a->head_count * sizeof *a->head, 64); }

void tdm_roles_plan(tdm_session *s)
{
    for (int i = 0; i < s->role_count; i++) {
        const tdm_role_spec *r = &s->spec.roles[i];
        const tdm_adapter *a = &s->role[i].adapter;
        s->role[i].item = tdm_plan_add(&s->plan, TDM_PHASE_ALWAYS, r->name, r->optimizer ? tdm_optimizer_bytes(a, r->optimizer->kind) : frozen_bytes(a), r->hint);
    }
}

static tdm_status load_trained(tdm_session *s, tdm_role *r, const tdm_optimizer_config *config, const float *master, void *region, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, tdm_optimizer_init(&r->optimizer, config, s->be, s->stream, &r->adapter, region, err), done);
    TDM_TRY(st, s->be->upload(s->stream, r->optimizer.master, master, (size_t)r->adapter.count * sizeof *master, err), done);
    TDM_TRY(st, tdm_optimizer_publish(&r->optimizer, err), done);
    TDM_TRY(st, s->be->stream_sync(s->stream, err), done);
done:
    return st;
}

static tdm_status load_frozen(tdm_session *s, tdm_role *r, const float *master, char *region, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_adapter *a = &r->adapter;
    uint16_t *param = malloc((size_t)a->count * sizeof *param); /* owned here */
    if (!param) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the adapter");
    for (int64_t i = 0; i < a->count; i++) param[i] = tdm_f32_to_bf16(master[i]);
    a->param = (uint16_t *)(void *)region;
    a->head = (const float *)(const void *)(region + param_bytes(a));
    TDM_TRY(st, s->be->upload(s->stream, region, param, (size_t)a->count * sizeof *param, err), done);
    TDM_TRY(st, s->be->upload(s->stream, region + param_bytes(a), master + a->head_first, (size_t)a->head_count * sizeof *master, err), done);
    TDM_TRY(st, s->be->stream_sync(s->stream, err), done);
done:
    free(param);
    return st;
}

tdm_status tdm_roles_load(tdm_session *s, tdm_error *err)
{
    tdm_status st = TDM_OK;
    float *master = NULL; /* owned here */
    for (int i = 0; i < s->role_count; i++) {
        tdm_role *r = &s->role[i];
        void *region = tdm_slab_at(&s->slab, &s->plan, r->item);
        free(master);
        TDM_TRY(st, tdm_session_masters(&r->adapter, r->peft, s->spec.roles[i].seed, &master, err), done);
        if (s->spec.roles[i].optimizer) TDM_TRY(st, load_trained(s, r, s->spec.roles[i].optimizer, master, region, err), done);
        else TDM_TRY(st, load_frozen(s, r, master, region, err), done);
        tdm_peft_close(r->peft);
        r->peft = NULL;
    }
done:
    free(master);
    return st;
}

void tdm_roles_close(tdm_session *s)
{
    for (int i = 0; i < s->role_count; i++) tdm_peft_close(s->role[i].peft);
}
