/* From a recipe to an opened job: text side, data, rewards, then the plan, then the bytes. */
#include "runtime/run/job_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void settle_sizes(tdm_job *j)
{
    const tdm_recipe *r = j->r;
    if (tdm_job_supervised(j)) {
        j->groups = r->train.batch_size;
        j->samples = tdm_job_prefers(j) ? 2 * j->groups : j->groups; /* of a pair both; of kto each prompt with another's answer too */
        j->context = r->data.max_prompt_tokens + r->rollout.max_new_tokens;
        return;
    }
    j->groups = r->rollout.prompts_per_step;
    j->samples = j->groups * (tdm_job_replays(j) ? j->replay.largest_group : r->rollout.generations);
    j->context = tdm_job_replays(j) ? j->replay.longest_prompt + j->replay.longest_completion : r->data.max_prompt_tokens + r->rollout.max_new_tokens;
}

static void settle_config(tdm_job *j)
{
    const tdm_recipe *r = j->r;
    const tdm_recipe_train *t = &r->train;
    j->sampling = (tdm_sampling){.temperature = (float)r->rollout.temperature, .top_p = (float)r->rollout.top_p, .min_p = (float)r->rollout.min_p,
                                 .repetition_penalty = (float)r->rollout.repetition_penalty, .top_k = (int32_t)r->rollout.top_k};
    if (tdm_job_supervised(j)) j->sampling = (tdm_sampling){.temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f};
    j->loss = (tdm_loss_config){.kind = tdm_job_prefers(j) ? TDM_LOSS_FROZEN : tdm_job_sft(j) ? TDM_LOSS_SFT : t->loss,
                                .aggregation = tdm_job_supervised(j) ? TDM_AGGREGATION_AUTO : t->aggregation, .ratio_of_sequence = t->importance.ratio == TDM_RATIO_SEQUENCE,
                                .clip_low = t->clip_low, .clip_high = t->clip_high, .kl = t->kl_in == TDM_KL_IN_LOSS ? t->kl : 0.0, .kl_kind = t->kl_type, .delta = t->delta, .off_policy_threshold = t->off_policy_threshold,
                                .kl_ratio = t->kl_bias_correction, .kl_input_clamp = t->kl_input_clamp, .kl_output_clamp = t->kl_output_clamp, .sapo = t->sapo, .vespo = t->vespo,
                                .correction = t->importance.correction, .level = t->importance.level, .floor = t->importance.floor,
                                .cap = t->importance.cap, .max_new_tokens = r->rollout.max_new_tokens};
    j->entropy_coef = t->entropy_coef;
    const tdm_recipe_preference *p = &t->preference;
    j->preference = (tdm_preference_config){.kind = t->algorithm == TDM_ALGORITHM_ORPO     ? TDM_PREFERENCE_ORPO
                                                    : t->algorithm == TDM_ALGORITHM_KTO    ? TDM_PREFERENCE_KTO
                                                    : t->algorithm == TDM_ALGORITHM_REWARD ? TDM_PREFERENCE_REWARD
                                                                                           : p->loss,
                                            .beta = p->beta, .smoothing = p->label_smoothing, .sft = p->sft, .desirable = p->desirable_weight,
                                            .undesirable = p->undesirable_weight, .center = p->center_rewards_coefficient};
    const int64_t updates = tdm_job_supervised(j) ? t->minibatches : t->epochs_per_rollout * t->minibatches;
    j->optimizer = (tdm_optimizer_config){.kind = t->optimizer, .schedule = t->schedule, .lr = t->lr, .beta1 = t->betas[0], .beta2 = t->betas[1],
                                          .eps = t->eps, .weight_decay = t->weight_decay, .max_grad_norm = t->max_grad_norm,
                                          .warmup_updates = t->warmup_steps * updates, .total_updates = t->steps * updates};
    j->critic_optimizer = j->optimizer;
    j->critic_optimizer.lr = t->critic.lr;
    j->optimizer.total_updates -= t->critic.warmup * updates; /* steps without the policy's update */
}

