#include "runtime/run/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static tdm_limits limits_of(const tdm_session *s)
{
    const tdm_session_spec *p = &s->spec;
    const tdm_model_config *c = s->config;
    return (tdm_limits){.tokens = tdm_max_i64(p->rollout ? p->engine.batch_tokens : 0, p->train ? p->trainer.micro_tokens : 0),
                        .width = tdm_proj_widest(c),
                        .vocab = c->vocab,
                        .head_rows = tdm_max_i64(p->rollout ? p->engine.head_rows : 0, p->train ? p->trainer.head_rows : 0),
                        .heads = c->heads,
                        .head_dim = c->head_dim,
                        .rank = p->trainer.rank,
                        .context = tdm_max_i64(p->rollout ? p->engine.context : 0, p->train ? p->trainer.context : 0)};
}

/* What the workspace is made for: every model that uses the stream. */
static tdm_limits limits_of_all(const tdm_session *s)
{
    tdm_limits limits = limits_of(s);
    tdm_guests_limits(s, &limits);
    return limits;
}

static size_t adapter_bytes(const tdm_session *s)
{
    if (!s->has_adapter) return 0;
    return tdm_optimizer_bytes(&s->adapter, s->spec.optimizer ? s->spec.optimizer->kind : TDM_OPTIMIZER_SGD);
}

/* The table, for the choices that stand in s->spec. */
static tdm_status make_plan(tdm_session *s, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_session_spec *p = &s->spec;
    tdm_plan *plan = &s->plan;
    const tdm_limits limits = limits_of_all(s);
    size_t weights, loading = tdm_weights_loading_bytes(s->config, p->threads, s->be->device);
    TDM_TRY(st, tdm_weights_bytes(s->file, &p->weights, &weights, err), done);
    tdm_plan_init(plan);
    plan->device = s->be->device;
    s->item_weights = tdm_plan_add(plan, TDM_PHASE_ALWAYS, "weights", weights, p->weights.scheme == TDM_SCHEME_BF16 ? "use an FP8 scheme in model.weights" : "");
    s->item_adapter = tdm_plan_add(plan, TDM_PHASE_ALWAYS, "adapter, optimizer", adapter_bytes(s), "lower adapter.rank");
    tdm_roles_plan(s);
    s->item_workspace = tdm_plan_add(plan, TDM_PHASE_ALWAYS, "workspace", s->be->workspace_bytes(&limits, p->threads), "lower train.micro_tokens");
    s->item_tables = tdm_plan_add(plan, TDM_PHASE_ALWAYS, "RoPE tables", tdm_model_table_bytes(s->config, limits_of(s).context), "");
    size_t host = p->host_bytes, offloaded = 0;
    if (p->rollout) {
        s->item_kv = tdm_plan_add(plan, TDM_PHASE_ROLLOUT, "kv pages", tdm_kv_cache_bytes(s->be, s->config, p->kv_dtype, p->engine.kv_pages),
                                  "lower memory.kv or rollout.max_sequences");
        s->item_rollout = tdm_plan_add(plan, TDM_PHASE_ROLLOUT, "decode buffers", tdm_engine_buffer_bytes(s->be, s->config, &p->engine),
                                       "lower rollout.max_sequences");
        host += tdm_engine_host_bytes(s->be, s->config, &p->engine);
    }
    if (p->train) {
        const tdm_trainer_bytes b = tdm_trainer_count(s->be, s->config, p->kv_dtype, &p->trainer);
        s->item_tape = tdm_plan_add(plan, TDM_PHASE_TRAIN, "saved activations", b.tape,
                                    p->trainer.checkpointing || p->forward_only ? "lower train.micro_tokens" : "set train.checkpointing: layer");
        s->item_train_kv = tdm_plan_add(plan, TDM_PHASE_TRAIN, "keys, values", b.kv, "lower train.micro_tokens");
        s->item_scratch = tdm_plan_add(plan, TDM_PHASE_TRAIN, "gradients, scratch, logits", b.scratch, "lower train.micro_tokens");
        host += b.host;
        offloaded = b.offload;
    }
    TDM_TRY(st, tdm_guests_plan(s, &host, &loading, err), done);
    const size_t embedding = tdm_weights_host_bytes(s->file, &p->weights);
    if (embedding) tdm_plan_add(plan, TDM_PHASE_HOST, "input embedding", embedding, "");
    if (offloaded) tdm_plan_add(plan, TDM_PHASE_HOST, "inputs of layers", offloaded, "lower train.micro_tokens");
    if (s->be->device) tdm_plan_add(plan, TDM_PHASE_DRIVER, s->there ? "context, code, graphs" : "context, code, graphs; typical", s->driver_bytes, "");
    tdm_plan_add(plan, TDM_PHASE_HOST, "program, tokenizer, data", tdm_process_resident_bytes(), "");
    /* what loading takes is given back before the sequences and tables are made */
    tdm_plan_add(plan, TDM_PHASE_HOST, "sequences, tables", host > loading ? host : loading, "lower rollout.prompts_per_step or generations");
    tdm_plan_layout(plan);
done:
    return st;
}

