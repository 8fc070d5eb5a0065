/* labels: unit
 *
 * Defaults and values as they arrive; the resolved recipe reads back to itself; overrides; what a resume may change; the documentation. What is
 * refused stands in test_recipe_refuses.c. */
#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "memory/fs.h"
#include "runtime/recipe/schema.h"
#include "testing/recipe_case.h"


static void defaults_are_those_of_the_design(void **state)
{
    (void)state;
    tdm_recipe *r = must_parse(OK, NULL);
    assert_int_equal(r->model.weights, TDM_SCHEME_FP8_CHANNEL);
    assert_int_equal(r->model.activations, TDM_ACT_DYNAMIC);
    assert_int_equal(r->model.keep_bf16.count, 1);
    assert_string_equal(r->model.keep_bf16.items[0], "lm_head");
    assert_null(r->model.keep_bf16.items[1]);
    assert_int_equal(r->adapter.rank, 16);
    assert_true(r->adapter.alpha == 32.0);
    assert_string_equal(r->adapter.init, "");
    for (int p = 0; p < TDM_PROJ_COUNT; p++) assert_true(r->adapter.target[p]);
    assert_true(r->data.shuffle);
    assert_int_equal(r->data.max_prompt_tokens, 512);
    assert_int_equal(r->rollout.prompts_per_step, 8);
    assert_int_equal(r->rollout.generations, 8);
    assert_int_equal(r->rollout.max_new_tokens, 256);
    assert_true(r->rollout.temperature == 1.0 && r->rollout.top_p == 1.0 && r->rollout.top_k == 0 && r->rollout.min_p == 0.0);
    assert_true(r->rollout.repetition_penalty == 1.0);
    assert_int_equal(r->train.loss, TDM_LOSS_DAPO);
    assert_int_equal(r->train.steps, 100);
    assert_true(r->train.lr == 1e-5 && r->train.betas[0] == 0.9 && r->train.betas[1] == 0.999 && r->train.eps == 1e-8);
    assert_true(r->train.clip_low == 0.2 && r->train.clip_high == 0.2 && r->train.kl == 0.0 && r->train.max_grad_norm == 1.0);
    assert_int_equal(r->train.kl_type, TDM_KL_K3);
    assert_int_equal(r->train.advantage, TDM_ADVANTAGE_GROUP_STD);
    assert_int_equal(r->train.importance.correction, TDM_CORRECTION_TRUNCATE);
    assert_true(r->train.importance.cap == 2.0);
    assert_int_equal(r->train.micro_tokens, 4096);
    assert_int_equal(r->memory.budget_bytes, 0);
    assert_int_equal(r->memory.kv_dtype, TDM_DTYPE_BF16);
    assert_int_equal(r->numerics, TDM_NUMERICS_FAST);
    assert_int_equal(r->checkpoint.every, 20);
    assert_int_equal(r->log.rollouts, 10);
    assert_int_equal(r->seed, 1);
    assert_string_equal(r->output, "runs/a");
    assert_string_equal(r->reward[0].name, "number");
    assert_string_equal(r->reward[0].answer, "{answer}");
    assert_false(tdm_recipe_given(r, "model.weights"));
    assert_true(tdm_recipe_given(r, "data.train"));
    tdm_recipe_close(r);
}

