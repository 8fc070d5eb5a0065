/* labels: unit
 * tandem quantize: what is written reads back as the same bytes, and says what it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>
#include <jansson.h>

#include "memory/arch/arch.h"
#include "memory/fs.h"
#include "memory/json_read.h"
#include "runtime/cmd/commands.h"
#include "runtime/cmd/model_config_out.h"
#include "testing/opened_weights.h"
#include "testing/scratch.h"

#define MODELS "tests/golden/data/models/"

static tdm_status quantize(tdm_error *err, const char *model, const char *output, const char *scheme, const char *more)
{
    char *argv[16] = {(char *)"quantize",        (char *)"--model",         (char *)(uintptr_t)model,
                      (char *)"--output",        (char *)(uintptr_t)output, (char *)"--scheme",
                      (char *)(uintptr_t)scheme, (char *)"--threads",       (char *)"1"};
    int argc = 9;
    char text[256];
    snprintf(text, sizeof text, "%s", more);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) argv[argc++] = word;
    return tdm_cmd_quantize(argc, argv, err);
}

static json_t *read_json(const char *dir, const char *name)
{
    char *path = test_path(dir, name);
    json_t *out = NULL;
    TINY_OK(tdm_json_open(&out, path, err));
    free(path);
    return out;
}

/* The folder holds the model quantized with these options, to the byte; returns its quantization_config (or NULL). */
static json_t *check_same(const char *model, const char *dir, const tdm_weights_options *options)
{
    opened a, b;
    const tdm_weights_options as_stored = {.scheme = TDM_SCHEME_BF16, .act = TDM_ACT_DYNAMIC};
    open_weights(&a, model, options);
    open_weights(&b, dir, &as_stored);
    uint64_t hash_a, hash_b;
    TINY_OK(tdm_weights_hash(a.weights, &hash_a, err));
    TINY_OK(tdm_weights_hash(b.weights, &hash_b, err));
    assert_true(hash_a == hash_b);
    for (int64_t i = 0; i < tdm_weights_config(a.weights)->layers; i++)
        for (int p = 0; p < TDM_PROJ_COUNT; p++) {
            const tdm_weight *x = &tdm_weights_layer(a.weights, i)->proj[p],
                             *y = &tdm_weights_layer(b.weights, i)->proj[p];
            assert_int_equal(x->scheme, y->scheme);
            assert_int_equal(x->act, y->act);
        }
    close_weights(&a);
    close_weights(&b);
    json_t *config = read_json(dir, "config.json"), *q = json_incref(json_object_get(config, "quantization_config"));
    json_decref(config);
    return q;
}

