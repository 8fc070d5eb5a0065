/* The run folder: making it, saving a checkpoint into it, starting again from one. */
#include "runtime/run/job_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/run/report.h"

/* ---- Tensors of a checkpoint --------------------------------------------------------------------------------------------------- */

enum { OPTIMIZER_PARTS = 5 };
static const char *const part_names[OPTIMIZER_PARTS] = {"master", "exp_avg", "exp_avg_sq", "exp_avg_absmax", "exp_avg_sq_absmax"};

/* Of one adapter and its optimizer. */
typedef struct tensors {
    tdm_optimizer *of;
    const char *prefix; /* of the optimizer's names */
    tdm_peft_names names;
    tdm_peft_pair *pair;
    tdm_st_entry *adapter, *optimizer;
    char (*name)[TDM_PEFT_NAME_BYTES + 32];
    int64_t pairs, adapter_count, optimizer_count;
    char *state; /* the optimizer's state as the host sees it: itself, or `copy` */
    char *copy;  /* of a device's; NULL on the CPU */
} tensors;

static void tensors_free(tensors *t)
{
    free(t->pair);
    free(t->adapter);
    free(t->optimizer);
    free(t->name);
    free(t->copy);
}

static tdm_status see_state(tensors *t, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_optimizer *o = t->of;
    t->state = o->state;
    if (o->be->device) {
        t->state = t->copy = malloc(o->state_bytes);
        if (!t->copy) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for a copy of the optimizer's state");
        TDM_TRY(st, o->be->download(o->s, t->copy, o->state, o->state_bytes, err), done);
    }
    TDM_TRY(st, o->be->stream_sync(o->s, err), done);
done:
    return st;
}

static tdm_status put_state(const tensors *t, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_optimizer *o = t->of;
    if (t->copy) TDM_TRY(st, o->be->upload(o->s, o->state, t->copy, o->state_bytes, err), done);
    TDM_TRY(st, tdm_optimizer_publish(o, err), done);
done:
    return st;
}

/* A part of one tensor's state: [R, K] or [N, R] or [1, D], or what belongs to its blocks; data NULL: this optimizer has no such part. */
static tdm_st_entry part_of(const tensors *t, int part, const tdm_optimizer_tensor *of, int64_t rows, int64_t cols)
{
    const tdm_optimizer *o = t->of;
    const void *const values[OPTIMIZER_PARTS] = {of->master, of->m ? (const void *)of->m : of->m_code, of->v ? (const void *)of->v : of->v_code,
                                                 of->m_most, of->v_most};
    const bool code = (part == 1 || part == 2) && of->m_code, blocks = part > 2;
    tdm_st_entry e = {.dtype = code ? TDM_ST_U8 : TDM_ST_F32, .rank = blocks ? 1 : 2, .shape = {blocks ? of->blocks : rows, blocks ? 1 : cols}};
    if (values[part]) e.data = t->state + ((const char *)values[part] - (const char *)o->state);
    return e;
}

/* One tensor a layer, projection, half and part: NAME.master. The head is called as in the adapter. */
static void name_part(tensors *t, int part, const tdm_optimizer_tensor *of, int64_t rows, int64_t cols, const char *tensor)
{
    tdm_st_entry *e = &t->optimizer[t->optimizer_count];
    *e = part_of(t, part, of, rows, cols);
    if (!e->data) return;
    snprintf(t->name[t->optimizer_count], sizeof t->name[0], "%s%s.%s", t->prefix, tensor, part_names[part]);
    e->name = t->name[t->optimizer_count++];
}

