/* tandem bench rollout|train|flip: a figure beside what it moved and computed, and beside what this machine can do. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cmd/bench_internal.h"
#include "runtime/cmd/bench_ops.h"
#include "runtime/cmd/commands.h"
#include "runtime/run/sequences.h"

enum { OWN_OPTIONS = 11 };

static void own_options(tdm_bench *b, tdm_option *o)
{
    int i = 0;
    o[i++] = (tdm_option){"--prompts", TDM_OPTION_INT, &b->prompts, 1, 1e6, "N", "prompts of a rollout (default 8)", NULL};
    o[i++] = (tdm_option){"--samples", TDM_OPTION_INT, &b->samples, 1, 1e6, "N", "completions of each prompt (default 8)", NULL};
    o[i++] = (tdm_option){"--prompt-tokens", TDM_OPTION_INT, &b->prompt_tokens, 1, 1e7, "N", "default 64", NULL};
    o[i++] = (tdm_option){"--new-tokens", TDM_OPTION_INT, &b->new_tokens, 1, 1e7, "N", "default 64", NULL};
    o[i++] = (tdm_option){"--rank", TDM_OPTION_INT, &b->rank, 0, 4096, "R", "of a fresh adapter on all projections; 0: none (default 16)", NULL};
    o[i++] = (tdm_option){"--micro-tokens", TDM_OPTION_INT, &b->micro_tokens, 1, 1e7, "N", "tokens of a micro-batch (default 4096)", NULL};
    o[i++] = (tdm_option){"--repeat", TDM_OPTION_INT, &b->repeat, 1, 1000, "N", "runs; the median counts (default 3)", NULL};
    o[i++] = (tdm_option){"--checkpointing", TDM_OPTION_FLAG, &b->checkpointing, 0, 0, NULL, "recompute activations in backward", NULL};
    o[i++] = (tdm_option){"--model-config", TDM_OPTION_TEXT, &b->model_config, 0, 0, "F", "with --random-weights: the config.json, or its folder, that gives the shapes", NULL};
    o[i++] = (tdm_option){"--random-weights", TDM_OPTION_FLAG, &b->random_weights, 0, 0, NULL, "weights drawn at random; no model is needed", NULL};
    o[i++] = (tdm_option){"--roofline", TDM_OPTION_FLAG, &b->roofline, 0, 0, NULL, "rollout, train: once more, each operation by itself: a line for each", NULL};
    TDM_ASSERT_EQ(i, OWN_OPTIONS);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int64_t n)
{
    qsort(x, (size_t)n, sizeof *x, by_value);
    return n % 2 ? x[n / 2] : 0.5 * (x[n / 2 - 1] + x[n / 2]);
}

/* Of a projection, that a token goes through. */
static int64_t modules_used(const tdm_model_config *c, int64_t layer, tdm_proj p) { return tdm_proj_modules(c, layer, p) > 1 ? c->experts_used : 1; }

/* Multiply-adds of the linears, for one token; head: those of lm_head. */
static double linear_macs(const tdm_model_config *c, bool head)
{
    double macs = 0.0;
    if (head) return (double)c->vocab * (double)c->width;
    for (int64_t l = 0; l < c->layers; l++) {
        macs += c->sparse[l] ? (double)c->experts * (double)c->width : 0.0;
        for (int p = 0; p < TDM_PROJ_COUNT; p++) {
            int64_t n, k;
            tdm_layer_proj_shape(c, l, (tdm_proj)p, &n, &k);
            macs += (double)n * (double)k * (double)modules_used(c, l, (tdm_proj)p);
        }
    }
    return macs;
}

static double lora_macs(const tdm_bench *b, const tdm_model_config *c)
{
    double macs = 0.0;
    for (int64_t l = 0; l < c->layers; l++)
        for (int p = 0; p < TDM_PROJ_COUNT; p++) {
            int64_t n, k;
            tdm_layer_proj_shape(c, l, (tdm_proj)p, &n, &k);
            if (n > 0) macs += (double)(n + k) * (double)b->rank * (double)modules_used(c, l, (tdm_proj)p);
        }
    return macs;
}

static double attention_macs(const tdm_model_config *c, double positions)
{
    return 2.0 * (double)c->layers * (double)(c->heads * c->head_dim) * positions;
}

static void fill_prompt(tdm_sequence *s, const tdm_bench *b, int64_t prompt, int64_t vocab)
{
    uint32_t x = (uint32_t)prompt * 2654435761u + 1u;
    for (int64_t i = 0; i < b->prompt_tokens; i++) {
        x = x * 1664525u + 1013904223u;
        s->tokens[i] = (int32_t)((x >> 8) % (uint32_t)vocab);
    }
    s->prompt = s->count = b->prompt_tokens;
    s->room = b->prompt_tokens + b->new_tokens;
    s->finish = TDM_FINISH_NONE;
}

