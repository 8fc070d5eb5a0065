/* labels: unit
 * tandem export: the merged model is base + scale B A rounded once, the adapter is the checkpoint's; damage is found.
 */
#include <math.h>

#include <jansson.h>

#include "memory/fs.h"
#include "runtime/cmd/commands.h"
#include "runtime/cmd/export.h"
#include "runtime/run/checkpoint.h"
#include "testing/scratch.h"
#include "testing/tiny_model.h"

#define MODELS "tests/golden/data/models/"

static tdm_status export(tdm_error *err, const char *const *words)
{
    char *argv[24] = {(char *)"export", (char *)"--threads", (char *)"1"};
    int argc = 3;
    while (*words) argv[argc++] = (char *)(uintptr_t)*words++;
    *err = (tdm_error){0};
    const tdm_status st = tdm_cmd_export(argc, argv, err);
    if (st != TDM_OK) tdm_error_print(err);
    return st;
}
#define EXPORT(err, ...) export(err, (const char *const[]){__VA_ARGS__, NULL})

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

static void adapter_of(fixture *f, const char *model, char adapter[256])
{
    (void)f;
    snprintf(adapter, 256, "%s/adapter", model);
    assert_true(tdm_fs_is_dir(adapter));
}

/* The definition, in double: no element may be further than one rounding to bf16 from it. */
static void check_merge(const char *model, const char *adapter, const char *merged, tdm_scheme scheme)
{
    tdm_session s = {0};
    tdm_model_file *file = NULL;
    const tdm_session_spec spec = {
        .model = model, .adapter_dir = adapter, .weights = {.scheme = scheme, .act = TDM_ACT_DYNAMIC}, .threads = 1};
    int64_t changed = 0;
    TINY_OK(tdm_session_plan(&s, &spec, err));
    TINY_OK(tdm_session_load(&s, err));
    TINY_OK(tdm_model_file_open(&file, merged, err));
    for (int64_t l = 0; l < s.config->layers; l++)
        for (int p = 0; p < TDM_PROJ_COUNT; p++) {
            char name[128];
            snprintf(name, sizeof name, "model.layers.%lld.%s.weight", (long long)l, tdm_proj_path_of(false, (tdm_proj)p));
            const tdm_tensor *t = tdm_model_file_find(file, name);
            assert_non_null(t);
            assert_string_equal(t->type, "BF16");
            const tdm_weight *w = &tdm_weights_layer(s.weights, l)->proj[p];
            const tdm_cview a = tdm_adapter_a(&s.adapter, l, (tdm_proj)p),
                            b = tdm_adapter_b(&s.adapter, l, (tdm_proj)p);
            float *row = malloc((size_t)w->codes.cols * sizeof *row);
            for (int64_t n = 0; n < w->codes.rows; n++) {
                tdm_tensor_read(t, n, 1, row);
                for (int64_t k = 0; k < w->codes.cols; k++) {
                    const size_t at = (size_t)(n * w->codes.stride + k);
                    double base;
                    if (w->scheme == TDM_SCHEME_BF16)
                        base = (double)tdm_bf16_to_f32(((const uint16_t *)w->codes.data)[at]);
                    else {
                        const float *scale = w->scale.data;
                        const int64_t i = w->scheme == TDM_SCHEME_FP8_TENSOR    ? 0
                                          : w->scheme == TDM_SCHEME_FP8_CHANNEL ? n
                                                                                : n / 128 * w->scale.cols + k / 128;
                        base = (double)tdm_e4m3_to_f32(((const uint8_t *)w->codes.data)[at]) * (double)scale[i];
                    }
                    double sum = 0;
                    for (int64_t r = 0; a.data && r < a.rows; r++)
                        sum += (double)tdm_bf16_to_f32(((const uint16_t *)b.data)[n * b.stride + r]) *
                               (double)tdm_bf16_to_f32(((const uint16_t *)a.data)[r * a.stride + k]);
                    const double want = base + (double)s.adapter.scale * sum;
                    assert_true(fabs((double)row[k] - want) <= ldexp(fabs(want), -8) * 1.01 + 1e-7);
                    changed += fabs(want - base) > ldexp(fabs(base), -8);
                }
            }
            free(row);
        }
    assert_true(changed > 100); /* the adapter does something */
    tdm_model_file_close(file);
    tdm_session_close(&s);
}

