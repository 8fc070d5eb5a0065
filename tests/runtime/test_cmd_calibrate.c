/* labels: unit
 * tandem calibrate: what it says of each module, that weights take it, to the bit, from its file and from a checkpoint made with it, and which
 * files and combinations are refused. tests/conformance/check_calibrated.py compares the magnitudes with transformers'. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "memory/fs.h"
#include "memory/json_read.h"
#include "runtime/cmd/commands.h"
#include "testing/opened_weights.h"
#include "testing/scratch.h"

#define QWEN3 "tests/golden/data/models/qwen3"

typedef struct fixture {
    char *dir, *data, *scales, *out;
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->dir = test_scratch_new();
    f->data = test_path(f->dir, "text.jsonl");
    f->scales = test_path(f->dir, "scales.json");
    f->out = test_path(f->dir, "made");
    test_file_put(f->data, "{\"text\":\"The quick brown fox\"}\n{\"text\":\"jumps over 17 lazy dogs\",\"b\":\"x\"}\n{\"text\":\"and runs away again\"}\n");
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    free(f->data);
    free(f->scales);
    free(f->out);
    test_scratch_free(f->dir);
    free(f);
    return 0;
}

/* Words of one command line after its name. */
static tdm_status call(tdm_status (*command)(int, char **, tdm_error *), tdm_error *err, const char *line)
{
    char text[4096], *argv[32];
    int argc = 0;
    *err = (tdm_error){0};
    snprintf(text, sizeof text, "%s", line);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) argv[argc++] = word;
    return command(argc, argv, err);
}

static tdm_status calibrate(const fixture *f, tdm_error *err, const char *more)
{
    char line[2048];
    snprintf(line, sizeof line, "calibrate --model " QWEN3 " --device cpu --threads 1 --data %s --output %s %s", f->data, f->scales, more);
    return call(tdm_cmd_calibrate, err, line);
}

static tdm_status quantize(const fixture *f, tdm_error *err, const char *model, const char *more)
{
    char line[2048];
    snprintf(line, sizeof line, "quantize --model %s --threads 1 --scheme fp8_tensor --activations static --output %s %s", model, f->out, more);
    return call(tdm_cmd_quantize, err, line);
}

static json_t *must_calibrate(const fixture *f, const char *more)
{
    tdm_error bad;
    json_t *said = NULL;
    if (calibrate(f, &bad, more) != TDM_OK) fail_msg("%s (%s)", bad.what, bad.where);
    TINY_OK(tdm_json_open(&said, f->scales, err));
    return said;
}

static double of(const json_t *said, const char *module) { return json_number_value(json_object_get(json_object_get(said, "modules"), module)); }

static void every_module_has_a_magnitude(void **state)
{
    const fixture *f = *state;
    json_t *said = must_calibrate(f, ""), *few = must_calibrate(f, "--method percentile --percentile 90"), *two = must_calibrate(f, "--limit 2 --context 8");
    assert_int_equal(json_object_size(json_object_get(said, "modules")), 2 * TDM_PROJ_COUNT);
    assert_int_equal(json_object_size(json_object_get(said, "kv")), 2);
    assert_int_equal(json_integer_value(json_object_get(said, "rows")), 3);
    assert_int_equal(json_integer_value(json_object_get(two, "rows")), 2);
    assert_int_equal(json_integer_value(json_object_get(two, "tokens")), 14);
    assert_true(of(said, "model.layers.1.self_attn.q_proj") == of(said, "model.layers.1.self_attn.v_proj"));
    assert_true(of(said, "model.layers.0.mlp.gate_proj") == of(said, "model.layers.0.mlp.up_proj"));
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(said, "modules"), name, value)
    {
        assert_true(of(few, name) < json_real_value(value) && of(few, name) > 0.01 * json_real_value(value));
        assert_true(of(two, name) <= json_real_value(value));
    }
    json_decref(said);
    json_decref(few);
    json_decref(two);
}