static const char full[] =
    "model: {path: models/qwen, weights: fp8_block, activations: none, pow2_scale: yes, first_layers_bf16: 1, keep_bf16: [lm_head, \"layers.3\"]}\n"
    "adapter: {rank: 4, alpha: 8, dropout: 0.05, init: runs/a/adapter, targets: [v_proj, q_proj], rslora: true}\n"
    "data:\n  train: t.jsonl\n  eval: e.jsonl\n  system: |\n    Think.\n    Then \"answer\": \xe7\xad\x94 \xf0\x9f\x98\x80\n"
    "  prompt: '{question} \\ it''s'\n  shuffle: off\n"
    "rollout: {prompts_per_step: 2, generations: 4, stop: [\"\\n\\n\", '#'], stop_token_ids: [7, 0], top_k: 50, top_p: 0.95, min_p: 1e-3}\n"
    "reward:\n  - {type: number, weight: 0.5}\n  - {type: number, answer: \"{gold}\"}\n  - {type: format, pattern: '^<a>\\d+</a>$', name: shape}\n"
    "  - {type: length, buffer: 32, penalty: 0.5}\n  - {python: rewards/f.py:score, timeout_s: 5, workers: 2, on_error: zero}\n"
    "  - {command: [./judge.sh, --fast], weight: -1}\n  - {plugin: ./libreward.so}\n"
    "  - {type: judge, name: helpful, system: 'Be {kind}.', prompt: \"{prompt}\\n{completion}\", parse: '\\d+', range: [-1.5, 10], temperature: 0.5, on_error: skip}\n"
    "train: {loss: gspo, lr: 1e-5, schedule: cosine, warmup_steps: 3, betas: [0.9, 0.95], clip_high: .28, kl: 1E-3, advantage: leave_one_out, "
    "importance: {correction: mask, cap: 3}, micro_tokens: 512, eps: 3.0000000000000004e-7}\n"
    "memory: {budget: 1.5GiB, kv: fp8, embedding: host}\nseed: 1234567890123456789\noutput: \"runs/x: y\"\n";

static void values_arrive_as_written(void **state)
{
    (void)state;
    tdm_recipe *r = must_parse(full, NULL);
    assert_true(r->train.lr == 1e-5 && r->train.kl == 1e-3 && r->train.clip_high == 0.28 && r->rollout.min_p == 1e-3);
    assert_int_equal(r->train.loss, TDM_LOSS_GRPO);
    assert_int_equal(r->train.importance.level, TDM_LEVEL_SEQUENCE);
    assert_int_equal(r->train.importance.ratio, TDM_RATIO_SEQUENCE);
    assert_int_equal(r->memory.budget_bytes, 3ll << 29);
    assert_int_equal(r->memory.kv_dtype, TDM_DTYPE_E4M3);
    assert_int_equal(r->memory.embedding, TDM_PLACE_HOST);
    assert_true(r->seed == 1234567890123456789);
    assert_true(r->adapter.target[TDM_PROJ_Q] && r->adapter.target[TDM_PROJ_V] && !r->adapter.target[TDM_PROJ_K]);
    assert_string_equal(r->rollout.stop.items[0], "\n\n");
    assert_int_equal(r->rollout.stop_token_ids.items[0], 7);
    assert_int_equal(r->reward_count, 8);
    assert_string_equal(r->reward[1].name, "number_2");
    assert_string_equal(r->reward[2].pattern, "^<a>\\d+</a>$");
    assert_int_equal(r->reward[3].max, 256);
    assert_string_equal(r->reward[4].name, "score");
    assert_int_equal(r->reward[4].kind, TDM_REWARD_PYTHON);
    assert_string_equal(r->reward[5].name, "judge");
    assert_string_equal(r->reward[5].command.items[1], "--fast");
    assert_string_equal(r->reward[6].name, "libreward");
    assert_string_equal(r->reward[7].model, "self");
    assert_true(r->reward[7].range[0] == -1.5 && r->reward[7].range[1] == 10 && r->reward[7].on_error == TDM_ON_ERROR_SKIP);
    tdm_recipe_close(r);
}