static const char *text_at(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

typedef struct fixture {
    char *dir, *out;
    tdm_error err;
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->dir = test_scratch_new();
    f->out = test_path(f->dir, "made");
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    free(f->out);
    test_scratch_free(f->dir);
    free(f);
    return 0;
}

#define RUN(f, model, scheme, more)                                                                                    \
    do {                                                                                                               \
        if (quantize(&(f)->err, MODELS model, (f)->out, scheme, more) != TDM_OK) {                                     \
            tdm_error_print(&(f)->err);                                                                                \
            fail();                                                                                                    \
        }                                                                                                              \
    } while (0)

static void channel_is_compressed_tensors(void **state)
{
    fixture *f = *state;
    RUN(f, "llama3", "fp8_channel", "");
    json_t *q = check_same(MODELS "llama3", f->out,
                           &(tdm_weights_options){.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_DYNAMIC});
    assert_string_equal(text_at(q, "quant_method"), "compressed-tensors");
    assert_string_equal(text_at(q, "format"), "float-quantized");
    const json_t *group = json_object_get(json_object_get(q, "config_groups"), "group_0");
    assert_string_equal(text_at(json_object_get(group, "weights"), "strategy"), "channel");
    assert_string_equal(text_at(json_object_get(group, "input_activations"), "strategy"), "token");
    assert_true(json_is_true(json_object_get(json_object_get(group, "input_activations"), "dynamic")));
    assert_string_equal(json_string_value(json_array_get(json_object_get(q, "ignore"), 0)), "lm_head");
    json_decref(q);
}

static void every_model_every_scheme(void **state)
{
    static const char *const models[] = {"llama3", "llama_linear", "mistral", "qwen2", "qwen3", "qwen3_wide"};
    static const struct {
        const char *scheme, *more;
        tdm_weights_options options;
    } cases[] = {
        {"fp8_channel", "--activations none", {.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_NONE}},
        {"fp8_channel", "--pow2-scale", {.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_DYNAMIC, .pow2_weights = true, .pow2_acts = true}},
        {"fp8_block", "--pow2-weight-scales", {.scheme = TDM_SCHEME_FP8_BLOCK, .act = TDM_ACT_DYNAMIC, .pow2_weights = true}},
        {"fp8_block", "", {.scheme = TDM_SCHEME_FP8_BLOCK, .act = TDM_ACT_DYNAMIC}},
        {"fp8_block", "--format compressed-tensors", {.scheme = TDM_SCHEME_FP8_BLOCK, .act = TDM_ACT_DYNAMIC}},
        {"fp8_tensor", "", {.scheme = TDM_SCHEME_FP8_TENSOR, .act = TDM_ACT_DYNAMIC}},
        {"fp8_tensor", "--format fp8", {.scheme = TDM_SCHEME_FP8_TENSOR, .act = TDM_ACT_DYNAMIC}},
        {"bf16", "", {.scheme = TDM_SCHEME_BF16}},
    };
    fixture *f = *state;
    for (size_t m = 0; m < TDM_COUNT(models); m++)
        for (size_t i = 0; i < TDM_COUNT(cases); i++) {
            char model[128], name[64];
            snprintf(model, sizeof model, MODELS "%s", models[m]);
            snprintf(name, sizeof name, "%zu-%zu", m, i);
            char *out = test_path(f->dir, name);
            if (quantize(&f->err, model, out, cases[i].scheme, cases[i].more) != TDM_OK) {
                tdm_error_print(&f->err);
                fail();
            }
            json_t *q = check_same(model, out, &cases[i].options);
            assert_true((q != NULL) == (cases[i].options.scheme != TDM_SCHEME_BF16));
            json_decref(q);
            free(out);
        }
}

static void block_is_fine_grained(void **state)
{
    fixture *f = *state;
    RUN(f, "qwen3", "fp8_block", "");
    json_t *q = check_same(MODELS "qwen3", f->out,
                           &(tdm_weights_options){.scheme = TDM_SCHEME_FP8_BLOCK, .act = TDM_ACT_DYNAMIC});
    assert_string_equal(text_at(q, "quant_method"), "fp8");
    assert_string_equal(text_at(q, "activation_scheme"), "dynamic");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(q, "weight_block_size"), 1)), 128);
    json_decref(q);
}

static void kept_modules_are_named(void **state)
{
    fixture *f = *state;
    const char *const keep[] = {"down_proj", NULL};
    RUN(f, "qwen3", "fp8_channel", "--keep-bf16 down_proj --first-layers-bf16 1");
    json_t *q = check_same(
        MODELS "qwen3", f->out,
        &(tdm_weights_options){
            .scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_DYNAMIC, .first_layers_bf16 = 1, .keep_bf16 = keep});
    const json_t *ignore = json_object_get(q, "ignore");
    assert_true(json_array_size(ignore) >= 1 + 7 + 1);
    assert_string_equal(json_string_value(json_array_get(ignore, 1)), "model.layers.0.self_attn.q_proj");
    json_decref(q);
    char *out = test_path(f->dir, "block");
    assert_int_equal(quantize(&f->err, MODELS "qwen3", out, "fp8_block", "--keep-bf16 down_proj --first-layers-bf16 1"),
                     TDM_OK);
    q = check_same(
        MODELS "qwen3", out,
        &(tdm_weights_options){
            .scheme = TDM_SCHEME_FP8_BLOCK, .act = TDM_ACT_DYNAMIC, .first_layers_bf16 = 1, .keep_bf16 = keep});
    assert_true(json_equal(json_object_get(q, "modules_to_not_convert"), json_object_get(q, "ignored_layers")));
    json_decref(q);
    free(out);
}