static void merged_is_the_sum(void **state)
{
    static const char *const models[] = {"llama3", "llama_linear", "mistral", "qwen2", "qwen3", "qwen3_wide"};
    static const char *const schemes[] = {"bf16", "fp8_tensor", "fp8_channel", "fp8_block"};
    fixture *f = *state;
    for (size_t m = 0; m < TDM_COUNT(models); m++)
        for (size_t i = 0; i < TDM_COUNT(schemes); i++) {
            char model[128], adapter[256], name[64];
            snprintf(model, sizeof model, MODELS "%s", models[m]);
            snprintf(name, sizeof name, "%zu-%zu", m, i);
            adapter_of(f, model, adapter);
            char *out = test_path(f->dir, name);
            assert_int_equal(EXPORT(&f->err, "--what", "merged", "--model", model, "--adapter", adapter, "--weights",
                                    schemes[i], "--output", out),
                             TDM_OK);
            check_merge(model, adapter, out, (tdm_scheme)i);
            free(out);
        }
}

/* Without quantized activations base + adapter and the merged model differ by one rounding of the weights. */
static void merged_scores_like_the_pair(void **state)
{
    fixture *f = *state;
    tdm_merge m = {.base = {.model = MODELS "qwen3",
                            .adapter_dir = MODELS "qwen3/adapter",
                            .kv_dtype = TDM_DTYPE_BF16,
                            .threads = 1,
                            .weights = {.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_NONE}},
                   .output = f->out,
                   .shard_bytes = 50000};
    TINY_OK(tdm_export_merged(&m, err));
    free(m.kept);
    assert_true(m.compared >= 32);
    assert_true(m.difference > 0 && m.difference < 0.1f);
    char *index = test_path(f->out, "model.safetensors.index.json"), *config = test_path(f->out, "config.json");
    assert_true(tdm_fs_is_file(index));
    unsigned long n;
    char *text = test_file_get(config, &n);
    assert_null(strstr(text, "quantization_config"));
    assert_non_null(strstr(text, "bfloat16"));
    free(text);
    free(index);
    free(config);
}

/* A checkpoint of the model's golden adapter, as a run writes it. */
static void make_run(fixture *f, int64_t step, const char *yaml, uint64_t base_hash)
{
    char *dir = test_path(f->dir, "run/checkpoints");
    tdm_session s = {0};
    int64_t count, made;
    const tdm_session_spec spec = {.model = MODELS "qwen3", .adapter_dir = MODELS "qwen3/adapter", .threads = 1};
    TINY_OK(tdm_session_plan(&s, &spec, err));
    const tdm_peft_pair *pairs = tdm_peft_pairs(s.peft, &count);
    tdm_st_entry *entries = tdm_peft_entries((tdm_peft_names){0}, pairs, count, (tdm_cview){0}, &made);
    json_t *config = tdm_peft_config_json(tdm_peft_config_of(s.peft)), *recipe = json_pack("{s:s}", "yaml", yaml);
    const float moment = 1;
    const tdm_st_entry optimizer = {.name = "m", .dtype = TDM_ST_F32, .rank = 1, .shape = {1}, .data = &moment};
    const tdm_checkpoint_state st = {
        .step = step, .base_hash = base_hash, .recipe = recipe, .recipe_hash = tdm_checkpoint_recipe_hash(recipe)};
    TINY_OK(tdm_checkpoint_write(dir,
                                 &(tdm_checkpoint_parts){.state = &st,
                                                         .adapter = entries,
                                                         .adapter_count = made,
                                                         .adapter_config = config,
                                                         .optimizer = &optimizer,
                                                         .optimizer_count = 1},
                                 0, err));
    json_decref(config);
    json_decref(recipe);
    free(entries);
    free(dir);
    tdm_session_close(&s);
}

static uint64_t hash_of(const char *model, tdm_scheme scheme)
{
    tiny_model t;
    tiny_open(&t, model, scheme, TDM_ACT_DYNAMIC, TDM_DTYPE_BF16, 1);
    uint64_t hash = 0;
    TINY_OK(tdm_weights_hash(t.weights, &hash, err));
    tiny_close(&t);
    return hash;
}

static const char recipe[] =
    "model: {path: " MODELS
    "qwen3, weights: fp8_channel}\ndata: {train: a.jsonl}\nreward: [{type: number, answer: '{answer}'}]\n"
    "output: runs/a\n";