/* Each FP8 recipe of ROLL, vLLM, Unsloth and NeMo-RL as keys, and what the weight store is told. */
static void fp8_keys_reach_the_weights(void **state)
{
    static const struct {
        const char *keys;
        tdm_weights_options want;
    } cases[] = {
        {"", {.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_DYNAMIC}},
        {", weights: fp8_tensor", {.scheme = TDM_SCHEME_FP8_TENSOR, .scheme_given = true, .act = TDM_ACT_DYNAMIC}},
        {", weights: fp8_tensor, activations: static", {.scheme = TDM_SCHEME_FP8_TENSOR, .scheme_given = true, .act = TDM_ACT_STATIC}},
        {", weights: fp8_block, fmt: e4m3, activations: dynamic, weight_block_size: [128, 128]",
         {.scheme = TDM_SCHEME_FP8_BLOCK, .scheme_given = true, .act = TDM_ACT_DYNAMIC}},
        {", weights: fp8_block, pow2_weight_scales: true, first_layers_bf16: 1, last_layers_bf16: 3",
         {.scheme = TDM_SCHEME_FP8_BLOCK, .scheme_given = true, .act = TDM_ACT_DYNAMIC, .pow2_weights = true, .first_layers_bf16 = 1, .last_layers_bf16 = 3}},
        {", pow2_activation_scales: true", {.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_DYNAMIC, .pow2_acts = true}},
        {", pow2_scale: true", {.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_DYNAMIC, .pow2_weights = true, .pow2_acts = true}},
        {", activations: none, lm_head: fp8", {.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_NONE, .fp8_head = true}},
        {", keep_bf16: [], lm_head: fp8, embedding: fp8", {.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_DYNAMIC, .fp8_head = true, .fp8_embedding = true}},
    };
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(cases); i++) {
        char text[512];
        snprintf(text, sizeof text, "model: {path: m%s}\ndata: {train: t.jsonl}\nreward: [{type: number}]\n", cases[i].keys);
        tdm_recipe *r = must_parse(text, NULL);
        tdm_weights_options have = tdm_recipe_weights(r);
        have.keep_bf16 = NULL;
        const tdm_weights_options *want = &cases[i].want;
        if (have.scheme != want->scheme || have.scheme_given != want->scheme_given || have.act != want->act || have.pow2_weights != want->pow2_weights ||
            have.pow2_acts != want->pow2_acts || have.fp8_head != want->fp8_head || have.fp8_embedding != want->fp8_embedding ||
            have.first_layers_bf16 != want->first_layers_bf16 || have.last_layers_bf16 != want->last_layers_bf16)
            fail_msg("%s", cases[i].keys);
        tdm_recipe_close(r);
    }
}

static void entries_of_data_train_take_what_they_lack_from_data(void **state)
{
    (void)state;
    static const char *const overrides[] = {"data.train[1].weight=0.5", "data.train[1].rewards=[number]", NULL};
    tdm_recipe *r = must_parse(SEVERAL, overrides), *one = must_parse(OK, NULL);
    const tdm_recipe_source *s = r->data.source;
    tdm_error err = {0};
    assert_int_equal(r->data.source_count, 3);
    assert_string_equal(s[2].path, "c");
    assert_true(s[2].weight == 1 && s[2].rewards.count == 0);
    assert_string_equal(s[0].path, "a");
    assert_true(s[0].weight == 3 && s[1].weight == 0.5);
    assert_string_equal(s[0].system, "Think.");
    assert_string_equal(s[1].system, "Code.");
    assert_string_equal(s[0].prompt, "{q}");
    assert_string_equal(s[1].prompt, "");
    assert_string_equal(s[0].rewards.items[0], "exact");
    assert_string_equal(s[1].rewards.items[0], "number");
    assert_int_equal(one->data.source_count, 1);
    assert_string_equal(one->data.source[0].path, "t.jsonl");
    tdm_recipe *then = must_parse(SEVERAL, NULL);
    assert_int_equal(tdm_recipe_compare(then, r, &err), TDM_ERR_RECIPE);
    expect_line(&err, "data.train[1].weight is 0.5, this run began with 1 (command line: data.train[1].weight=0.5): put the old value back, or start a new run "
                      "with another output");
    tdm_recipe_close(then);
    tdm_recipe_close(one);
    tdm_recipe_close(r);
}