static bool truncates(const tdm_sampling *s) { return s->temperature > 0.0f && (s->top_k > 0 || s->top_p < 1.0f || s->min_p > 0.0f); }

static tdm_sequences_spec store_spec(const tdm_job *j, const tdm_model_config *c)
{
    const tdm_recipe *r = j->r;
    if (tdm_job_supervised(j)) return (tdm_sequences_spec){.count = j->samples, .prompt = 1, .completion = j->context - 1, .vocab = c->vocab, .train = true};
    const bool replay = tdm_job_replays(j);
    return (tdm_sequences_spec){.count = j->samples, .prompt = replay ? j->replay.longest_prompt : r->data.max_prompt_tokens,
                                .completion = replay ? j->replay.longest_completion : r->rollout.max_new_tokens, .vocab = c->vocab,
                                .support = !replay && truncates(&j->sampling), .train = true, .advantages = tdm_job_ppo(j) || r->train.kl_in == TDM_KL_IN_TOKEN || (tdm_job_distills(j) && !tdm_job_distills_full(j)),
                                .keep = r->train.importance.rejects.count > 0 || r->train.importance.rejects.veto > 0.0, .policy = r->train.top_entropy_quantile < 1.0, .critic = tdm_job_ppo(j),
                                .routes = r->train.routing == TDM_ROUTING_REPLAY ? c->layers * c->experts_used : 0,
                                .mask = replay ? j->replay.masked : tdm_recipe_has_environment(r)};
}

static tdm_status check_context(const tdm_job *j, const tdm_model_config *c, tdm_error *err)
{
    char where[TDM_RECIPE_WHERE];
    if (j->context <= c->context) return TDM_OK;
    return TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(j->r, "rollout.max_new_tokens", where), "lower data.max_prompt_tokens or rollout.max_new_tokens",
                    "prompts and completions of %" PRId64 " tokens pass the model's context of %" PRId64, j->context, c->context);
}

/* Promise 3: what would make a log-probability depend on its neighbours is refused. The schema has refused what the recipe alone shows. */
static tdm_status check_exact(const tdm_job *j, tdm_error *err)
{
    char where[TDM_RECIPE_WHERE];
    if (j->r->numerics == TDM_NUMERICS_EXACT && tdm_weights_batch_dependent(j->session.weights))
        return TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(j->r, "numerics", where), "use fp8_channel or fp8_block, static activations, or numerics: fast",
                        "exact cannot take the model's dynamic per-tensor activation scales: they depend on the batch");
    return TDM_OK;
}

/* Where the recipe chose what the session may refuse. */
typedef struct places {
    char device[TDM_RECIPE_WHERE], budget[TDM_RECIPE_WHERE], first_bf16[TDM_RECIPE_WHERE], last_bf16[TDM_RECIPE_WHERE], keep_bf16[TDM_RECIPE_WHERE], fp8_head[TDM_RECIPE_WHERE];
} places;

static void add_critic(tdm_job *j)
{
    const tdm_recipe *r = j->r;
    const tdm_recipe_critic *c = &r->train.critic;
    tdm_role_spec *s = &j->role[j->role_count++];
    *s = (tdm_role_spec){.name = "critic: adapter, head, optimizer", .hint = "lower train.critic.rank", .dir = c->init[0] ? c->init : NULL,
                         .adapter = {.rank = c->rank, .alpha = (float)c->alpha, .rslora = r->adapter.rslora, .head = true},
                         .optimizer = &j->critic_optimizer, .seed = (uint64_t)r->seed + 1}; /* not the policy's A */
    memcpy(s->adapter.target, r->adapter.target, sizeof s->adapter.target);
}