static void name_optimizer(tensors *t)
{
    const tdm_adapter *a = t->of->adapter;
    for (int part = 0; part < OPTIMIZER_PARTS; part++) {
        for (int64_t i = 0; i < t->pairs; i++)
            for (int half = 0; half < 2; half++) {
                const tdm_peft_pair *p = &t->pair[i];
                const tdm_cview shape = half ? p->b : p->a;
                const tdm_optimizer_tensor of = tdm_optimizer_tensor_of(t->of, p->layer, p->proj, p->expert, half);
                char tensor[TDM_PEFT_NAME_BYTES];
                tdm_peft_tensor_name(tensor, t->names, p->layer, p->proj, p->expert, half == 1);
                name_part(t, part, &of, shape.rows, shape.cols, tensor);
            }
        if (a->head_count == 0) continue;
        const tdm_optimizer_tensor of = tdm_optimizer_head_of(t->of);
        name_part(t, part, &of, 1, a->head_count, t->adapter[t->adapter_count - 1].name);
    }
}

/* The adapter is saved as its FP32 masters: what the forward uses is their BF16 rounding, which every reader makes the same. */
static tdm_status tensors_make(tdm_optimizer *o, tdm_peft_names modules, const char *prefix, tensors *t, tdm_error *err)
{
    const tdm_adapter *a = o->adapter;
    *t = (tensors){.of = o, .prefix = prefix, .names = modules};
    tdm_status st = see_state(t, err);
    if (st != TDM_OK) goto fail;
    int64_t in_layer = 0;
    for (int p = 0; p < TDM_PROJ_COUNT; p++) in_layer += a->modules[p];
    const size_t most = (size_t)(a->layers * in_layer) + 1, names = OPTIMIZER_PARTS * (2 * most + 1) + 1;
    const float *master = (const float *)(const void *)t->state; /* masters come first */
    t->pair = calloc(most, sizeof *t->pair);
    t->optimizer = calloc(names, sizeof *t->optimizer);
    t->name = calloc(names, sizeof *t->name);
    if (!t->pair || !t->optimizer || !t->name) goto out_of_memory;
    for (int64_t l = 0; l < a->layers; l++)
        for (int64_t i = 0; i < TDM_PROJ_COUNT * tdm_max_i64(1, modules.experts); i++) {
            const int p = (int)(i / tdm_max_i64(1, modules.experts));
            const int64_t expert = i % tdm_max_i64(1, modules.experts);
            if (expert >= a->modules[p]) continue;
            const float *m = master + l * a->layer_count + expert * a->step[p];
            t->pair[t->pairs++] = (tdm_peft_pair){.layer = l, .proj = (tdm_proj)p, .expert = expert,
                                                  .a = {m + a->offset_a[p], TDM_DTYPE_F32, a->spec.rank, a->k[p], a->k[p]},
                                                  .b = {m + a->offset_b[p], TDM_DTYPE_F32, a->n[p], a->spec.rank, a->spec.rank}};
        }
    tdm_cview head = {0};
    if (a->head_count > 0) head = (tdm_cview){master + a->head_first, TDM_DTYPE_F32, 1, a->head_count, a->head_count};
    t->adapter = tdm_peft_entries(t->names, t->pair, t->pairs, head, &t->adapter_count);
    if (!t->adapter) goto out_of_memory;
    name_optimizer(t);
    return TDM_OK;
out_of_memory:
    st = TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the checkpoint's tables");
fail:
    tensors_free(t);
    *t = (tensors){0};
    return st;
}

static json_t *adapter_config(const tdm_job *j, const tdm_adapter_spec *s)
{
    tdm_peft_config c = {.names = tdm_peft_names_of(j->session.config), .rank = s->rank, .alpha = (double)s->alpha, .dropout = j->r->adapter.dropout,
                         .rslora = s->rslora, .head = s->head};
    memcpy(c.targets, s->target, sizeof c.targets);
    snprintf(c.base_model, sizeof c.base_model, "%s", j->r->model.path);
    return tdm_peft_config_json(&c);
}

/* What is trained: the policy (or what stands in its place), and ppo's critic; the optimizer's tensors of both in one list. */
enum { POLICY, CRITIC, TRAINED };
typedef struct trained {
    tensors of[TRAINED];
    json_t *config[TRAINED];
    tdm_st_entry *optimizer;
    int64_t optimizer_count;
} trained;