static void the_level_of_the_ratio_follows_that_of_the_correction(void **state)
{
    (void)state;
    static const struct { const char *train; tdm_level level; tdm_ratio ratio; } cases[] = {
        {"", TDM_LEVEL_TOKEN, TDM_RATIO_TOKEN},
        {"importance.level=sequence", TDM_LEVEL_SEQUENCE, TDM_RATIO_SEQUENCE},
        {"importance.level=geometric", TDM_LEVEL_GEOMETRIC, TDM_RATIO_TOKEN},
        {"importance={level: sequence, ratio: token}", TDM_LEVEL_SEQUENCE, TDM_RATIO_TOKEN},
        {"importance={level: token, ratio: sequence}", TDM_LEVEL_TOKEN, TDM_RATIO_SEQUENCE},
        {"importance={level: geometric, ratio: sequence}", TDM_LEVEL_GEOMETRIC, TDM_RATIO_SEQUENCE},
        {"loss=gspo", TDM_LEVEL_SEQUENCE, TDM_RATIO_SEQUENCE},
        {"={loss: gspo, importance: {level: geometric}}", TDM_LEVEL_GEOMETRIC, TDM_RATIO_SEQUENCE},
        {"loss=luspo", TDM_LEVEL_SEQUENCE, TDM_RATIO_SEQUENCE},
        {"loss=vespo", TDM_LEVEL_TOKEN, TDM_RATIO_TOKEN},
        {"={loss: vespo, importance: {level: sequence}}", TDM_LEVEL_SEQUENCE, TDM_RATIO_TOKEN},
        {"loss=rloo", TDM_LEVEL_SEQUENCE, TDM_RATIO_TOKEN},
        {"loss=gmpo", TDM_LEVEL_GEOMETRIC, TDM_RATIO_TOKEN},
        {"={loss: gmpo, importance: {correction: none}}", TDM_LEVEL_TOKEN, TDM_RATIO_TOKEN},
    };
    for (size_t i = 0; i < TDM_COUNT(cases); i++) {
        char override[96];
        const char *const overrides[] = {override, NULL};
        snprintf(override, sizeof override, "train%s%s", cases[i].train[0] == '=' ? "" : ".", cases[i].train);
        tdm_recipe *r = must_parse(OK, cases[i].train[0] ? overrides : NULL);
        assert_int_equal(r->train.importance.level, cases[i].level);
        assert_int_equal(r->train.importance.ratio, cases[i].ratio);
        tdm_recipe_close(r);
    }
}

static void a_loss_brings_its_bounds(void **state)
{
    (void)state;
    static const struct { const char *loss; double low, high; } cases[] = {{"dapo", 0.2, 0.2}, {"cispo", 1.0, 4.0}, {"gmpo", 0.4, 0.4}};
    for (size_t i = 0; i < TDM_COUNT(cases); i++)
        for (int given = 0; given < 2; given++) {
            char override[32];
            const char *const overrides[] = {override, given ? "train.clip_high=0.3" : NULL, NULL};
            snprintf(override, sizeof override, "train.loss=%s", cases[i].loss);
            tdm_recipe *r = must_parse(OK, overrides);
            assert_true(r->train.clip_low == cases[i].low && r->train.clip_high == (given ? 0.3 : cases[i].high));
            tdm_recipe_close(r);
        }
}

static void rloo_brings_its_baseline_and_its_kl(void **state)
{
    (void)state;
    tdm_recipe *r = must_parse(OK, (const char *const[]){"train.loss=rloo", NULL});
    assert_true(r->train.advantage == TDM_ADVANTAGE_LEAVE_ONE_OUT && r->train.kl_in == TDM_KL_IN_REWARD && r->train.kl_type == TDM_KL_K1);
    tdm_recipe_close(r);
    r = must_parse(OK, (const char *const[]){"train={loss: rloo, advantage: none, kl_in: loss}", NULL});
    assert_true(r->train.advantage == TDM_ADVANTAGE_NONE && r->train.kl_in == TDM_KL_IN_LOSS && r->train.kl_type == TDM_KL_K3);
    tdm_recipe_close(r);
}