static void session_spec(tdm_job *j, const tdm_model_config *c, tdm_session_spec *s, tdm_adapter_spec *adapter, places *where)
{
    const tdm_recipe *r = j->r;
    const bool rollout = !tdm_job_supervised(j) && !tdm_job_replays(j), offload = r->memory.offload == TDM_OFFLOAD_ACTIVATIONS;
    const tdm_sequences_spec store = store_spec(j, c);
    *adapter = (tdm_adapter_spec){.rank = r->adapter.rank, .alpha = (float)r->adapter.alpha, .rslora = r->adapter.rslora, .head = tdm_job_scores(j)};
    memcpy(adapter->target, r->adapter.target, sizeof adapter->target);
    *s = (tdm_session_spec){
        .device = r->device == TDM_DEVICE_AUTO ? NULL : tdm_device_names[r->device], /* NULL: the environment may still choose */
        .exact = r->numerics == TDM_NUMERICS_EXACT,
        .model = r->model.path,
        .random_weights = r->model.random_weights,
        .plan_only = j->o->plan,
        .weights = tdm_recipe_weights(r),
        .adapter_dir = r->adapter.init[0] ? r->adapter.init : NULL,
        .adapter = adapter,
        .optimizer = &j->optimizer,
        .adapter_seed = (uint64_t)r->seed,
        .roles = j->role,
        .role_count = j->role_count,
        .rollout = rollout,
        .train = true,
        .checkpointing_auto = r->train.checkpointing == TDM_CHECKPOINTING_AUTO && !offload,
        .kv_dtype = r->memory.kv_dtype,
        .kv_bytes = r->memory.kv_bytes,
        .budget_bytes = r->memory.budget_bytes,
        .where = {.device = tdm_recipe_where(r, "device", where->device),
                  .budget = tdm_recipe_where(r, "memory.budget", where->budget),
                  .weights = {.first_layers_bf16 = tdm_recipe_where(r, "model.first_layers_bf16", where->first_bf16),
                              .last_layers_bf16 = tdm_recipe_where(r, "model.last_layers_bf16", where->last_bf16),
                              .keep_bf16 = tdm_recipe_where(r, "model.keep_bf16", where->keep_bf16),
                              .fp8_head = tdm_recipe_where(r, r->model.lm_head == TDM_PRECISION_FP8 ? "model.lm_head" : "model.embedding", where->fp8_head)}},
        .host_bytes = tdm_sequences_bytes(&store) + tdm_job_models_bytes(j),
        .threads = (int)r->threads,
    };
    s->weights.embedding_on_host = r->memory.embedding == TDM_PLACE_HOST;
    const int64_t running = r->rollout.max_sequences > 0 ? r->rollout.max_sequences : 256;
    s->engine = (tdm_engine_spec){.sequences = tdm_min_i64(running, j->samples), .samples = j->samples, .requests = j->groups, .context = j->context,
                                  .batch_tokens = tdm_max_i64(512, tdm_min_i64(running, j->samples)),
                                  .head_rows = tdm_min_i64(128, tdm_min_i64(running, j->samples)), .turns = tdm_recipe_has_environment(r), .routes = r->train.routing == TDM_ROUTING_REPLAY};
    tdm_job_judges_need(j, s);
    const int64_t context = tdm_max_i64(j->context, j->scored_context), micro = tdm_max_i64(tdm_min_i64(r->train.micro_tokens, j->samples * context), context);
    s->trainer = (tdm_trainer_spec){.micro_tokens = micro, .sequences = tdm_min_i64(j->samples, tdm_max_i64(16, micro / 16)), .context = context,
                                    .head_rows = 128, .checkpointing = r->train.checkpointing == TDM_CHECKPOINTING_LAYER || offload, .offload = offload,
                                    .dropout = r->adapter.dropout > 0.0, .routes = r->train.routing == TDM_ROUTING_REPLAY, .distills = tdm_job_distills_full(j)};
}

static tdm_status refuse_adapter(const tdm_job *j, const char *key, const char *dir, const char *what, tdm_error *err)
{
    char where[TDM_RECIPE_WHERE];
    return TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(j->r, key, where), "leave the key away to take the adapter's own",
                    "the adapter in %s has another %s", dir, what);
}