static void adapter_is_the_newest_checkpoints(void **state)
{
    fixture *f = *state;
    make_run(f, 10, recipe, 1);
    make_run(f, 20, recipe, 1);
    char *run = test_path(f->dir, "run"), *older = test_path(run, "checkpoints/step-000010"),
         *second = test_path(f->dir, "second");
    assert_int_equal(EXPORT(&f->err, run, "--what", "adapter", "--output", f->out), TDM_OK);
    assert_int_equal(EXPORT(&f->err, older, "--what=adapter", "--output", second), TDM_OK);
    assert_int_not_equal(EXPORT(&f->err, older, "--what=adapter", "--output", second), TDM_OK); /* is there already */
    char *a = test_path(run, "checkpoints/step-000020/adapter/adapter_model.safetensors"),
         *b = test_path(f->out, "adapter_model.safetensors");
    unsigned long n, m;
    char *x = test_file_get(a, &n), *y = test_file_get(b, &m);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    /* one bit of the checkpoint changes: its checksum tells */
    x[n - 1] = (char)(x[n - 1] ^ 1);
    FILE *file = fopen(a, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(x, 1, n, file), n);
    fclose(file);
    char *third = test_path(f->dir, "third");
    assert_int_equal(EXPORT(&f->err, run, "--what", "adapter", "--output", third), TDM_ERR_INPUT);
    assert_non_null(strstr(f->err.what, "SHA-256"));
    assert_false(tdm_fs_is_dir(third));
    free(third);
    free(a);
    free(b);
    free(x);
    free(y);
    free(second);
    free(older);
    free(run);
}

static void a_run_merges_into_the_base_it_had(void **state)
{
    fixture *f = *state;
    char *run = test_path(f->dir, "run"), *other = test_path(f->dir, "other");
    make_run(f, 3, recipe, hash_of("qwen3", TDM_SCHEME_FP8_CHANNEL));
    assert_int_equal(EXPORT(&f->err, run, "--what", "merged", "--output", f->out), TDM_OK);
    check_merge(MODELS "qwen3", MODELS "qwen3/adapter", f->out, TDM_SCHEME_FP8_CHANNEL);
    make_run(f, 4, recipe, 12345); /* of another base */
    assert_int_equal(EXPORT(&f->err, run, "--what", "merged", "--output", other), TDM_ERR_INPUT);
    assert_non_null(strstr(f->err.what, "hash"));
    assert_int_equal(EXPORT(&f->err, run, "--what", "merged", "--output", other, "--weights", "bf16"), TDM_OK);
    check_merge(MODELS "qwen3", MODELS "qwen3/adapter", other, TDM_SCHEME_BF16);
    free(run);
    free(other);
}

static uint64_t stored_hash(const char *folder, json_t **quantization)
{
    tdm_model_file *file;
    tdm_weights *w;
    size_t bytes;
    uint64_t hash = 0;
    const tdm_weights_options o = {.scheme = TDM_SCHEME_BF16, .act = TDM_ACT_DYNAMIC};
    TINY_OK(tdm_model_file_open(&file, folder, err));
    TINY_OK(tdm_weights_bytes(file, &o, &bytes, err));
    void *region = aligned_alloc(64, tdm_align_up(bytes, 64));
    TINY_OK(tdm_weights_open(&w, file, &o, &(tdm_region){region, bytes, NULL, NULL}, err));
    TINY_OK(tdm_weights_hash(w, &hash, err));
    tdm_weights_close(w);
    tdm_model_file_close(file);
    free(region);
    char *path = test_path(folder, "config.json");
    json_t *config = json_load_file(path, 0, NULL);
    *quantization = json_incref(json_object_get(config, "quantization_config"));
    json_decref(config);
    free(path);
    return hash;
}