static void trained_free(trained *t)
{
    for (int i = 0; i < TRAINED; i++) {
        tensors_free(&t->of[i]);
        json_decref(t->config[i]);
    }
    free(t->optimizer);
}

static tdm_status trained_make(tdm_job *j, trained *t, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_optimizer *const optimizers[TRAINED] = {&j->session.optimizer, tdm_job_ppo(j) ? &j->session.role[TDM_JOB_CRITIC].optimizer : NULL};
    static const char *const prefixes[TRAINED] = {"", "critic."};
    *t = (trained){0};
    for (int i = 0; i < TRAINED && optimizers[i]; i++) {
        TDM_TRY(st, tensors_make(optimizers[i], tdm_peft_names_of(j->session.config), prefixes[i], &t->of[i], err), done);
        t->config[i] = adapter_config(j, &optimizers[i]->adapter->spec);
        if (!t->config[i]) goto out_of_memory;
    }
    t->optimizer = calloc((size_t)(t->of[POLICY].optimizer_count + t->of[CRITIC].optimizer_count) + 1, sizeof *t->optimizer);
    if (!t->optimizer) goto out_of_memory;
    for (int i = 0; i < TRAINED; i++)
        for (int64_t k = 0; k < t->of[i].optimizer_count; k++) t->optimizer[t->optimizer_count++] = t->of[i].optimizer[k];
done:
    return st;
out_of_memory:
    return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the checkpoint");
}

tdm_status tdm_job_save(tdm_job *j, tdm_error *err)
{
    tdm_status st = TDM_OK;
    trained t = {0};
    char *recipe = NULL;
    size_t recipe_len;
    tdm_checkpoint_state state = {.step = j->step, .data_position = j->data_position, .seed = (uint64_t)j->r->seed, .base_hash = j->base_hash};
    if (j->saved_step == j->step) return TDM_OK;
    TDM_TRY(st, trained_make(j, &t, err), done);
    TDM_TRY(st, tdm_recipe_text(j->r, &recipe, &recipe_len, err), done);
    state.recipe = json_pack("{s:s}", "yaml", recipe);
    state.counters = json_pack("{s:I,s:I,s:I,s:f,s:I}", "updates", (json_int_t)j->session.optimizer.updates, "skipped", (json_int_t)j->skipped,
                               "best_step", (json_int_t)j->best_step, "best_value", j->best_value, "stale", (json_int_t)j->stale);
    const bool follows = j->r->train.use_adaptive_entropy;
    if (!state.recipe || !state.counters || (follows && json_object_set_new(state.counters, "entropy_coef", json_real(j->entropy_coef))) ||
        (follows && j->entropy_known && json_object_set_new(state.counters, "last_entropy", json_real(j->last_entropy))) ||
        (tdm_job_ppo(j) && json_object_set_new(state.counters, "critic_updates", json_integer(j->session.role[TDM_JOB_CRITIC].optimizer.updates)))) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the checkpoint");
        goto done;
    }
    state.recipe_hash = tdm_checkpoint_recipe_hash(state.recipe);
    /* metrics first: a checkpoint that exists finds every step before it in the file */
    TDM_TRY(st, tdm_metrics_sync(&j->metrics, err), done);
    const tdm_checkpoint_parts parts = {.state = &state, .adapter = t.of[POLICY].adapter, .adapter_count = t.of[POLICY].adapter_count,
                                        .adapter_config = t.config[POLICY], .critic = t.of[CRITIC].adapter, .critic_count = t.of[CRITIC].adapter_count,
                                        .critic_config = t.config[CRITIC], .optimizer = t.optimizer, .optimizer_count = t.optimizer_count,
                                        .best = j->best_step};
    TDM_TRY(st, tdm_checkpoint_write(j->checkpoints, &parts, j->r->checkpoint.keep, err), done);
    j->saved_step = j->step;
done:
    free(recipe);
    json_decref(state.recipe);
    json_decref(state.counters);
    trained_free(&t);
    return st;
}

/* ---- Starting ------------------------------------------------------------------------------------------------------------------ */