static void expressions_name_modules(void **state)
{
    fixture *f = *state;
    const char *const keep[] = {"re:.*layers\\.1\\.mlp", NULL};
    RUN(f, "qwen3", "fp8_channel", "--keep-bf16 re:.*layers\\.1\\.mlp");
    json_t *q = check_same(MODELS "qwen3", f->out, &(tdm_weights_options){.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_DYNAMIC, .keep_bf16 = keep});
    const json_t *ignore = json_object_get(q, "ignore");
    assert_int_equal(json_array_size(ignore), 4);
    assert_string_equal(json_string_value(json_array_get(ignore, 1)), "model.layers.1.mlp.gate_proj");
    json_decref(q);
}

static void shards_have_an_index(void **state)
{
    fixture *f = *state;
    RUN(f, "qwen3", "fp8_channel", "--shard-gb 0.00005");
    json_t *index = read_json(f->out, "model.safetensors.index.json"), *map = json_object_get(index, "weight_map");
    assert_true(json_integer_value(json_object_get(json_object_get(index, "metadata"), "total_size")) > 50000);
    assert_string_not_equal(text_at(map, "model.embed_tokens.weight"), text_at(map, "model.norm.weight"));
    json_decref(index);
    json_decref(check_same(MODELS "qwen3", f->out,
                           &(tdm_weights_options){.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_DYNAMIC}));
}

static void fp8_models_are_written_again(void **state)
{
    fixture *f = *state;
    RUN(f, "qwen3", "fp8_block", "");
    char *again = test_path(f->dir, "again");
    assert_int_equal(quantize(&f->err, f->out, again, "fp8_block", "--format compressed-tensors"), TDM_OK);
    json_t *q = check_same(f->out, again, &(tdm_weights_options){.act = TDM_ACT_DYNAMIC});
    assert_string_equal(text_at(q, "quant_method"), "compressed-tensors");
    json_decref(q);
    free(again);
}

static void config_and_tokenizer_come_along(void **state)
{
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json", "generation_config.json"};
    fixture *f = *state;
    RUN(f, "llama3", "fp8_channel", "");
    for (size_t i = 0; i < TDM_COUNT(files); i++) {
        unsigned long n, m;
        char *from = test_path(MODELS "llama3", files[i]), *to = test_path(f->out, files[i]);
        char *a = test_file_get(from, &n), *b = test_file_get(to, &m);
        assert_int_equal(n, m);
        assert_memory_equal(a, b, n);
        free(a);
        free(b);
        free(from);
        free(to);
    }
    json_t *was = read_json(MODELS "llama3", "config.json"), *is = read_json(f->out, "config.json");
    json_object_del(is, "quantization_config");
    assert_true(json_equal(was, is));
    json_decref(was);
    json_decref(is);
}

static void expect_error(fixture *f, tdm_status want, const char *scheme, const char *more, const char *what)
{
    f->err = (tdm_error){0};
    assert_int_equal(quantize(&f->err, MODELS "qwen3", f->out, scheme, more), want);
    assert_non_null(strstr(f->err.what, what));
}

static void refuses_what_it_cannot_write(void **state)
{
    fixture *f = *state;
    tdm_names names = {0};
    expect_error(f, TDM_ERR_RECIPE, "fp8_channel", "--format fp8", "one per row");
    expect_error(f, TDM_ERR_RECIPE, "fp8_block", "--format fp8 --activations none", "activations");
    expect_error(f, TDM_ERR_RECIPE, "fp8", "", "does not know");
    expect_error(f, TDM_ERR_RECIPE, "fp8_channel", "--format gptq", "does not know");
    expect_error(f, TDM_ERR_RECIPE, "fp8_channel", "--tokenizer tests", "no tokenizer.json");
    expect_error(f, TDM_ERR_RECIPE, "fp8_channel", "--weights bf16", "unknown option");
    expect_error(f, TDM_ERR_RECIPE, "fp8_channel", "--device cuda", "unknown option");
    assert_int_equal(tdm_fs_list(f->dir, &names, NULL), TDM_OK);
    assert_int_equal(names.count, 0); /* nothing half written stays */
    tdm_names_free(&names);
}

/* The host reads the weights, so a device in the environment is for other commands. */
static void runs_on_the_cpu_whatever_the_environment_says(void **state)
{
    fixture *f = *state;
    const char *before = getenv("TANDEM_DEVICE");
    char *kept = before ? strdup(before) : NULL;
    assert_int_equal(setenv("TANDEM_DEVICE", "cuda", 1), 0);
    RUN(f, "qwen3", "fp8_channel", "");
    assert_int_equal(kept ? setenv("TANDEM_DEVICE", kept, 1) : unsetenv("TANDEM_DEVICE"), 0);
    free(kept);
}