/* A loaded adapter must be what the recipe describes: its rank, scale and targets go into the saved one. */
static tdm_status check_adapter(const tdm_job *j, tdm_error *err)
{
    char where[TDM_RECIPE_WHERE];
    const tdm_recipe_adapter *a = &j->r->adapter;
    const tdm_adapter_spec *s = &j->session.adapter.spec;
    const char *key = NULL, *what = NULL;
    const tdm_recipe_critic *critic = &j->r->train.critic;
    const tdm_adapter_spec *of = &j->session.role[TDM_JOB_CRITIC].adapter.spec;
    if (tdm_job_ppo(j) && critic->init[0]) {
        if (critic->rank && of->rank != critic->rank) key = "train.critic.rank", what = "rank";
        else if (critic->alpha != 0.0 && of->alpha != (float)critic->alpha) key = "train.critic.alpha", what = "alpha";
        if (key) return refuse_adapter(j, key, critic->init, what, err);
    }
    bool target[TDM_PROJ_COUNT];
    memcpy(target, a->target, sizeof target);
    const char *split = tdm_adapter_targets(j->session.config, target);
    if (split)
        return TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(j->r, "adapter.targets", where), "name all of its parts, or none",
                        "a part of %s is a target, which is one matrix in this model", split);
    if (j->r->train.routing == TDM_ROUTING_REPLAY && j->session.config->experts == 0)
        return TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(j->r, "train.routing", where), "remove it",
                        "train.routing: replay is of mixtures of experts, and this model is none");
    if (a->dropout > 0.0 && j->session.config->experts > 0 && (target[TDM_PROJ_GATE] || target[TDM_PROJ_UP] || target[TDM_PROJ_DOWN]))
        return TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(j->r, "adapter.dropout", where), "use dropout: 0, or targets: [q_proj, k_proj, v_proj, o_proj]",
                        "dropout on adapters of experts is not supported");
    if (!a->init[0]) return TDM_OK;
    if (s->rank != a->rank && tdm_recipe_given(j->r, "adapter.rank")) key = "adapter.rank", what = "rank";
    else if (s->alpha != (float)a->alpha && tdm_recipe_given(j->r, "adapter.alpha")) key = "adapter.alpha", what = "alpha";
    else if (s->rslora != a->rslora && tdm_recipe_given(j->r, "adapter.rslora")) key = "adapter.rslora", what = "rslora";
    else if (memcmp(s->target, target, sizeof s->target) != 0 && tdm_recipe_given(j->r, "adapter.targets")) key = "adapter.targets", what = "targets";
    return key ? refuse_adapter(j, key, a->init, what, err) : TDM_OK;
}

static tdm_status open_mixture(tdm_job *j, tdm_error *err)
{
    const tdm_recipe_data *d = &j->r->data;
    const size_t n = (size_t)d->source_count;
    const char **paths = calloc(n, sizeof *paths);
    double *weights = calloc(n, sizeof *weights);
    tdm_status st = paths && weights ? TDM_OK : TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the data");
    for (size_t i = 0; st == TDM_OK && i < n; i++) {
        paths[i] = d->source[i].path;
        weights[i] = d->source[i].weight;
    }
    if (st == TDM_OK) st = tdm_mixture_open(&j->data, paths, weights, d->source_count, (uint64_t)j->r->seed, d->shuffle, err);
    free(paths);
    free(weights);
    return st;
}

static tdm_status open_data(tdm_job *j, const tdm_model_config *c, tdm_error *err)
{
    tdm_status st = TDM_OK;
    if (tdm_job_replays(j)) {
        TDM_TRY(st, tdm_replay_open(&j->replay, j->r->rollout.replay, c->vocab, err), done);
    } else TDM_TRY(st, open_mixture(j, err), done);
    if (!tdm_job_supervised(j) && !tdm_job_replays(j)) TDM_TRY(st, tdm_rewards_open(&j->rewards, j->r, err), done);
    TDM_TRY(st, tdm_job_eval_open(j, err), done);
done:
    return st;
}