/* Pages: what the recipe says, else as many as are useful; fewer when the budget is tight, down to one sequence at a time. */
static tdm_status choose_pages(tdm_session *s, tdm_error *err)
{
    tdm_session_spec *p = &s->spec;
    tdm_status st = TDM_OK;
    if (!p->rollout) return make_plan(s, err);
    const int64_t least = tdm_engine_min_pages(s->be, &p->engine), most = tdm_engine_max_pages(s->be, &p->engine);
    const size_t page = tdm_kv_cache_bytes(s->be, s->config, p->kv_dtype, 1);
    p->engine.kv_pages = most;
    if (p->kv_bytes > 0) p->engine.kv_pages = tdm_max_i64(least, (int64_t)((size_t)p->kv_bytes / page));
    TDM_TRY(st, make_plan(s, err), done);
    if (p->kv_bytes > 0 || s->plan.total_bytes <= s->budget_bytes) goto done;
    const size_t over = s->plan.total_bytes - s->budget_bytes + TDM_PLAN_ALIGN;
    p->engine.kv_pages = tdm_max_i64(least, p->engine.kv_pages - (int64_t)(over / page) - 1);
    TDM_TRY(st, make_plan(s, err), done);
done:
    return st;
}

/* Rows of a tile of logits: a device is fast with many, so there it gets up to HEAD_ROWS_MOST where they fit the budget. */
enum { HEAD_ROWS_MOST = 512 };
static tdm_status choose_head_rows(tdm_session *s, tdm_error *err)
{
    tdm_session_spec *p = &s->spec;
    tdm_status st = TDM_OK;
    const int64_t least = p->trainer.head_rows;
    if (p->train && s->be->device)
        for (int64_t rows = HEAD_ROWS_MOST; rows > least; rows /= 2) {
            p->trainer.head_rows = rows;
            TDM_TRY(st, choose_pages(s, err), done);
            if (s->plan.total_bytes <= s->budget_bytes) goto done;
        }
    p->trainer.head_rows = least;
    st = choose_pages(s, err);
done:
    return st;
}

static tdm_status choose(tdm_session *s, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_session_spec *p = &s->spec;
    const int64_t least = p->trainer.head_rows;
    if (p->checkpointing_auto) p->trainer.checkpointing = false;
    TDM_TRY(st, choose_head_rows(s, err), done);
    if (p->checkpointing_auto && p->train && !p->forward_only && s->plan.total_bytes > s->budget_bytes) {
        p->trainer.checkpointing = true;
        p->trainer.head_rows = least;
        TDM_TRY(st, choose_head_rows(s, err), done);
    }
    if (p->guest_count == 0) goto done;
    tdm_guests_choose_pages(s);
    st = make_plan(s, err);
done:
    return st;
}

static tdm_status describe_adapters(tdm_session *s, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_session_spec *p = &s->spec;
    s->has_adapter = p->adapter || p->adapter_dir;
    if (s->has_adapter) TDM_TRY(st, tdm_session_describe(s, p->adapter_dir, p->adapter, &s->peft, &s->adapter, err), done);
    TDM_TRY(st, tdm_roles_describe(s, err), done);
    p->engine.rank = p->trainer.rank = s->has_adapter ? s->adapter.spec.rank : 0;
    for (int i = 0; i < s->role_count; i++) p->trainer.rank = tdm_max_i64(p->trainer.rank, s->role[i].adapter.spec.rank);
done:
    return st;
}

