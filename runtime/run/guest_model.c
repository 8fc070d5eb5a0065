#include "runtime/run/guest_model.h"

#include <stdio.h>
#include <string.h>

#include "memory/fs.h"
#include "runtime/run/session.h"

tdm_status tdm_guest_open(tdm_guest *g, const char *path, tdm_error *err)
{
    tdm_status st = TDM_OK;
    *g = (tdm_guest){.standby = {.fd = -1}};
    TDM_TRY(st, tdm_model_file_open(&g->file, path, err), done);
    g->config = tdm_model_file_config(g->file);
    st = tdm_language_open(&g->language, g->file, err);
done:
    return st;
}

void tdm_guest_close(tdm_guest *g)
{
    if (!g->file) return;
    tdm_language_close(&g->language);
    tdm_model_file_close(g->file);
    *g = (tdm_guest){.standby = {.fd = -1}};
}

/* ---- The plan ---------------------------------------------------------------------------------------------------------------------- */

tdm_status tdm_guests_check(tdm_session *s, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_ASSERT(s->spec.guest_count <= TDM_GUESTS);
    for (int i = 0; i < s->spec.guest_count; i++) {
        tdm_guest *g = &s->spec.guests[i];
        const tdm_weights_where where = {.first_layers_bf16 = g->where, .last_layers_bf16 = g->where, .keep_bf16 = g->where};
        g->phase = (tdm_phase)(TDM_PHASE_GUEST + i);
        g->weights.threads = s->spec.threads;
        g->engine_spec.kv_pages = tdm_engine_min_pages(s->be, &g->engine_spec);
        TDM_TRY(st, tdm_weights_check_options(g->config, &g->weights, &where, err), done);
        if (s->be->device && g->config->head_dim % 8) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, g->where, "use device: cpu, or another model", "the %s's heads are %lld wide, and the device's kernels take multiples of 8", g->role,
                          (long long)g->config->head_dim);
            goto done;
        }
    }
done:
    return st;
}

static size_t image_bytes(const tdm_guest *g)
{
    return tdm_align_up(g->weights_bytes, 64) + tdm_model_table_bytes(g->config, g->engine_spec.context);
}

tdm_status tdm_guests_plan(tdm_session *s, size_t *host, size_t *loading, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_plan *plan = &s->plan;
    for (int i = 0; i < s->spec.guest_count; i++) {
        tdm_guest *g = &s->spec.guests[i];
        char row[48];
        TDM_TRY(st, tdm_weights_bytes(g->file, &g->weights, &g->weights_bytes, err), done);
        plan->guest[i] = g->role;
        snprintf(row, sizeof row, "%s: weights", g->name);
        g->item_kv = tdm_plan_add(plan, g->phase, "kv pages", tdm_kv_cache_bytes(s->be, g->config, s->spec.kv_dtype, g->engine_spec.kv_pages),
                                  "lower its max_prompt_tokens or max_new_tokens");
        g->item_buffers = tdm_plan_add(plan, g->phase, "decode buffers", tdm_engine_buffer_bytes(s->be, g->config, &g->engine_spec), "");
        g->item_image = tdm_plan_add(plan, g->phase, row, image_bytes(g), "take a smaller model, or an FP8 scheme"); /* last: the least of it lies where the rollout does */
        const size_t waiting = tdm_standby_host_bytes(s->be, image_bytes(g)), load = tdm_weights_loading_bytes(g->config, s->spec.threads, s->be->device);
        if (waiting) tdm_plan_add(plan, TDM_PHASE_HOST, row, waiting, "");
        *host += tdm_engine_host_bytes(s->be, g->config, &g->engine_spec);
        if (load > *loading) *loading = load;
    }
done:
    return st;
}

void tdm_guests_limits(const tdm_session *s, tdm_limits *l)
{
    for (int i = 0; i < s->spec.guest_count; i++) {
        const tdm_model_config *c = s->spec.guests[i].config;
        const tdm_engine_spec *e = &s->spec.guests[i].engine_spec;
        l->tokens = tdm_max_i64(l->tokens, e->batch_tokens);
        l->width = tdm_max_i64(l->width, tdm_max_i64(tdm_max_i64(c->ffn, c->width), c->heads * c->head_dim));
        l->vocab = tdm_max_i64(l->vocab, c->vocab);
        l->head_rows = tdm_max_i64(l->head_rows, e->head_rows);
        l->heads = tdm_max_i64(l->heads, c->heads);
        l->head_dim = tdm_max_i64(l->head_dim, c->head_dim);
        l->context = tdm_max_i64(l->context, e->context);
    }
}