static tdm_status step_tables(tdm_job *j, tdm_error *err)
{
    const size_t n = (size_t)j->samples, g = (size_t)j->groups, rewards = j->rewards ? (size_t)tdm_rewards_count(j->rewards) : 0;
    j->prompt = calloc(g, sizeof *j->prompt);
    j->request = calloc(g, sizeof *j->request);
    j->group_start = calloc(g + 1, sizeof *j->group_start);
    j->fresh = calloc(g, sizeof *j->fresh);
    j->scores = calloc(n * rewards + 1, sizeof *j->scores);
    j->weights = calloc(rewards + 1, sizeof *j->weights);
    j->fresh_scores = calloc(n * rewards + 1, sizeof *j->fresh_scores);
    j->total = calloc(n, sizeof *j->total);
    j->advantage = calloc(n, sizeof *j->advantage);
    j->tokens = calloc(n, sizeof *j->tokens);
    j->completion = calloc(n, sizeof *j->completion);
    j->reward_sample = calloc(n, sizeof *j->reward_sample);
    j->item = calloc(n, sizeof *j->item);
    bool ok = j->prompt && j->request && j->group_start && j->fresh && j->scores && j->weights && j->fresh_scores && j->total && j->advantage && j->tokens &&
              j->completion && j->reward_sample && j->item;
    for (size_t i = 0; ok && i < rewards; i++) j->weights[i] = tdm_rewards_weight(j->rewards, (int64_t)i);
    if (tdm_job_sft(j)) {
        j->mask = calloc(n, sizeof *j->mask);
        j->mask_bytes = calloc(n, (size_t)j->context);
        ok = ok && j->mask && j->mask_bytes;
        for (size_t i = 0; ok && i < n; i++) j->mask[i] = j->mask_bytes + i * (size_t)j->context;
    }
    if (j->r->train.top_entropy_quantile < 1.0) ok = ok && (j->entropies = calloc(n * (size_t)j->context, sizeof *j->entropies));
    if (tdm_job_prefers(j)) ok = ok && (j->preferred = calloc(n, sizeof *j->preferred));
    if (!ok) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the tables of a step");
    return TDM_OK;
}

/* One prompt of each file goes through template and tokenizer, so that a broken template or column shows before anything is loaded. */
static tdm_status try_first_row(tdm_job *j, tdm_error *err)
{
    if (!j->data || tdm_job_sft(j)) return TDM_OK;
    if (tdm_job_prefers(j)) return tdm_job_preference_try(j, err);
    tdm_job_prompt p = {0};
    bool fits;
    tdm_status st = TDM_OK;
    for (int64_t i = 0; st == TDM_OK && i < j->r->data.source_count; i++) {
        st = tdm_job_prompt_make(j, tdm_mixture_part(j->data, i), &j->r->data.source[i], 0, &p, &fits, err);
        if (st == TDM_OK) st = tdm_job_turns_try(j, p.messages, err);
        if (st == TDM_OK) st = tdm_job_judges_try(j, &p, err);
    }
    if (st == TDM_OK && j->eval) {
        st = tdm_job_prompt_make(j, j->eval, NULL, 0, &p, &fits, err);
        if (st == TDM_OK) st = tdm_job_judges_try(j, &p, err);
    }
    tdm_job_prompt_clear(&p);
    tdm_text_free(&p.text);
    tdm_ids_free(&p.ids);
    return st;
}