static void expect_scales(const tdm_weights *w, const json_t *said, bool pow2)
{
    char name[TDM_MODULE_BYTES];
    for (int64_t l = 0; l < tdm_weights_config(w)->layers; l++) {
        const tdm_layer_weights *layer = tdm_weights_layer(w, l);
        for (int p = 0; p < TDM_PROJ_COUNT; p++) {
            tdm_module_name(tdm_weights_config(w), name, l, (tdm_proj)p);
            assert_int_equal(layer->proj[p].act, TDM_ACT_STATIC);
            assert_true(layer->proj[p].input_scale == tdm_fp8_scale((float)of(said, name), pow2));
        }
        snprintf(name, sizeof name, "model.layers.%d.self_attn", (int)l);
        const json_t *kv = json_object_get(json_object_get(said, "kv"), name);
        assert_true(layer->k_scale == tdm_fp8_scale((float)json_number_value(json_array_get(kv, 0)), false));
        assert_true(layer->v_scale == tdm_fp8_scale((float)json_number_value(json_array_get(kv, 1)), false));
    }
    assert_true(tdm_weights_kv_scaled(w));
}

static void weights_take_the_scales_and_a_checkpoint_keeps_them(void **state)
{
    const fixture *f = *state;
    tdm_error bad;
    json_t *said = must_calibrate(f, "");
    for (int pow2 = 0; pow2 < 2; pow2++) {
        const tdm_weights_options o = {.scheme = TDM_SCHEME_FP8_TENSOR, .scheme_given = true, .act = TDM_ACT_STATIC, .activation_scales = f->scales,
                                       .pow2_acts = pow2},
                                  stored = {.scheme = TDM_SCHEME_FP8_TENSOR, .act = TDM_ACT_DYNAMIC};
        opened a, b;
        uint64_t hash[2];
        char more[512];
        open_weights(&a, QWEN3, &o);
        expect_scales(a.weights, said, pow2);
        snprintf(more, sizeof more, "--kv-scales --activation-scales %s %s", f->scales, pow2 ? "--pow2-activation-scales --format fp8" : "");
        if (quantize(f, &bad, QWEN3, more) != TDM_OK) fail_msg("%s (%s)", bad.what, bad.where);
        open_weights(&b, f->out, &stored);
        expect_scales(b.weights, said, pow2);
        TINY_OK(tdm_weights_hash(a.weights, &hash[0], err));
        TINY_OK(tdm_weights_hash(b.weights, &hash[1], err));
        assert_true(hash[0] == hash[1]);
        close_weights(&a);
        close_weights(&b);
        assert_int_equal(tdm_fs_remove_tree(f->out, NULL), TDM_OK);
    }
    json_decref(said);
}

/* A cache in another format keeps its scales to itself, and the weights load. */
static void scales_of_another_cache_are_not_taken(void **state)
{
    const fixture *f = *state;
    const tdm_weights_options stored = {.scheme = TDM_SCHEME_FP8_TENSOR, .act = TDM_ACT_DYNAMIC};
    tdm_error bad;
    opened b;
    char more[512], *path;
    json_t *config = NULL;
    json_decref(must_calibrate(f, ""));
    snprintf(more, sizeof more, "--kv-scales --activation-scales %s", f->scales);
    assert_int_equal(quantize(f, &bad, QWEN3, more), TDM_OK);
    path = test_path(f->out, "config.json");
    TINY_OK(tdm_json_open(&config, path, err));
    json_object_set_new(json_object_get(json_object_get(config, "quantization_config"), "kv_cache_scheme"), "type", json_string("int"));
    assert_int_equal(json_dump_file(config, path, 0), 0);
    open_weights(&b, f->out, &stored);
    assert_true(tdm_weights_layer(b.weights, 0)->k_scale == 1.0f && !tdm_weights_kv_scaled(b.weights));
    close_weights(&b);
    json_decref(config);
    free(path);
}

static void expect_refused(const fixture *f, const char *model, const char *more, tdm_status want, const char *what)
{
    tdm_error bad;
    const tdm_status st = quantize(f, &bad, model, more);
    if (st != want || !strstr(bad.what, what)) fail_msg("status %d, \"%s\" (%s), expected \"%s\"", (int)st, bad.what, bad.where, what);
    assert_string_not_equal(bad.hint, "");
}