/* As many pages as are useful within what the other layouts need anyway, or the budget has left. */
void tdm_guests_choose_pages(tdm_session *s)
{
    const tdm_plan *p = &s->plan;
    const size_t room = p->slab_bytes - p->phase_offset + (s->budget_bytes > p->total_bytes ? s->budget_bytes - p->total_bytes : 0);
    for (int i = 0; i < s->spec.guest_count; i++) {
        tdm_guest *g = &s->spec.guests[i];
        const size_t page = tdm_kv_cache_bytes(s->be, g->config, s->spec.kv_dtype, 1) + 64 /* its entries in the scheduler */, have = p->phase_bytes[g->phase] + TDM_PLAN_ALIGN;
        if (room > have)
            g->engine_spec.kv_pages = tdm_min_i64(tdm_engine_max_pages(s->be, &g->engine_spec), g->engine_spec.kv_pages + (int64_t)((room - have) / page));
    }
}

int64_t tdm_guests_layers(const tdm_session *s)
{
    int64_t n = 0;
    for (int i = 0; i < s->spec.guest_count; i++) n += s->spec.guests[i].config->layers;
    return n;
}

/* ---- The bytes ----------------------------------------------------------------------------------------------------------------------- */

static char *image(const tdm_session *s, const tdm_guest *g) { return tdm_slab_at(&s->slab, &s->plan, g->item_image); }

static tdm_status load(tdm_session *s, tdm_guest *g, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_region region = {image(s, g), g->weights_bytes, s->be, s->stream};
    TDM_TRY(st, tdm_weights_open(&g->w, g->file, &g->weights, &region, err), done);
    if (s->spec.exact && tdm_weights_batch_dependent(g->w)) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, g->where, "use fp8_channel or fp8_block, or numerics: fast",
                      "exact cannot take the dynamic per-tensor activation scales of the %s's model: they depend on the batch", g->role);
        goto done;
    }
    TDM_TRY(st, tdm_model_open(&g->model, s->be, s->stream, g->w, g->engine_spec.context, s->spec.kv_dtype, image(s, g) + tdm_align_up(g->weights_bytes, 64), err), done);
    TDM_TRY(st, tdm_engine_open(&g->engine, &g->model, &g->engine_spec, tdm_slab_at(&s->slab, &s->plan, g->item_kv), tdm_slab_at(&s->slab, &s->plan, g->item_buffers), err),
            done);
    if (!s->be->device) TDM_TRY(st, tdm_fs_mkdirs(g->folder, err), done);
    TDM_TRY(st, tdm_standby_open(&g->standby, s->be, image_bytes(g), g->folder, err), done);
    TDM_TRY(st, tdm_standby_keep(&g->standby, s->stream, image(s, g), err), done);
done:
    return st;
}

tdm_status tdm_guests_load(tdm_session *s, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int i = 0; i < s->spec.guest_count; i++) TDM_TRY(st, load(s, &s->spec.guests[i], err), done);
done:
    return st;
}

void tdm_guests_close(tdm_session *s)
{
    tdm_guests_leave(s, TDM_PHASE_ALWAYS);
    for (int i = 0; i < s->spec.guest_count; i++) {
        tdm_guest *g = &s->spec.guests[i];
        tdm_engine_close(g->engine);
        tdm_weights_close(g->w);
        if (s->stream) s->be->stream_sync(s->stream, NULL); /* what is still on its way is read from what closes now */
        tdm_standby_close(&g->standby);
        g->engine = NULL;
        g->w = NULL;
    }
}

/* ---- Turns --------------------------------------------------------------------------------------------------------------------------- */

void tdm_guests_leave(tdm_session *s, tdm_phase next)
{
    for (int i = 0; i < s->spec.guest_count; i++) {
        tdm_guest *g = &s->spec.guests[i];
        if (g->phase == next) continue;
        g->here = false;
        if (!g->ahead || next == TDM_PHASE_ROLLOUT) continue;
        g->ahead = false;
        (void)tdm_standby_fetched(&g->standby, s->stream, NULL); /* a device that fails here fails at the next operation too, which says so */
    }
}

tdm_status tdm_guest_enter(tdm_session *s, tdm_guest *g, tdm_error *err)
{
    tdm_status st = TDM_OK;
    if (g->here) return TDM_OK;
    tdm_session_enter(s, g->phase);
    const size_t rest = g->ahead ? g->ahead_from : image_bytes(g);
    g->ahead = false;
    TDM_TRY(st, tdm_standby_fetched(&g->standby, s->stream, err), done);
    TDM_TRY(st, tdm_standby_fetch(&g->standby, s->stream, image(s, g), 0, rest, err), done);
    TDM_TRY(st, tdm_standby_fetched(&g->standby, s->stream, err), done);
    g->here = true;
done:
    return st;
}

tdm_status tdm_guest_prefetch(tdm_session *s, tdm_guest *g, tdm_error *err)
{
    const size_t end = s->plan.phase_offset + s->plan.phase_bytes[TDM_PHASE_ROLLOUT], at = s->plan.item[g->item_image].offset;
    const size_t from = tdm_align_up(end > at ? end - at : 0, 64);
    if (!s->be->device || g->here || g->ahead || from >= image_bytes(g)) return TDM_OK;
    g->ahead = true;
    g->ahead_from = from;
    return tdm_standby_fetch(&g->standby, s->stream, image(s, g) + from, from, image_bytes(g) - from, err);
}