static tdm_status open_session(tdm_bench *b, tdm_session_spec *spec, bool rollout, tdm_error *err)
{
    tdm_status st = TDM_OK;
    static const tdm_optimizer_config optimizer = {.kind = TDM_OPTIMIZER_ADAMW, .lr = 1e-5, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .max_grad_norm = 1.0, .total_updates = 1000};
    const tdm_adapter_spec adapter = {.rank = b->rank, .alpha = 32.0f, .target = {true, true, true, true, true, true, true}};
    const int64_t context = b->prompt_tokens + b->new_tokens, n = b->prompts * b->samples;
    if (b->rank > 0 && !spec->adapter_dir) spec->adapter = &adapter;
    spec->optimizer = &optimizer;
    spec->rollout = rollout;
    spec->train = !rollout;
    const int64_t running = tdm_min_i64(n, 512);
    spec->engine = (tdm_engine_spec){.sequences = running, .samples = n, .requests = b->prompts, .context = context,
                                     .batch_tokens = tdm_max_i64(512, running), .head_rows = tdm_min_i64(128, running)};
    spec->trainer = (tdm_trainer_spec){.micro_tokens = tdm_max_i64(context, tdm_min_i64(b->micro_tokens, n * context)), .sequences = n, .context = context,
                                       .head_rows = 128, .checkpointing = b->checkpointing};
    TDM_TRY(st, tdm_session_plan(&b->session, spec, err), done);
    b->session.spec.adapter = NULL; /* it was on this stack */
    TDM_TRY(st, tdm_session_load(&b->session, err), done);
    const tdm_sequences_spec store = {.count = n, .prompt = b->prompt_tokens, .completion = b->new_tokens, .vocab = b->session.config->vocab, .train = true};
    TDM_TRY(st, tdm_sequences_open(&b->sequences, &store, err), done);
    const tdm_plan_item *weights = &b->session.plan.item[b->session.item_weights];
    TDM_TRY(st,
            b->session.be->probe(b->session.stream, tdm_slab_at(&b->session.slab, &b->session.plan, b->session.item_weights), weights->bytes, &b->gflops,
                                 &b->gbps, err),
            done);
done:
    return st;
}

/* Runs `timed` once more, operation by operation, and says what each took. */
static tdm_status roofline(tdm_bench *b, tdm_status (*timed)(tdm_bench *, double *, tdm_error *), tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_backend *real = b->session.be, *table;
    const int64_t repeat = b->repeat;
    double seconds;
    if (!b->roofline) return TDM_OK;
    TDM_TRY(st, tdm_bench_ops_open(real, b->session.stream, tdm_slab_at(&b->session.slab, &b->session.plan, b->session.item_workspace), &table, err), done);
    b->repeat = 1;
    b->session.model.be = table;
    b->session.optimizer.be = table;
    st = timed(b, &seconds, err);
    b->session.model.be = real;
    b->session.optimizer.be = real;
    b->repeat = repeat;
    if (st == TDM_OK) tdm_bench_ops_print(b->gflops, b->gbps);
done:
    return st;
}

static tdm_status time_rollout(tdm_bench *b, double *seconds, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_sampling plain = {.temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f};
    tdm_request *request = calloc((size_t)b->prompts, sizeof *request);
    if (!request) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the requests");
    for (int64_t r = 0; r < b->repeat; r++) {
        for (int64_t p = 0; p < b->prompts; p++) {
            for (int64_t i = 0; i < b->samples; i++) fill_prompt(&b->sequences.seq[p * b->samples + i], b, p, b->session.config->vocab);
            request[p] = (tdm_request){.sequence = &b->sequences.seq[p * b->samples], .samples = b->samples, .sampling = plain, .seed = 1, .step = (uint32_t)r,
                                       .prompt_index = (uint32_t)p};
        }
        tdm_session_enter(&b->session, TDM_PHASE_ROLLOUT);
        const double start = tdm_now_s();
        TDM_TRY(st, tdm_engine_run(b->session.engine, tdm_session_adapter(&b->session), request, b->prompts, NULL, NULL, err), done);
        seconds[r] = tdm_now_s() - start;
    }
done:
    free(request);
    return st;
}