/* What the driver takes after the plan is made: kernels load when they are first launched (56 MiB in all, as seen on Hopper), and recorded
 * graphs hold their launches' arguments in device memory, about 256 KiB for a layer's over the buckets of a run, once for each of
 * the adapters its engine runs with. */
static size_t late_bytes(const tdm_session *s)
{
    const size_t code = (size_t)56 << 20, runs = (size_t)(s->config->layers * (s->spec.without_adapter ? 2 : 1) + tdm_guests_layers(s));
    return code + (s->spec.rollout && s->be->capture_begin ? runs * (256u << 10) : 0);
}

static tdm_status available_on_device(const tdm_session *s, size_t *bytes, tdm_error *err)
{
    if (!s->there)
        return TDM_FAIL(err, TDM_ERR_RECIPE, s->spec.where.budget, "give memory.budget a size", "memory.budget: auto asks the device, and there is none");
    const tdm_status st = s->be->available(bytes, err);
    *bytes += s->driver_bytes;
    return st;
}

/* What there is to spend, and what the driver takes of it. */
static tdm_status measure_machine(tdm_session *s, tdm_error *err)
{
    tdm_status st = TDM_OK;
    size_t available = tdm_machine_available_bytes() + tdm_process_resident_bytes();
    if (s->be->device) {
        TDM_TRY(st, s->be->overhead(&s->driver_bytes, err), done);
        if (s->spec.budget_bytes <= 0) TDM_TRY(st, available_on_device(s, &available, err), done);
        s->driver_bytes += late_bytes(s);
    }
    s->budget_bytes = s->spec.budget_bytes > 0 ? (size_t)s->spec.budget_bytes : available;
done:
    return st;
}

size_t tdm_session_peak_bytes(tdm_session *s)
{
    size_t beside;
    if (!s->be->device) return tdm_process_peak_bytes();
    if (s->be->overhead(&beside, NULL) == TDM_OK && s->slab.bytes + beside > s->peak_bytes) s->peak_bytes = s->slab.bytes + beside;
    return s->peak_bytes;
}

tdm_status tdm_session_plan(tdm_session *s, const tdm_session_spec *spec, tdm_error *err)
{
    tdm_status st = TDM_OK;
    memset(s, 0, sizeof *s);
    s->spec = *spec;
    tdm_session_spec *p = &s->spec;
    s->there = true;
    p->weights.threads = p->threads;
    const char *asked = p->where.device;
    TDM_TRY(st, p->plan_only ? tdm_backend_plan(p->device, asked, &s->be, &s->there, err) : tdm_backend_open(p->device, asked, &s->be, err), done);
    TDM_TRY(st, p->random_weights ? tdm_model_file_open_random(&s->file, p->model, err) : tdm_model_file_open(&s->file, p->model, err), done);
    s->config = tdm_model_file_config(s->file);
    if (!s->be->device || s->config->tied_head) p->weights.embedding_on_host = false; /* a CPU's memory is the host's; a tied head is refused by the caller */
    if (s->be->device && s->config->head_dim % 8) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, p->model, "use device: cpu", "heads are %lld wide, and the device's kernels take multiples of 8",
                      (long long)s->config->head_dim);
        goto done;
    }
    TDM_TRY(st, tdm_weights_check_options(s->config, &p->weights, &p->where.weights, err), done);
    TDM_TRY(st, describe_adapters(s, err), done);
    TDM_TRY(st, tdm_guests_check(s, err), done);
    p->trainer.forward_only = p->forward_only;
    TDM_TRY(st, measure_machine(s, err), done);
    TDM_TRY(st, choose(s, err), done);
done:
    return st;
}

static tdm_status put_masters(tdm_session *s, const float *master, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, s->be->upload(s->stream, s->optimizer.master, master, (size_t)s->adapter.count * sizeof *master, err), done);
    TDM_TRY(st, tdm_optimizer_publish(&s->optimizer, err), done);
    TDM_TRY(st, s->be->stream_sync(s->stream, err), done);