static tdm_status load_optimizer(tdm_job *j, const tdm_checkpoint *c, tdm_error *err)
{
    tdm_status st = TDM_OK;
    trained t = {0};
    TDM_TRY(st, trained_make(j, &t, err), done);
    for (int64_t i = 0; i < t.optimizer_count; i++) {
        const tdm_st_entry *want = &t.optimizer[i];
        const tdm_st_tensor *have = tdm_safetensors_find(c->optimizer, want->name);
        const size_t bytes = (size_t)(want->shape[0] * want->shape[1]) * (want->dtype == TDM_ST_U8 ? 1 : sizeof(float));
        if (!have || have->dtype != want->dtype || have->bytes != bytes) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, c->path, "is it a checkpoint of this recipe?", "optimizer.safetensors: %s is %s", want->name,
                          have ? "of another shape" : "missing");
            goto done;
        }
        memcpy((void *)(uintptr_t)want->data, have->data, bytes);
    }
    for (int i = 0; i < TRAINED && t.of[i].of; i++) TDM_TRY(st, put_state(&t.of[i], err), done);
done:
    trained_free(&t);
    return st;
}

static tdm_status check_recipe(tdm_job *j, const tdm_checkpoint *c, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_recipe *then = NULL;
    const char *yaml = json_string_value(json_object_get(c->state.recipe, "yaml"));
    if (!yaml) return TDM_FAIL(err, TDM_ERR_INPUT, c->path, "was it written by another program?", "state.json holds no recipe");
    TDM_TRY(st, tdm_recipe_parse(&then, yaml, strlen(yaml), c->path, NULL, 0, err), done);
    TDM_TRY(st, tdm_recipe_compare(then, j->r, err), done);
done:
    tdm_recipe_close(then);
    return st;
}

static tdm_status resume_from(tdm_job *j, const char *path, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_checkpoint c = {0};
    TDM_TRY(st, tdm_checkpoint_open(&c, path, err), done);
    TDM_TRY(st, check_recipe(j, &c, err), done);
    if (c.state.base_hash != j->base_hash) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, path, "give the model the run began with", "the base weights are not those of the checkpoint (hash %016" PRIx64 ", now %016" PRIx64 ")",
                      c.state.base_hash, j->base_hash);
        goto done;
    }
    TDM_TRY(st, load_optimizer(j, &c, err), done);
    j->session.optimizer.updates = json_integer_value(json_object_get(c.state.counters, "updates"));
    if (tdm_job_ppo(j)) j->session.role[TDM_JOB_CRITIC].optimizer.updates = json_integer_value(json_object_get(c.state.counters, "critic_updates"));
    j->skipped = json_integer_value(json_object_get(c.state.counters, "skipped"));
    if (j->r->train.use_adaptive_entropy) j->entropy_coef = json_number_value(json_object_get(c.state.counters, "entropy_coef"));
    j->entropy_known = json_object_get(c.state.counters, "last_entropy") != NULL;
    j->last_entropy = json_number_value(json_object_get(c.state.counters, "last_entropy"));
    j->best_step = json_integer_value(json_object_get(c.state.counters, "best_step"));
    j->best_value = json_number_value(json_object_get(c.state.counters, "best_value"));
    j->stale = json_integer_value(json_object_get(c.state.counters, "stale"));
    j->step = j->saved_step = c.state.step;
    j->data_position = c.state.data_position;
    /* later ones would pass for the newest of the run that begins here */
    TDM_TRY(st, tdm_checkpoint_set_aside(j->checkpoints, j->step, err), done);
    if (tdm_fs_is_dir(j->checkpoints)) TDM_TRY(st, tdm_checkpoint_link_best(j->checkpoints, j->best_step, err), done);
done:
    tdm_checkpoint_close(&c);
    return st;
}