static void refuses_what_has_no_scale(void **state)
{
    static const struct {
        const char *text, *what;
    } files[] = {
        {"{\"modules\":{\"model.layers.0.self_attn.q_proj\":1}}", "it has no model.layers.0.self_attn.k_proj"},
        {"{\"modules\":{\"model.layers.2.self_attn.q_proj\":1}}", "this model has no module model.layers.2.self_attn.q_proj"},
        {"{\"modules\":{\"model.layers.0.self_attn.qkv_proj\":1}}", "this model has no module model.layers.0.self_attn.qkv_proj"},
        {"{\"modules\":{\"lm_head\":1}}", "this model has no module lm_head"},
        {"{\"modules\":{\"model.layers.0.mlp.up_proj\":0}}", "the magnitude of model.layers.0.mlp.up_proj is not a positive number"},
        {"{\"modules\":{\"model.layers.0.mlp.up_proj\":1e39}}", "the magnitude of model.layers.0.mlp.up_proj is not a positive number"},
        {"{\"modules\":{\"model.layers.0.mlp.up_proj\":\"2\"}}", "the magnitude of model.layers.0.mlp.up_proj is not a positive number"},
        {"{\"modules\":{},\"kv\":{\"model.layers.0.mlp\":[1,1]}}", "this model has no module model.layers.0.mlp"},
        {"{\"modules\":{},\"kv\":{\"model.layers.0.self_attn\":[1]}}", "the magnitude of model.layers.0.self_attn is not a positive number"},
        {"{\"scales\":{}}", "there are no \"modules\" in it"},
    };
    const fixture *f = *state;
    tdm_error bad;
    char more[512];
    expect_refused(f, QWEN3, "", TDM_ERR_RECIPE, "static activation scales, which only a calibrated FP8 checkpoint has");
    snprintf(more, sizeof more, "--activation-scales %s", f->scales);
    for (size_t i = 0; i < TDM_COUNT(files); i++) {
        test_file_put(f->scales, files[i].text);
        expect_refused(f, QWEN3, more, TDM_ERR_INPUT, files[i].what);
    }
    json_decref(must_calibrate(f, ""));
    expect_refused(f, QWEN3, "--activations dynamic --kv-scales", TDM_ERR_RECIPE, "keys and values have no scales");
    assert_int_equal(quantize(f, &bad, QWEN3, more), TDM_OK);
    char again[512];
    fixture other = *f;
    snprintf(again, sizeof again, "%s/again", f->dir);
    other.out = again;
    expect_refused(&other, f->out, more, TDM_ERR_RECIPE, "activation scales of a file are for weights that are quantized here, the checkpoint is stored as fp8_tensor");
}

static void options_that_mean_nothing_are_refused(void **state)
{
    static const struct {
        const char *more, *what;
    } cases[] = {
        {"--method median", "--method does not know \"median\""},
        {"--method percentile --percentile 0", "a percentile of 0 leaves nothing"},
        {"--activation-scales x.json", "calibration makes these scales"},
        {"--text {nothing}", "the template wants the column \"nothing\""},
        {"--text {b}", "the template wants the column \"b\""}, /* of the first row */
    };
    const fixture *f = *state;
    tdm_error bad;
    for (size_t i = 0; i < TDM_COUNT(cases); i++) {
        assert_int_not_equal(calibrate(f, &bad, cases[i].more), TDM_OK);
        if (!strstr(bad.what, cases[i].what)) fail_msg("\"%s\", expected \"%s\"", bad.what, cases[i].what);
    }
    test_file_put(f->data, "{\"text\":\"\"}\n");
    assert_int_equal(calibrate(f, &bad, ""), TDM_ERR_INPUT);
    assert_string_equal(bad.what, "no row has two tokens");
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(every_module_has_a_magnitude), CASE(weights_take_the_scales_and_a_checkpoint_keeps_them), CASE(scales_of_another_cache_are_not_taken),
        CASE(refuses_what_has_no_scale), CASE(options_that_mean_nothing_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