static void refuses_a_folder_in_use(void **state)
{
    fixture *f = *state;
    assert_int_equal(mkdir(f->out, 0777), 0);
    RUN(f, "qwen3", "fp8_channel", ""); /* empty: fine */
    expect_error(f, TDM_ERR_RECIPE, "fp8_channel", "", "not empty");
    json_decref(check_same(MODELS "qwen3", f->out,
                           &(tdm_weights_options){.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_DYNAMIC}));
}

/* Each write, sync and rename fails in turn: an error, and nothing under the folder's name. */
static void a_failing_disk_leaves_nothing(void **state)
{
    fixture *f = *state;
    tdm_names names;
    for (int64_t n = 0;; n++) {
        f->err = (tdm_error){0};
        tdm_fault_arm(TDM_FAULT_ANY, n, false);
        const tdm_status st = quantize(&f->err, MODELS "qwen2", f->out, "fp8_channel", "");
        if (tdm_fault_disarm() == 0) {
            assert_int_equal(st, TDM_OK);
            break;
        }
        assert_int_not_equal(st, TDM_OK);
        assert_string_not_equal(f->err.what, "");
        assert_int_equal(tdm_fs_list(f->dir, &names, NULL), TDM_OK);
        if (names.count == 1) { /* only the last sync comes after the rename */
            assert_string_equal(names.names[0], "made");
            json_decref(check_same(MODELS "qwen2", f->out,
                                   &(tdm_weights_options){.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_DYNAMIC}));
            assert_int_equal(tdm_fs_remove_tree(f->out, NULL), TDM_OK);
        } else {
            assert_int_equal(names.count, 0);
        }
        tdm_names_free(&names);
    }
}

/* llama.cpp's divisors come from Llama 3's four numbers; they are found again. */
static void llama3_factors_are_recognised(void **state)
{
    (void)state;
    float plain[64], scaled[64];
    json_t *json = NULL;
    tdm_model_config c = {.arch = &tdm_arch_llama,
                          .model_type = "llama",
                          .layers = 1,
                          .width = 256,
                          .ffn = 64,
                          .heads = 2,
                          .kv_heads = 1,
                          .head_dim = 128,
                          .vocab = 8,
                          .context = 131072,
                          .norm_eps = 1e-5f,
                          .rope_theta = 500000,
                          .bos = 1,
                          .eos = {2, 3},
                          .eos_count = 2,
                          .tied_head = true};
    tdm_rope_inv_freq(&c, plain);
    c.rope = TDM_ROPE_LLAMA3;
    c.rope_factor = 32;
    c.rope_low_freq = 1;
    c.rope_high_freq = 4;
    c.rope_original_context = 8192;
    tdm_rope_inv_freq(&c, scaled);
    tdm_model_config g = c;
    g.rope = TDM_ROPE_FACTORS;
    for (int i = 0; i < 64; i++) g.rope_factors[i] = plain[i] / scaled[i];
    TINY_OK(tdm_model_config_json(&g, "test", &json, err));
    char *text = json_dumps(json, 0);
    tdm_model_config back;
    TINY_OK(tdm_model_config_parse(&back, text, strlen(text), NULL, 0, "test", err));
    assert_memory_equal(&back, &c, sizeof c);
    free(text);
    json_decref(json);
    g.rope_factors[20] *= 1.01f;
    tdm_error err = {0};
    assert_int_equal(tdm_model_config_json(&g, "test", &json, &err), TDM_ERR_INPUT);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(channel_is_compressed_tensors), CASE(every_model_every_scheme),      CASE(block_is_fine_grained),
        CASE(kept_modules_are_named), CASE(expressions_name_modules),        CASE(shards_have_an_index),          CASE(fp8_models_are_written_again),
        CASE(refuses_a_folder_in_use),       CASE(refuses_what_it_cannot_write),  CASE(config_and_tokenizer_come_along),
        CASE(a_failing_disk_leaves_nothing), CASE(llama3_factors_are_recognised), CASE(runs_on_the_cpu_whatever_the_environment_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