/* DIR may be a run folder, its checkpoints/ or one checkpoint. */
static tdm_status find_checkpoint(const tdm_job *j, char path[TDM_PATH_BYTES], bool *found, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char dir[TDM_PATH_BYTES], probe[TDM_PATH_BYTES];
    const char *from = j->o->resume_dir ? j->o->resume_dir : j->r->output;
    *found = false;
    TDM_TRY(st, tdm_fs_join(probe, from, "state.json", err), done);
    if (tdm_fs_is_file(probe)) {
        snprintf(path, TDM_PATH_BYTES, "%s", from);
        *found = true;
        goto done;
    }
    TDM_TRY(st, tdm_fs_join(dir, from, "checkpoints", err), done);
    if (!tdm_fs_is_dir(dir)) snprintf(dir, sizeof dir, "%s", from);
    const int64_t step = tdm_checkpoint_newest(dir);
    if (step < 0) goto done;
    TDM_TRY(st, tdm_checkpoint_path(path, dir, step, err), done);
    *found = true;
done:
    return st;
}

static tdm_status write_plan(const tdm_job *j, tdm_error *err)
{
    tdm_report_region region[2 * TDM_PLAN_ITEMS];
    int64_t n = 0;
    const tdm_plan *p = &j->session.plan;
    for (int phase = TDM_PHASE_ROLLOUT; phase <= TDM_PHASE_TRAIN; phase++)
        for (int i = 0; i < p->count; i++) {
            const tdm_plan_item *it = &p->item[i];
            if (p->phase_bytes[phase] == 0) continue;
            if (it->phase == TDM_PHASE_ALWAYS || it->phase == TDM_PHASE_HOST || it->phase == (tdm_phase)phase)
                region[n++] = (tdm_report_region){phase == TDM_PHASE_ROLLOUT ? "rollout" : "train", it->name, it->bytes};
        }
    return tdm_report_memory_write(j->r->output, j->session.budget_bytes, region, n, err);
}

/* From now on this process writes the folder: the recipe as resolved, the plan, the logs opened behind what they keep. */
static tdm_status open_logs(tdm_job *j, const char *metrics, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char path[TDM_PATH_BYTES];
    TDM_TRY(st, tdm_fs_join(path, j->r->output, "recipe.yaml", err), done);
    TDM_TRY(st, tdm_recipe_write(j->r, path, err), done);
    TDM_TRY(st, write_plan(j, err), done);
    TDM_TRY(st, tdm_metrics_open(&j->metrics, metrics, err), done);
    if (j->r->log.tensorboard) {
        TDM_TRY(st, tdm_fs_join(path, j->r->output, "tensorboard", err), done);
        TDM_TRY(st, tdm_tensorboard_open(&j->tensorboard, path, j->step + 1, err), done);
    }
done:
    return st;
}

tdm_status tdm_job_folder(tdm_job *j, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char checkpoint[TDM_PATH_BYTES], metrics[TDM_PATH_BYTES], where[TDM_RECIPE_WHERE];
    bool found = false;
    TDM_TRY(st, tdm_fs_join(j->checkpoints, j->r->output, "checkpoints", err), done);
    TDM_TRY(st, tdm_fs_join(metrics, j->r->output, "metrics.jsonl", err), done);
    if (!j->o->resume && tdm_fs_is_file(metrics)) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(j->r, "output", where), "continue it with --resume, or name another output",
                      "%s holds a run already", j->r->output);
        goto done;
    }
    if (j->o->resume) TDM_TRY(st, find_checkpoint(j, checkpoint, &found, err), done);
    if (j->o->resume_dir && !found) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, j->o->resume_dir, "give a run folder or a checkpoint, or leave =DIR away", "no complete checkpoint there");
        goto done;
    }
    TDM_TRY(st, tdm_fs_mkdirs(j->r->output, err), done);
    if (found) TDM_TRY(st, resume_from(j, checkpoint, err), done);
    /* steps after the checkpoint (all of them, when the run died before its first) are done again and logged once */
    TDM_TRY(st, tdm_metrics_truncate(metrics, j->step, err), done);
    TDM_TRY(st, tdm_rollout_log_truncate(j->r->output, j->step, err), done);
    TDM_TRY(st, open_logs(j, metrics, err), done);
done:
    return st;
}