static void the_resolved_recipe_reads_back_to_itself(void **state)
{
    (void)state;
    static const char *const texts[] = {OK, full, SEVERAL};
    for (size_t i = 0; i < TDM_COUNT(texts); i++) {
        tdm_error err = {0};
        tdm_recipe *a = must_parse(texts[i], NULL), *b = NULL;
        char *first = NULL, *second = NULL;
        size_t first_len, second_len;
        assert_int_equal(tdm_recipe_text(a, &first, &first_len, &err), TDM_OK);
        b = must_parse(first, NULL);
        assert_int_equal(tdm_recipe_text(b, &second, &second_len, &err), TDM_OK);
        assert_string_equal(first, second);
        assert_int_equal(tdm_recipe_compare(a, b, &err), TDM_OK);
        assert_string_equal(a->data.system, b->data.system);
        free(first);
        free(second);
        tdm_recipe_close(a);
        tdm_recipe_close(b);
    }
}

static void the_command_line_wins_and_is_remembered(void **state)
{
    (void)state;
    static const char *const overrides[] = {"rollout.temperature=0.5", "data.prompt={question}\nA: yes", "rollout.stop=[\"a\", b]", "reward[0].weight=2.5",
                                            "train.importance.cap=5", "output=runs/b c", "seed=3", "seed=4", "data.eval='it''s'", NULL};
    char where[TDM_RECIPE_WHERE];
    tdm_recipe *r = must_parse(OK "seed: 9\nrollout:\n  top_p: 0.9\n", overrides);
    assert_true(r->rollout.temperature == 0.5 && r->rollout.top_p == 0.9 && r->reward[0].weight == 2.5 && r->train.importance.cap == 5);
    assert_string_equal(r->data.prompt, "{question}\nA: yes");
    assert_string_equal(r->rollout.stop.items[1], "b");
    assert_string_equal(r->output, "runs/b c");
    assert_string_equal(r->data.eval, "it's");
    assert_int_equal(r->seed, 4);
    assert_string_equal(tdm_recipe_where(r, "seed", where), "command line: seed=4");
    assert_string_equal(tdm_recipe_where(r, "rollout.top_p", where), "a.yaml:6:10");
    assert_string_equal(tdm_recipe_where(r, "reward[0].weight", where), "command line: reward[0].weight=2.5");
    assert_string_equal(tdm_recipe_where(r, "reward[0].type", where), "a.yaml:3:17");
    assert_string_equal(tdm_recipe_where(r, "memory.budget", where), "a.yaml: memory.budget");
    tdm_recipe_close(r);
}

static void replay_needs_neither_data_nor_reward(void **state)
{
    (void)state;
    tdm_recipe_close(must_parse("model: {path: m}\nrollout: {replay: r.jsonl, generations: 1}\n", NULL));
}

static void the_cpu_refuses_to_offload(void **state)
{
    (void)state;
    tdm_error err = {0};
    tdm_recipe *r = must_parse(OK "memory: {offload: optimizer}\n", NULL);
    const tdm_backend *be;
    assert_int_equal(tdm_backend_cpu(NULL, &be, &err), TDM_OK);
    assert_int_equal(tdm_recipe_check_backend(r, be, &(tdm_model_config){0}, &err), TDM_ERR_RECIPE);
    expect_line(&err, "memory.offload moves bytes from a device to the host, and the CPU backend has only the host (a.yaml:4:19): use memory.offload: none");
    tdm_recipe_close(r);
}

static void a_device_offloads_activations_alone(void **state)
{
    (void)state;
    const tdm_backend device = {.device = true};
    for (int optimizer = 0; optimizer < 2; optimizer++) {
        tdm_error err = {0};
        tdm_recipe *r = must_parse(optimizer ? OK "memory: {offload: optimizer}\n" : OK "memory: {offload: activations}\n", NULL);
        assert_int_equal(tdm_recipe_check_backend(r, &device, &(tdm_model_config){0}, &err), optimizer ? TDM_ERR_RECIPE : TDM_OK);
        if (optimizer)
            expect_line(&err, "memory.offload: the optimizer's state of this version stays on the device (a.yaml:4:19): use memory.offload: activations, or "
                              "train.optimizer: adamw_8bit");
        tdm_recipe_close(r);
    }
}