static tdm_status bench_rollout(tdm_bench *b, tdm_session_spec *spec, tdm_error *err)
{
    tdm_status st = TDM_OK;
    double seconds[1000];
    TDM_TRY(st, open_session(b, spec, true, err), done);
    TDM_TRY(st, time_rollout(b, seconds, err), done);
    const tdm_model_config *c = b->session.config;
    const tdm_engine_stats *stats = tdm_engine_run_stats(b->session.engine);
    const double s = median(seconds, b->repeat), n = (double)(b->prompts * b->samples), generated = n * (double)b->new_tokens;
    const double forwards = (double)stats->forwards, tokens = (double)(stats->tokens_prefill + stats->tokens_decode);
    const double flops = 2.0 * (tokens * (linear_macs(c, false) + lora_macs(b, c)) + generated * linear_macs(c, true) +
                                generated * attention_macs(c, (double)b->prompt_tokens + 0.5 * (double)b->new_tokens));
    const double weights = (double)b->session.plan.item[b->session.item_weights].bytes;
    const double kv = (double)tdm_kv_cache_bytes(b->session.be, c, spec->kv_dtype, 1) / (double)b->session.be->kv_page_tokens;
    const double bytes = forwards * weights + generated * kv * ((double)b->prompt_tokens + 0.5 * (double)b->new_tokens);
    const double ceiling_s = tdm_bench_ceiling_s(b, flops, bytes);
    printf("{\"bench\":\"rollout\",\"backend\":\"%s\",\"sequences\":%.0f,\"prompt_tokens\":%" PRId64 ",\"new_tokens\":%" PRId64 ",\"tokens_per_s\":%.6g,\"seconds\":%.6g,"
           "\"ms_per_step\":%.6g,\"forwards\":%.0f,\"flops\":%.6g,\"bytes\":%.6g,\"ceiling_gflops\":%.6g,\"ceiling_gbps\":%.6g,\"ceiling_tokens_per_s\":%.6g,\"fraction\":%.4g}\n",
           b->session.be->name, n, b->prompt_tokens, b->new_tokens, generated / s, s, 1e3 * s / forwards, forwards, flops, bytes, b->gflops, b->gbps, generated / ceiling_s,
           ceiling_s / s);
    st = roofline(b, time_rollout, err);
done:
    return st;
}

static tdm_status time_train(tdm_bench *b, double *seconds, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_sampling plain = {.temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f};
    const int64_t n = b->prompts * b->samples;
    const tdm_loss_config loss = {.kind = TDM_LOSS_DAPO, .clip_low = 0.2, .clip_high = 0.2, .cap = 2.0};
    tdm_train_item *item = calloc((size_t)n, sizeof *item);
    if (!item) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the items");
    const tdm_train_pass pass = {.adapter = &b->session.adapter, .loss = &loss, .sampling = &plain, .opt = &b->session.optimizer};
    for (int64_t i = 0; i < n; i++) {
        tdm_sequence *s = &b->sequences.seq[i];
        fill_prompt(s, b, i, b->session.config->vocab);
        for (; s->count < s->room; s->count++) s->tokens[s->count] = s->tokens[s->count % b->prompt_tokens];
        item[i] = (tdm_train_item){.seq = s, .advantage = i % 2 ? 1.0 : -1.0, .weight = 1.0 / (double)(n * b->new_tokens), .lp = b->sequences.lp[i]};
    }
    for (int64_t r = 0; r < b->repeat; r++) {
        double norm, lr;
        tdm_loss_sums sums = {0};
        tdm_session_enter(&b->session, TDM_PHASE_TRAIN);
        const double start = tdm_now_s();
        TDM_TRY(st, tdm_optimizer_zero_grad(&b->session.optimizer, err), done);
        TDM_TRY(st, tdm_trainer_accumulate(b->session.trainer, &pass, item, n, &sums, err), done);
        TDM_TRY(st, tdm_optimizer_step(&b->session.optimizer, &norm, &lr, err), done);
        seconds[r] = tdm_now_s() - start;
    }
done:
    free(item);
    return st;
}