static void quantize_to(const char *model, const char *scheme, const char *out, const char *keep)
{
    tdm_error err = {0};
    char *argv[] = {(char *)"quantize", (char *)"--model", (char *)(uintptr_t)model, (char *)"--threads", (char *)"1", (char *)"--scheme",
                    (char *)(uintptr_t)scheme, (char *)"--output", (char *)(uintptr_t)out, (char *)"--keep-bf16", (char *)(uintptr_t)keep};
    if (tdm_cmd_quantize(keep ? 11 : 9, argv, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
}

/* Dequantize, add, requantize is what tandem quantize makes of the merged model, to the byte, and leaves nothing beside it. */
static void fp8_is_the_merged_model_quantized(void **state)
{
    static const char *const models[] = {"llama3", "qwen3", "qwen3_wide"}, *const schemes[] = {"fp8_tensor", "fp8_channel", "fp8_block"};
    fixture *f = *state;
    for (size_t m = 0; m < TDM_COUNT(models); m++)
        for (size_t i = 0; i < TDM_COUNT(schemes); i++) {
            char model[128], adapter[256];
            json_t *a, *b;
            tdm_names names = {0};
            char *merged = test_path(f->dir, "merged"), *again = test_path(f->dir, "again");
            snprintf(model, sizeof model, MODELS "%s", models[m]);
            adapter_of(f, model, adapter);
            assert_int_equal(EXPORT(&f->err, "--what", "merged", "--model", model, "--adapter", adapter, "--weights", "fp8_block", "--output", merged), TDM_OK);
            quantize_to(merged, schemes[i], again, NULL);
            assert_int_equal(EXPORT(&f->err, "--what", "merged", "--model", model, "--adapter", adapter, "--weights", "fp8_block", "--scheme", schemes[i],
                                    "--output", f->out),
                             TDM_OK);
            assert_true(stored_hash(f->out, &a) == stored_hash(again, &b));
            assert_true(a && json_equal(a, b));
            json_decref(a);
            json_decref(b);
            assert_int_equal(tdm_fs_list(f->dir, &names, NULL), TDM_OK);
            assert_int_equal(names.count, 3);
            tdm_names_free(&names);
            assert_int_equal(tdm_fs_remove_tree(merged, NULL) | tdm_fs_remove_tree(again, NULL) | tdm_fs_remove_tree(f->out, NULL), TDM_OK);
            free(merged);
            free(again);
        }
}

static void what_the_base_kept_stays_bf16(void **state)
{
    fixture *f = *state;
    char *base = test_path(f->dir, "base");
    json_t *q;
    quantize_to(MODELS "qwen3", "fp8_channel", base, "down_proj");
    assert_int_equal(EXPORT(&f->err, "--what", "merged", "--model", base, "--adapter", MODELS "qwen3/adapter", "--scheme", "fp8_block", "--format",
                            "compressed-tensors", "--output", f->out),
                     TDM_OK);
    stored_hash(f->out, &q);
    const json_t *ignore = json_object_get(q, "ignore");
    assert_int_equal(json_array_size(ignore), 3);
    assert_string_equal(json_string_value(json_array_get(ignore, 2)), "model.layers.1.mlp.down_proj");
    json_decref(q);
    free(base);
}

/* Q8_0 of each family, read back: half a step of a block from the merged weight, and what f16 rounds of its scale, in transformers' order of rows.
 * tests/conformance/check_gguf_q8.py compares the bytes with gguf-py's. */
static void gguf_holds_the_merged_model(void **state)
{
    static const char *const models[] = {"llama3", "llama_linear", "qwen2", "qwen3"};
    fixture *f = *state;
    for (size_t m = 0; m < TDM_COUNT(models); m++) {
        char model[128], adapter[256], name[64];
        tdm_model_file *a, *b;
        snprintf(model, sizeof model, MODELS "%s", models[m]);
        adapter_of(f, model, adapter);
        snprintf(name, sizeof name, "%s.gguf", models[m]);
        char *merged = test_path(f->dir, models[m]), *gguf = test_path(f->dir, name);
        assert_int_equal(EXPORT(&f->err, "--what", "merged", "--model", model, "--adapter", adapter, "--output", merged), TDM_OK);
        assert_int_equal(EXPORT(&f->err, "--what", "merged", "--model", model, "--adapter", adapter, "--scheme", "q8_0", "--output", gguf), TDM_OK);
        TINY_OK(tdm_model_file_open(&a, merged, err));
        TINY_OK(tdm_model_file_open(&b, gguf, err));
        const tdm_model_config *c = tdm_model_file_config(a), *d = tdm_model_file_config(b);
        assert_true(c->heads == d->heads && c->kv_heads == d->kv_heads && c->head_dim == d->head_dim && c->context == d->context && c->vocab == d->vocab);
        assert_true(c->norm_eps == d->norm_eps && c->qkv_bias == d->qkv_bias && c->tied_head == d->tied_head);
        for (int64_t i = 0; i < tdm_model_file_count(a); i++) {
            const tdm_tensor *x = tdm_model_file_at(a, i), *y = tdm_model_file_find(b, x->name);
            const int64_t rows = tdm_tensor_rows(x), cols = tdm_tensor_cols(x);
            assert_non_null(y);
            assert_true(tdm_tensor_rows(y) == rows && tdm_tensor_cols(y) == cols);
            float *p = malloc((size_t)(2 * rows * cols) * sizeof *p), *q = p + rows * cols;
            tdm_tensor_read(x, 0, rows, p);
            tdm_tensor_read(y, 0, rows, q);
            for (int64_t k = 0; k < rows * cols; k++) {
                float most = 0;
                for (int64_t j = k / 32 * 32; x->rank == 2 && j < k / 32 * 32 + 32; j++) most = fmaxf(most, fabsf(p[j]));
                assert_true(fabsf(p[k] - q[k]) <= most / 127 * 0.57f + 127 * 0x1p-25f);
            }
            free(p);
        }
        tdm_model_file_close(a);
        tdm_model_file_close(b);
        assert_int_equal(EXPORT(&f->err, "--what", "merged", "--model", model, "--adapter", adapter, "--scheme", "q8_0", "--output", gguf), TDM_ERR_RECIPE);
        assert_string_equal(f->err.what, "there is something of this name already");
        free(merged);
        free(gguf);
    }
    tdm_names names = {0};
    assert_int_equal(EXPORT(&f->err, "--what", "merged", "--scheme", "q8_0", "--model", MODELS "mistral", "--adapter", MODELS "mistral/adapter", "--output", f->out),
                     TDM_ERR_INPUT);
    assert_string_equal(f->err.what, "a mistral model is not written as GGUF, only llama, qwen2 and qwen3");
    assert_int_equal(tdm_fs_list(f->dir, &names, NULL), TDM_OK);
    assert_int_equal(names.count, 2 * TDM_COUNT(models));
    tdm_names_free(&names);
}

static void refuses_what_makes_no_sense(void **state)
{
    fixture *f = *state;
    assert_int_equal(EXPORT(&f->err, "--what", "merged", "--output", f->out), TDM_ERR_RECIPE);
    assert_int_equal(EXPORT(&f->err, f->dir, "--output", f->out), TDM_ERR_RECIPE);
    assert_int_equal(EXPORT(&f->err, f->dir, "--what", "both", "--output", f->out), TDM_ERR_RECIPE);
    assert_int_equal(EXPORT(&f->err, f->dir, "--what", "adapter"), TDM_ERR_RECIPE);
    assert_int_equal(EXPORT(&f->err, f->dir, "--what", "adapter", "--output", f->out),
                     TDM_ERR_INPUT); /* no checkpoint in it */
    assert_int_equal(EXPORT(&f->err, f->dir, "--what", "merged", "--adapter", "x", "--output", f->out), TDM_ERR_RECIPE);
    assert_int_equal(EXPORT(&f->err, "--what", "adapter", "--adapter", MODELS "qwen3/adapter", "--output", f->out),
                     TDM_ERR_RECIPE);
    assert_int_equal(EXPORT(&f->err, "--what", "merged", "--adapter", MODELS "qwen2/adapter", "--model", MODELS "qwen3",
                            "--output", f->out),
                     TDM_ERR_INPUT);
    assert_int_equal(EXPORT(&f->err, "--what", "merged", "--adapter", MODELS "qwen3/adapter", "--output", f->out),
                     TDM_ERR_RECIPE); /* no model */
#define PAIR "--model", MODELS "qwen3", "--adapter", MODELS "qwen3/adapter", "--output", f->out
    assert_int_equal(EXPORT(&f->err, "--what", "merged", "--scheme", "fp4", PAIR), TDM_ERR_RECIPE);
    assert_string_equal(f->err.what, "--scheme does not know \"fp4\"");
    assert_int_equal(EXPORT(&f->err, f->dir, "--what", "adapter", "--scheme", "fp8_block", "--output", f->out), TDM_ERR_RECIPE);
    assert_string_equal(f->err.what, "an adapter is not quantized");
    assert_int_equal(EXPORT(&f->err, "--what", "merged", "--format", "fp8", PAIR), TDM_ERR_RECIPE);
    assert_string_equal(f->err.what, "a BF16 model has one format");
    assert_int_equal(EXPORT(&f->err, "--what", "merged", "--scheme", "q8_0", "--format", "fp8", PAIR), TDM_ERR_RECIPE);
    assert_string_equal(f->err.what, "a GGUF model has one format");
    assert_int_equal(EXPORT(&f->err, "--what", "merged", "--scheme", "fp8_channel", "--format", "fp8", PAIR), TDM_ERR_RECIPE);
    assert_non_null(strstr(f->err.what, "one per row"));
    assert_int_equal(EXPORT(&f->err, "--what", "merged", "--scheme", "fp8_channel", "--format", "awq", PAIR), TDM_ERR_RECIPE);
    assert_string_equal(f->err.what, "--format does not know \"awq\"");
    tdm_names names = {0};
    assert_int_equal(tdm_fs_list(f->dir, &names, NULL), TDM_OK);
    assert_int_equal(names.count, 0);
    tdm_names_free(&names);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {CASE(merged_is_the_sum), CASE(merged_scores_like_the_pair),
                                       CASE(adapter_is_the_newest_checkpoints), CASE(a_run_merges_into_the_base_it_had),
                                       CASE(fp8_is_the_merged_model_quantized), CASE(what_the_base_kept_stays_bf16),
                                       CASE(gguf_holds_the_merged_model), CASE(refuses_what_makes_no_sense)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