static void a_tied_embedding_stays_on_the_device(void **state)
{
    (void)state;
    tdm_error err = {0};
    tdm_recipe *r = must_parse(OK "memory: {embedding: host}\n", NULL);
    const tdm_backend device = {.device = true}, cpu = {0};
    const tdm_model_config tied = {.tied_head = true}, untied = {0};
    assert_int_equal(tdm_recipe_check_backend(r, &device, &untied, &err), TDM_OK);
    assert_int_equal(tdm_recipe_check_backend(r, &cpu, &tied, &err), TDM_OK);
    assert_int_equal(tdm_recipe_check_backend(r, &device, &tied, &err), TDM_ERR_RECIPE);
    expect_line(&err, "memory.embedding: the head of this model is its embedding, and every step reads all of it (a.yaml:4:21): use memory.embedding: device");
    tdm_recipe_close(r);
}

static const struct { const char *then, *now, *line; } resumes[] = {
    {"seed: 1", "seed: 1", NULL},
    {"seed: 1", "seed: 2", "seed is 2, this run began with 1 (a.yaml:4:7): put the old value back, or start a new run with another output"},
    {"train: {steps: 10}", "train: {steps: 20}", NULL},
    {"train: {steps: 10, schedule: cosine}", "train: {steps: 20, schedule: cosine}",
     "train.steps is 20, this run began with 10 (a.yaml:4:16): put the old value back, or start a new run with another output"},
    {"train: {lr: 1e-5}", "train: {lr: 2e-5}",
     "train.lr is 2e-05, this run began with 1e-05 (a.yaml:4:13): put the old value back, or start a new run with another output"},
    {"train: {micro_tokens: 64}", "train: {micro_tokens: 128}", NULL},
    {"train: {loss: bnpo, micro_tokens: 64}", "train: {loss: bnpo, micro_tokens: 128}",
     "train.micro_tokens is 128, this run began with 64 (a.yaml:4:35): put the old value back, or start a new run with another output"},
    {"memory: {budget: 1GiB, kv: auto}", "memory: {budget: 2GiB, kv: 512MiB}", NULL},
    {"memory: {kv: auto}", "memory: {kv: fp8}",
     "memory.kv is fp8, this run began with auto (a.yaml:4:14): put the old value back, or start a new run with another output"},
    {"checkpoint: {every: 1}\noutput: a\nlog: {every: 1}\nthreads: 2", "output: b\nlog: {every: 3}\nthreads: 4", NULL},
    {"data: {system: old}", "data: {system: new}",
     "data.system is \"new\", this run began with \"old\" (a.yaml:4:16): put the old value back, or start a new run with another output"},
    {"adapter: {targets: [q_proj]}", "adapter: {targets: [q_proj, v_proj]}",
     "adapter.targets is [q_proj, v_proj], this run began with [q_proj] (a.yaml:4:20): put the old value back, or start a new run with another output"},
    {"rollout: {stop: [a]}", "rollout: {stop: [b]}",
     "rollout.stop is [\"b\"], this run began with [\"a\"] (a.yaml:4:17): put the old value back, or start a new run with another output"},
};

static void a_resume_may_change_only_what_does_not_matter(void **state)
{
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(resumes); i++) {
        tdm_error err = {0};
        char then[256], now[256];
        const bool data = strncmp(resumes[i].then, "data", 4) == 0;
        const char *base = data ? "model: {path: m}\nrollout: {replay: r}\nreward: [{type: number}]\n" : OK;
        snprintf(then, sizeof then, "%s%s\n", base, resumes[i].then);
        snprintf(now, sizeof now, "%s%s\n", base, resumes[i].now);
        tdm_recipe *a = must_parse(then, NULL), *b = must_parse(now, NULL);
        const tdm_status st = tdm_recipe_compare(a, b, &err);
        if (resumes[i].line)
            expect_line(&err, resumes[i].line);
        else
            assert_int_equal(st, TDM_OK);
        tdm_recipe_close(a);
        tdm_recipe_close(b);
    }
}