static tdm_status bench_train(tdm_bench *b, tdm_session_spec *spec, tdm_error *err)
{
    tdm_status st = TDM_OK;
    double seconds[1000];
    if (b->rank == 0) return TDM_FAIL(err, TDM_ERR_RECIPE, "command line: --rank", "give a rank of 1 or more", "without an adapter there is nothing to train");
    TDM_TRY(st, open_session(b, spec, false, err), done);
    TDM_TRY(st, time_train(b, seconds, err), done);
    const tdm_model_config *c = b->session.config;
    const double s = median(seconds, b->repeat), n = (double)(b->prompts * b->samples), length = (double)(b->prompt_tokens + b->new_tokens);
    const double tokens = n * length, learned = n * (double)b->new_tokens, passes = b->checkpointing ? 3.0 : 2.0;
    /* forward, input gradients (and the forward again); the adapter's own gradients; attention backward is 2.5 forwards */
    const double flops = 2.0 * (tokens * (passes * (linear_macs(c, false) + lora_macs(b, c)) + lora_macs(b, c)) + 2.0 * learned * linear_macs(c, true) +
                                (passes + 1.5) * tokens * attention_macs(c, 0.5 * length));
    const double ceiling_s = tdm_bench_ceiling_s(b, flops, 0.0);
    printf("{\"bench\":\"train\",\"backend\":\"%s\",\"sequences\":%.0f,\"tokens\":%.0f,\"tokens_per_s\":%.6g,\"seconds\":%.6g,\"flops\":%.6g,\"ceiling_gflops\":%.6g,"
           "\"ceiling_tokens_per_s\":%.6g,\"fraction\":%.4g,\"memory_peak_bytes\":%zu}\n",
           b->session.be->name, n, tokens, tokens / s, s, flops, b->gflops, tokens / ceiling_s, ceiling_s / s, tdm_process_peak_bytes());
    st = roofline(b, time_train, err);
done:
    return st;
}

static tdm_status bench_flip(tdm_bench *b, tdm_session_spec *spec, tdm_error *err)
{
    tdm_status st = TDM_OK;
    double seconds[1000];
    TDM_TRY(st, open_session(b, spec, true, err), done);
    for (int64_t r = 0; r < b->repeat; r++) {
        const double start = tdm_now_s();
        tdm_session_enter(&b->session, r % 2 ? TDM_PHASE_ROLLOUT : TDM_PHASE_TRAIN);
        seconds[r] = tdm_now_s() - start;
    }
    printf("{\"bench\":\"flip\",\"backend\":\"%s\",\"phase_bytes\":%zu,\"seconds\":%.6g}\n", b->session.be->name,
           b->session.plan.slab_bytes - b->session.plan.phase_offset, median(seconds, b->repeat));
done:
    return st;
}

tdm_status tdm_cmd_bench(int argc, char **argv, tdm_error *err)
{
    static const char *const kinds[] = {"rollout", "train", "kernels", "flip"};
    tdm_model_options m;
    tdm_bench b = {.prompts = 8, .samples = 8, .prompt_tokens = 64, .new_tokens = 64, .rank = 16, .micro_tokens = 4096, .repeat = 3};
    const char *kind = NULL;
    int count;
    bool help;
    tdm_option options[TDM_MODEL_OPTIONS + OWN_OPTIONS];
    tdm_model_options_table(&m, options);
    own_options(&b, options + TDM_MODEL_OPTIONS);
    const tdm_command command = {.name = "tandem bench", .summary = "Speed of rollout, training or single kernels beside this machine's ceiling, as JSON.", .options = options,
                                 .count = TDM_MODEL_OPTIONS + OWN_OPTIONS, .plain = &kind, .plain_room = 1, .plain_name = "rollout|train|kernels|flip",
                                 .example = "tandem bench rollout --model models/SmolLM2-135M-Instruct.Q4_1.gguf --weights fp8_channel --prompts 8 --samples 8"};
    tdm_status st = TDM_OK;
    tdm_session_spec spec = {0};
    TDM_TRY(st, tdm_args_parse(&command, argc, argv, &count, &help, err), done);
    if (help) return TDM_OK;
    if (count == 0 || !(strcmp(kind, "rollout") == 0 || strcmp(kind, "train") == 0 || strcmp(kind, "kernels") == 0 || strcmp(kind, "flip") == 0)) {
        char hint[96];
        const char *near = count ? tdm_nearest(kind, kinds, TDM_COUNT(kinds)) : NULL;
        snprintf(hint, sizeof hint, near ? "did you mean \"%s\"?" : "rollout, train, kernels or flip", near);
        st = TDM_FAIL(err, TDM_ERR_RECIPE, "command line", hint, "tandem bench %s", count ? "does not know what to measure" : "needs to know what to measure");
        goto done;
    }
    if (b.random_weights != (b.model_config != NULL)) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "give --model-config config.json and --random-weights together", "one without the other");
        goto done;
    }
    if (b.random_weights) m.model = b.model_config;
    TDM_TRY(st, tdm_model_options_apply(&m, &spec, err), done);
    spec.random_weights = b.random_weights;
    if (strcmp(kind, "rollout") == 0) st = bench_rollout(&b, &spec, err);
    else if (strcmp(kind, "train") == 0) st = bench_train(&b, &spec, err);
    else if (strcmp(kind, "flip") == 0) st = bench_flip(&b, &spec, err);
    else st = tdm_bench_kernels(&b, &spec, err);
done:
    tdm_sequences_close(&b.sequences);
    tdm_session_close(&b.session);
    return st;
}