tdm_status tdm_job_open(tdm_job *j, tdm_recipe *r, const tdm_job_options *o, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char where[TDM_RECIPE_WHERE];
    tdm_model_file *file = NULL;
    tdm_session_spec spec;
    tdm_adapter_spec adapter;
    places chosen;
    memset(j, 0, sizeof *j);
    j->r = r;
    j->o = o;
    j->saved_step = -1;
    j->metrics.file.fd = j->tensorboard.file.fd = -1;
    TDM_TRY(st, r->model.random_weights ? tdm_model_file_open_random(&file, r->model.path, err) : tdm_model_file_open(&file, r->model.path, err), done);
    const tdm_model_config *c = tdm_model_file_config(file);
    tdm_recipe_fit_context(r, c->context);
    TDM_TRY(st, tdm_language_open(&j->language, file, err), done);
    j->plain = j->language;
    if (r->rollout.ignore_eos) j->language.eos_count = 0; /* those of the recipe still end a completion */
    if (r->rollout.stop_token_ids.count > (int64_t)TDM_COUNT(j->language.eos) - j->language.eos_count) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(r, "rollout.stop_token_ids", where), "use rollout.stop for some of them",
                      "%" PRId64 " stop tokens, there is room for %d beside the model's own", r->rollout.stop_token_ids.count,
                      (int)TDM_COUNT(j->language.eos) - j->language.eos_count);
        goto done;
    }
    for (int64_t i = 0; i < r->rollout.stop_token_ids.count; i++)
        j->language.eos[j->language.eos_count++] = (int32_t)r->rollout.stop_token_ids.items[i];
    TDM_TRY(st, open_data(j, c, err), done);
    settle_sizes(j);
    settle_config(j);
    TDM_TRY(st, check_context(j, c, err), done);
    TDM_TRY(st, step_tables(j, err), done);
    TDM_TRY(st, tdm_job_turns_open(j, err), done);
    TDM_TRY(st, tdm_job_judges_open(j, c, err), done);
    TDM_TRY(st, try_first_row(j, err), done);
    tdm_stops_init(&j->stops, &j->language, r->rollout.stop.items);
    if (tdm_job_ppo(j)) add_critic(j);
    TDM_TRY(st, tdm_job_models_open(j, c, err), done);
    tdm_job_teacher_open(j);
    session_spec(j, c, &spec, &adapter, &chosen);
    const tdm_sequences_spec store = store_spec(j, c);
    TDM_TRY(st, tdm_session_plan(&j->session, &spec, err), done);
    TDM_TRY(st, tdm_recipe_check_backend(r, j->session.be, c, err), done);
    TDM_TRY(st, check_adapter(j, err), done);
    if (o->plan) goto done;
    TDM_TRY(st, tdm_plan_check(&j->session.plan, j->session.budget_bytes, spec.where.budget, err), done);
    if (o->check) goto done;
    TDM_TRY(st, tdm_session_load(&j->session, err), done);
    TDM_TRY(st, check_exact(j, err), done);
    TDM_TRY(st, tdm_sequences_open(&j->sequences, &store, err), done);
    TDM_TRY(st, tdm_job_judges_load(j, err), done);
    TDM_TRY(st, tdm_weights_hash(j->session.weights, &j->base_hash, err), done);
done:
    tdm_model_file_close(file);
    return st;
}

void tdm_job_close(tdm_job *j)
{
    tdm_error ignored = {0}; /* whatever had to be durable was synced before */
    (void)tdm_metrics_close(&j->metrics, &ignored);
    (void)tdm_tensorboard_close(&j->tensorboard, &ignored);
    for (int64_t i = 0; j->prompt && i < j->groups; i++) {
        tdm_job_prompt_clear(&j->prompt[i]);
        tdm_text_free(&j->prompt[i].text);
        tdm_ids_free(&j->prompt[i].ids);
    }
    for (int64_t i = 0; j->completion && i < j->samples; i++) tdm_text_free(&j->completion[i]);
    free(j->prompt);
    free(j->request);
    free(j->group_start);
    free(j->fresh);
    free(j->scores);
    free(j->weights);
    free(j->fresh_scores);
    free(j->total);
    free(j->advantage);
    free(j->tokens);
    free(j->completion);
    free(j->reward_sample);
    free(j->item);
    free(j->mask);
    free(j->mask_bytes);
    free(j->entropies);
    free(j->preferred);
    tdm_job_models_close(j);
    tdm_stops_fini(&j->stops);
    tdm_sequences_close(&j->sequences);
    tdm_job_turns_close(j);
    tdm_rewards_close(j->rewards);
    tdm_replay_close(&j->replay);
    tdm_job_eval_close(j);
    tdm_mixture_close(j->data);
    tdm_session_close(&j->session);
    tdm_job_judges_close(j);
    tdm_language_close(&j->language);
}