static void a_resume_compares_rewards(void **state)
{
    (void)state;
    static const char *const freely[] = {"reward[0].timeout_s=9", "reward[0].on_error=zero", NULL}, *const weight[] = {"reward[0].weight=3", NULL},
                             *const kind[] = {"reward=[{type: exact}]", NULL}, *const count[] = {"reward=[{type: exact}, {type: number}]", NULL};
    static const char text[] = "model: {path: m}\ndata: {train: t.jsonl}\nreward: [{python: a.py:f}]\n";
    tdm_recipe *then = must_parse(text, NULL), *same = must_parse(text, freely), *heavier = must_parse(text, weight),
               *other = must_parse(text, kind), *more = must_parse(text, count);
    tdm_error err = {0};
    assert_int_equal(tdm_recipe_compare(then, same, &err), TDM_OK);
    assert_int_equal(tdm_recipe_compare(then, heavier, &err), TDM_ERR_RECIPE);
    expect_line(&err, "reward[0].weight is 3, this run began with 1 (command line: reward[0].weight=3): put the old value back, or start a new run "
                      "with another output");
    err = (tdm_error){0};
    assert_int_equal(tdm_recipe_compare(then, other, &err), TDM_ERR_RECIPE);
    assert_string_equal(err.what, "reward[0] is of type exact, this run began with python");
    err = (tdm_error){0};
    assert_int_equal(tdm_recipe_compare(then, more, &err), TDM_ERR_RECIPE);
    assert_string_equal(err.what, "reward has 2 entries, this run began with 1");
    tdm_recipe_close(then);
    tdm_recipe_close(same);
    tdm_recipe_close(heavier);
    tdm_recipe_close(other);
    tdm_recipe_close(more);
}

static void sizes_and_numbers_have_one_meaning(void **state)
{
    (void)state;
    int64_t b;
    double d;
    assert_true(tdm_size_read("8GiB", &b) && b == 8ll << 30);
    assert_true(tdm_size_read("1.5 MiB", &b) && b == 3 << 19);
    assert_true(tdm_size_read("8GB", &b) && b == 8000000000);
    assert_true(tdm_size_read("4096", &b) && b == 4096);
    static const char *const sizes[] = {"8G", "GiB", "-1GiB", "1.5", "8gib", "1e3", "", "99999999TiB", "0x10", "1..5GiB"};
    for (size_t i = 0; i < TDM_COUNT(sizes); i++) assert_false(tdm_size_read(sizes[i], &b));
    assert_true(tdm_number_read("1e-5", &d) && d == 1e-5);
    assert_true(tdm_number_read("-.5E+2", &d) && d == -50);
    static const char *const numbers[] = {"", "-", ".", "e5", "1e", "1e+", "0x10", "nan", "inf", "1_000", "1,5", "007", "1 2", "1e999"};
    for (size_t i = 0; i < TDM_COUNT(numbers); i++) assert_false(tdm_number_read(numbers[i], &d));
}