done:
    return st;
}

tdm_status tdm_session_take_adapter(tdm_session *s, const tdm_peft *peft, tdm_error *err)
{
    float *master = NULL; /* owned here */
    tdm_status st = tdm_session_masters(&s->adapter, peft, s->spec.adapter_seed, &master, err);
    if (st == TDM_OK) st = put_masters(s, master, err);
    free(master);
    return st;
}

static tdm_status load_adapter(tdm_session *s, tdm_error *err)
{
    if (!s->has_adapter) return TDM_OK;
    const tdm_session_spec *p = &s->spec;
    const tdm_optimizer_config none = {.kind = TDM_OPTIMIZER_SGD};
    tdm_status st = tdm_optimizer_init(&s->optimizer, p->optimizer ? p->optimizer : &none, s->be, s->stream, &s->adapter,
                                       tdm_slab_at(&s->slab, &s->plan, s->item_adapter), err);
    if (st == TDM_OK) st = tdm_session_take_adapter(s, s->peft, err);
    tdm_peft_close(s->peft);
    s->peft = NULL;
    return st;
}

tdm_status tdm_session_load(tdm_session *s, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_session_spec *p = &s->spec;
    tdm_plan *plan = &s->plan;
    TDM_TRY(st, tdm_plan_check(plan, s->budget_bytes, p->where.budget, err), done);
    TDM_TRY(st, tdm_slab_open(&s->slab, s->be, plan, err), done);
    TDM_TRY(st,
            s->be->stream_open(&s->stream, tdm_slab_at(&s->slab, plan, s->item_workspace), plan->item[s->item_workspace].bytes,
                               &(tdm_stream_options){.threads = p->threads, .exact = p->exact}, err),
            done);
    TDM_TRY(st,
            tdm_weights_open(&s->weights, s->file, &p->weights,
                             &(tdm_region){tdm_slab_at(&s->slab, plan, s->item_weights), plan->item[s->item_weights].bytes, s->be, s->stream}, err),
            done);
    const int64_t positions = limits_of(s).context;
    TDM_TRY(st, tdm_model_open(&s->model, s->be, s->stream, s->weights, positions, p->kv_dtype,
                               tdm_slab_at(&s->slab, plan, s->item_tables), err),
            done);
    TDM_TRY(st, load_adapter(s, err), done);
    TDM_TRY(st, tdm_roles_load(s, err), done);
    if (p->rollout)
        TDM_TRY(st,
                tdm_engine_open(&s->engine, &s->model, &p->engine, tdm_slab_at(&s->slab, plan, s->item_kv),
                                tdm_slab_at(&s->slab, plan, s->item_rollout), err),
                done);
    if (p->train) {
        const tdm_trainer_regions r = {.tape = tdm_slab_at(&s->slab, plan, s->item_tape),
                                       .kv = tdm_slab_at(&s->slab, plan, s->item_train_kv),
                                       .scratch = tdm_slab_at(&s->slab, plan, s->item_scratch)};
        TDM_TRY(st, tdm_trainer_open(&s->trainer, &s->model, &p->trainer, &r, err), done);
    }
    TDM_TRY(st, tdm_guests_load(s, err), done);
done:
    return st;
}

void tdm_session_close(tdm_session *s)
{
    tdm_guests_close(s);
    tdm_trainer_close(s->trainer);
    tdm_engine_close(s->engine);
    tdm_weights_close(s->weights);
    if (s->stream) s->be->stream_close(s->stream);
    tdm_slab_close(&s->slab);
    tdm_peft_close(s->peft);
    tdm_roles_close(s);
    tdm_model_file_close(s->file);
    memset(s, 0, sizeof *s);
}

const tdm_adapter *tdm_session_adapter(const tdm_session *s) { return s->has_adapter ? &s->adapter : NULL; }

void tdm_session_enter(tdm_session *s, tdm_phase phase)
{
    tdm_guests_leave(s, phase); /* the layouts differ in who wrote last, not in where anything lies */
    tdm_slab_flip(&s->slab, &s->plan);
}