/* docs/recipe.md cannot rot: a row for every key, with its default; and no row for a key that is gone. */
static void every_key_stands_in_the_documentation(void **state)
{
    (void)state;
    char *text = NULL, row[512];
    size_t bytes = 0;
    tdm_error err = {0};
    if (tdm_fs_read("docs/recipe.md", 1 << 20, &text, &bytes, &err) != TDM_OK) fail_msg("%s: %s", err.where, err.what);
    const tdm_key_table *tables[] = {&tdm_recipe_keys, &tdm_reward_keys, &tdm_source_keys};
    for (int t = 0; t < 3; t++)
        for (int i = 0; i < tables[t]->count; i++) {
            const tdm_key *k = &tables[t]->keys[i];
            snprintf(row, sizeof row, "\n| `%s` |", k->path);
            const char *at = strstr(text, row);
            if (!at) fail_msg("docs/recipe.md has no row for %s", k->path);
            char line[2048];
            snprintf(line, sizeof line, "%.*s", (int)strcspn(at + 1, "\n"), at + 1);
            for (const char *const *name = k->names; name && *name; name++) {
                snprintf(row, sizeof row, "`%s`", *name);
                if (!strstr(line, row)) fail_msg("docs/recipe.md: %s does not name %s", k->path, *name);
            }
            if (t > 0 || k->flags & TDM_KEY_REQUIRED || !k->fallback[0]) continue; /* a reward's defaults differ by its type */
            snprintf(row, sizeof row, "| `%s` |", k->fallback);
            if (!strstr(line, row)) fail_msg("docs/recipe.md: the default of %s is %s", k->path, k->fallback);
        }
    for (const char *p = text; (p = strstr(p, "\n| `")) != NULL; p++) {
        char key[128];
        snprintf(key, sizeof key, "%.*s", (int)strcspn(p + 4, "`"), p + 4);
        if (tdm_key_find(&tdm_recipe_keys, key) < 0 && tdm_key_find(&tdm_reward_keys, key) < 0 && tdm_key_find(&tdm_source_keys, key) < 0)
            fail_msg("docs/recipe.md: there is no key %s", key);
    }
    free(text);
}

/* data.eval is answered and scored as prompts of the training data are: there must be rewards to score it with. */
static void evaluation_needs_rewards(void **state)
{
    (void)state;
    tdm_recipe *r = NULL;
    tdm_error err;
    assert_int_equal(parse("model: {path: m}\ndata: {train: t, eval: e}\ntrain: {algorithm: sft}\n", &r, &err), TDM_ERR_RECIPE);
    expect_line(&err, "data.eval is scored by the rewards, and train.algorithm: sft has none (a.yaml:2:24): remove it, and use tandem eval on the checkpoints");
    assert_null(r);
}

/* What configs/ offers reads. */
static void the_recipes_that_come_along_are_recipes(void **state)
{
    (void)state;
    glob_t found;
    assert_int_equal(glob("configs/*.yaml", 0, NULL, &found), 0);
    assert_int_equal(glob("configs/learn/*.yaml", GLOB_APPEND, NULL, &found), 0);
    assert_true(found.gl_pathc > 20);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        tdm_error err = {0};
        tdm_recipe *r = NULL;
        if (tdm_recipe_open(&r, found.gl_pathv[i], NULL, 0, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
        tdm_recipe_close(r);
    }
    globfree(&found);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_the_design),
        cmocka_unit_test(values_arrive_as_written),
        cmocka_unit_test(fp8_keys_reach_the_weights),
        cmocka_unit_test(entries_of_data_train_take_what_they_lack_from_data),
        cmocka_unit_test(the_level_of_the_ratio_follows_that_of_the_correction),
        cmocka_unit_test(a_loss_brings_its_bounds),
        cmocka_unit_test(rloo_brings_its_baseline_and_its_kl),
        cmocka_unit_test(the_resolved_recipe_reads_back_to_itself),
        cmocka_unit_test(the_command_line_wins_and_is_remembered),
        cmocka_unit_test(replay_needs_neither_data_nor_reward),
        cmocka_unit_test(the_cpu_refuses_to_offload),
        cmocka_unit_test(a_device_offloads_activations_alone),
        cmocka_unit_test(a_tied_embedding_stays_on_the_device),
        cmocka_unit_test(a_resume_may_change_only_what_does_not_matter),
        cmocka_unit_test(a_resume_compares_rewards),
        cmocka_unit_test(sizes_and_numbers_have_one_meaning),
        cmocka_unit_test(every_key_stands_in_the_documentation),
        cmocka_unit_test(the_recipes_that_come_along_are_recipes),
        cmocka_unit_test(evaluation_needs_rewards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
