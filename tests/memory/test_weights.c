/* labels: unit
 * What the weight store refuses, and that it names file and tensor: a one-layer model is written, then one thing about
 * it is changed. */
#include "memory/safetensors.h"
#include "memory/weights.h"
#include "testing/scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { ROOM = 24, D = 32 };
#define L0 "model.layers.0."

/* A llama of width 32 and vocabulary 32, one layer, every matrix [32, 32] but k and v; untied. */
typedef struct model {
    tdm_st_entry t[ROOM];
    int count;
    float values[ROOM][D * D];
    const char *more; /* of config.json, or "" */
} model;

static tdm_st_entry *add(model *m, const char *name, int64_t rows, int64_t cols)
{
    tdm_st_entry *e = &m->t[m->count];
    float *v = m->values[m->count++];
    for (int i = 0; i < D * D; i++) v[i] = (float)((i * 37 + m->count) % 101 - 50) / 64;
    *e = (tdm_st_entry){
        .name = name, .dtype = TDM_ST_F32, .rank = rows ? 2 : 1, .shape = {rows ? rows : cols, cols}, .data = v};
    return e;
}

static model *model_new(void)
{
    model *m = calloc(1, sizeof *m);
    m->more = "";
    add(m, "model.embed_tokens.weight", D, D);
    add(m, "lm_head.weight", D, D);
    add(m, "model.norm.weight", 0, D);
    add(m, L0 "input_layernorm.weight", 0, D);
    add(m, L0 "post_attention_layernorm.weight", 0, D);
    static const char *const proj[] = {L0 "self_attn.q_proj.weight", L0 "self_attn.k_proj.weight",
                                       L0 "self_attn.v_proj.weight", L0 "self_attn.o_proj.weight",
                                       L0 "mlp.gate_proj.weight",    L0 "mlp.up_proj.weight",
                                       L0 "mlp.down_proj.weight"};
    for (size_t i = 0; i < TDM_COUNT(proj); i++) add(m, proj[i], i == 1 || i == 2 ? D / 2 : D, D);
    return m;
}

static tdm_st_entry *find(model *m, const char *name)
{
    for (int i = 0; i < m->count; i++)
        if (strcmp(m->t[i].name, name) == 0) return &m->t[i];
    fail_msg("no %s", name);
    return NULL;
}

static float *values_of(model *m, const char *name) { return m->values[find(m, name) - m->t]; }

/* The matrix as FP8 codes 0x38 (1.0), with a scale for each row. */
static void store_fp8(model *m, const char *name, const char *scale)
{
    tdm_st_entry *e = find(m, name);
    memset(values_of(m, name), 0x38, D * D);
    e->dtype = TDM_ST_E4M3;
    if (!scale) return;
    add(m, scale, e->shape[0], 1);
    for (int i = 0; i < D; i++) values_of(m, scale)[i] = 0.5f;
}

static const tdm_weights_options channel = {
    .scheme = TDM_SCHEME_FP8_CHANNEL, .scheme_given = true, .act = TDM_ACT_DYNAMIC};

/* Writes the model, opens it, frees it. */
static tdm_status load(model *m, const tdm_weights_options *o, tdm_error *err)
{
    tdm_error saved = {0};
    tdm_model_file *f = NULL;
    tdm_weights *w;
    size_t bytes = 0;
    char config[2048], *dir = test_scratch_new(), *a = test_path(dir, "config.json"),
                       *b = test_path(dir, "model.safetensors");
    snprintf(config, sizeof config,
             "{\"model_type\":\"llama\",\"num_hidden_layers\":1,\"hidden_size\":32,\"intermediate_size\":32,\"num_"
             "attention_heads\":2,"
             "\"num_key_value_heads\":1,\"vocab_size\":32%s%s}",
             *m->more ? "," : "", m->more);
    test_file_put(a, config);
    if (tdm_safetensors_write(b, m->t, m->count, NULL, &saved) != TDM_OK) fail_msg("%s", saved.what);
    tdm_status st = tdm_model_file_open(&f, dir, err);
    if (st == TDM_OK) st = tdm_weights_bytes(f, o, &bytes, err);
    if (st == TDM_OK) {
        void *region = aligned_alloc(64, bytes);
        st = tdm_weights_open(&w, f, o, &(tdm_region){region, bytes, NULL, NULL}, err);
        if (st == TDM_OK)
            tdm_weights_close(w);
        else
            assert_null(w);
        free(region);
    }
    tdm_model_file_close(f);
    free(a);
    free(b);
    test_scratch_free(dir);
    free(m);
    return st;
}

static void refused(model *m, const tdm_weights_options *o, tdm_status status, const char *what, const char *tensor)
{
    tdm_error err = {0};
    const tdm_status st = load(m, o, &err);
    if (st != status || !strstr(err.what, what))
        fail_msg("status %d \"%s\", expected %d and something with \"%s\"", st, err.what, status, what);
    if (!strstr(err.where, tensor) && !strstr(err.what, tensor))
        fail_msg("\"%s\" (%s) does not name %s", err.what, err.where, tensor);
}

static void the_model_itself_loads(void **state)
{
    tdm_error err = {0};
    (void)state;
    if (load(model_new(), &channel, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
}

static void a_missing_extra_or_misshapen_tensor_is_named(void **state)
{
    (void)state;
    for (int i = 0; i < 12; i++) {
        model *m = model_new();
        const char *name = m->t[i].name;
        m->t[i] = m->t[--m->count];
        refused(m, &channel, TDM_ERR_INPUT, "is missing", name);
    }
    for (int i = 0; i < 12; i++) {
        model *m = model_new();
        const char *name = m->t[i].name;
        m->t[i].shape[0] -= 1;
        refused(m, &channel, TDM_ERR_INPUT, "the config implies", name);
    }
    static const char *const extra[] = {L0 "self_attn.q_proj.bias", "model.layers.1.mlp.up_proj.weight",
                                        L0 "mlp.up_proj.weight_scale", "v_head.weight"};
    for (size_t i = 0; i < TDM_COUNT(extra); i++) {
        model *m = model_new();
        add(m, extra[i], 0, D);
        refused(m, &channel, TDM_ERR_INPUT, "does not have", extra[i]);
    }
    model *m = model_new();
    find(m, "lm_head.weight")->dtype = TDM_ST_I32;
    refused(m, &channel, TDM_ERR_INPUT, "type I32", "lm_head.weight");
}

static void values_that_are_no_numbers_are_refused(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY, 3.4e38f};
    (void)state;
    for (size_t k = 0; k < 3 * TDM_COUNT(bad); k++) {
        static const char *const names[] = {"model.norm.weight", "model.embed_tokens.weight",
                                            L0 "mlp.down_proj.weight"};
        if (k / TDM_COUNT(bad) == 2 && k % TDM_COUNT(bad) == 3) continue; /* large but finite: FP8 with a large scale */
        for (int scheme = TDM_SCHEME_BF16; scheme <= TDM_SCHEME_FP8_BLOCK; scheme++) {
            model *m = model_new();
            const tdm_weights_options o = {.scheme = (tdm_scheme)scheme, .act = TDM_ACT_DYNAMIC};
            values_of(m, names[k / TDM_COUNT(bad)])[17] = bad[k % TDM_COUNT(bad)];
            refused(m, &o, TDM_ERR_INPUT, k % TDM_COUNT(bad) == 3 ? "does not fit BF16" : "column 17",
                    names[k / TDM_COUNT(bad)]);
        }
    }
}

static void names_known_to_be_harmless_are_skipped(void **state)
{
    tdm_error err = {0};
    model *m = model_new();
    (void)state;
    add(m, L0 "self_attn.rotary_emb.inv_freq", 0, 8);
    if (load(m, &channel, &err) != TDM_OK) fail_msg("%s", err.what);
}

static void a_head_beside_a_tied_embedding_must_be_equal(void **state)
{
    tdm_error err = {0};
    model *m = model_new();
    (void)state;
    m->more = "\"tie_word_embeddings\":true";
    refused(m, &channel, TDM_ERR_INPUT, "differs", "lm_head.weight");
    m = model_new();
    m->more = "\"tie_word_embeddings\":true";
    find(m, "lm_head.weight")->data = find(m, "model.embed_tokens.weight")->data;
    if (load(m, &channel, &err) != TDM_OK) fail_msg("%s", err.what);
}

static const char quantized_q[] =
    "\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"g\":{\"targets\":[\"re:.*q_"
    "proj\"],"
    "\"weights\":{\"type\":\"float\",\"num_bits\":8,\"strategy\":\"channel\"},"
    "\"input_activations\":{\"type\":\"float\",\"num_bits\":8,\"strategy\":\"token\",\"dynamic\":true}}}}";
#define Q L0 "self_attn.q_proj.weight"

static model *fp8_model(void)
{
    model *m = model_new();
    m->more = quantized_q;
    store_fp8(m, Q, Q "_scale");
    return m;
}

static void fp8_checkpoints_are_checked(void **state)
{
    tdm_error err = {0};
    const tdm_weights_options as_stored = {.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_DYNAMIC};
    static const float bad[] = {NAN, INFINITY, -1};
    (void)state;
    if (load(fp8_model(), &as_stored, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    for (size_t i = 0; i < TDM_COUNT(bad); i++) {
        model *m = fp8_model();
        values_of(m, Q "_scale")[3] = bad[i];
        refused(m, &as_stored, TDM_ERR_INPUT, "scale 3", Q "_scale");
    }
    for (int sign = 0; sign < 2; sign++) {
        model *m = fp8_model();
        ((unsigned char *)values_of(m, Q))[5 * D + 1] = sign ? 0xff : 0x7f;
        refused(m, &as_stored, TDM_ERR_INPUT, "row 5 is NaN", Q);
    }
    model *m = fp8_model();
    find(m, Q "_scale")->shape[0] = 1;
    refused(m, &as_stored, TDM_ERR_INPUT, "the config implies [32, 1]", Q "_scale");
    m = fp8_model();
    m->count--; /* the scale */
    refused(m, &as_stored, TDM_ERR_INPUT, "missing", "weight_scale");
    m = fp8_model();
    m->more = "";
    refused(m, &as_stored, TDM_ERR_INPUT, "does not say it is FP8", Q);
    m = model_new();
    m->more = quantized_q; /* but q_proj is F32 */
    refused(m, &as_stored, TDM_ERR_INPUT, "says it is FP8", Q);
    m = fp8_model();
    store_fp8(m, L0 "mlp.up_proj.weight", L0 "mlp.up_proj.weight_scale");
    refused(m, &as_stored, TDM_ERR_INPUT, "says it is not FP8", L0 "mlp.up_proj.weight");
}

static void a_recipe_that_contradicts_the_checkpoint_is_refused(void **state)
{
    static const char *const keep[] = {"q_proj", NULL};
    const tdm_weights_options block = {.scheme = TDM_SCHEME_FP8_BLOCK, .scheme_given = true, .act = TDM_ACT_DYNAMIC};
    const tdm_weights_options bf16 = {.scheme = TDM_SCHEME_BF16, .scheme_given = true, .act = TDM_ACT_DYNAMIC};
    const tdm_weights_options kept = {.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_DYNAMIC, .keep_bf16 = keep};
    const tdm_weights_options still = {.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_STATIC};
    (void)state;
    refused(fp8_model(), &block, TDM_ERR_RECIPE, "asks for fp8_block, the checkpoint is stored as fp8_channel", Q);
    refused(fp8_model(), &bf16, TDM_ERR_RECIPE, "asks for bf16, the checkpoint is stored as fp8_channel", Q);
    refused(fp8_model(), &kept, TDM_ERR_RECIPE, "keeps", Q);
    refused(fp8_model(), &still, TDM_ERR_RECIPE, "static", Q);
    refused(model_new(), &still, TDM_ERR_RECIPE, "static", Q);
}

static void damaged_shard_indexes_are_refused(void **state)
{
    static const struct {
        const char *index, *what;
    } bad[] = {
        {"{}", "weight_map"},
        {"{\"weight_map\":{\"a\":\"../model.safetensors\"}}", "not the name of a shard"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "not the name of a shard"},
        {"{\"weight_map\":{\"a\":\"sub/x.safetensors\"}}", "not the name of a shard"},
        {"{\"weight_map\":{\"a\":\".x.safetensors\"}}", "not the name of a shard"},
        {"{\"weight_map\":{\"a\":7}}", "not the name of a shard"},
        {"{\"weight_map\":{\"a\":\"absent.safetensors\"}}", "cannot open"},
        {"{\"weight_map\":{\"b\":\"x.safetensors\"}}", "b is missing"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"a\":\"x.safetensors\"}}", "duplicate"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\"}}", "c lies here"},
        {"[", "line 1"},
    };
    const float one = 1;
    const tdm_st_entry entries[] = {{.name = "a", .rank = 1, .shape = {1}, .data = &one},
                                    {.name = "c", .rank = 1, .shape = {1}, .data = &one}};
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(bad); i++) {
        tdm_error err = {0};
        tdm_model_file *f;
        char *dir = test_scratch_new(), *a = test_path(dir, "config.json"),
             *b = test_path(dir, "model.safetensors.index.json"), *c = test_path(dir, "x.safetensors");
        test_file_put(a, "{\"model_type\":\"llama\",\"num_hidden_layers\":1,\"hidden_size\":32,\"intermediate_size\":"
                         "32,\"num_attention_heads\":2,\"vocab_size\":32}");
        test_file_put(b, bad[i].index);
        assert_int_equal(tdm_safetensors_write(c, entries, 2, NULL, &err), TDM_OK);
        assert_int_equal(tdm_model_file_open(&f, dir, &err), TDM_ERR_INPUT);
        if (!strstr(err.what, bad[i].what))
            fail_msg("%s: \"%s\", expected something with \"%s\"", bad[i].index, err.what, bad[i].what);
        free(a);
        free(b);
        free(c);
        test_scratch_free(dir);
    }
}

static void layers_and_modules_can_stay_bf16(void **state)
{
    static const char *const keep[] = {"mlp.down_proj", NULL};
    const tdm_weights_options o = {
        .scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_DYNAMIC, .first_layers_bf16 = 1, .keep_bf16 = keep};
    tdm_error err = {0};
    tdm_model_file *f;
    tdm_weights *w;
    size_t bytes;
    (void)state;
    assert_int_equal(tdm_model_file_open(&f, "tests/golden/data/files/qwen3", &err), TDM_OK);
    assert_int_equal(tdm_weights_bytes(f, &o, &bytes, &err), TDM_OK);
    void *region = aligned_alloc(64, bytes);
    assert_int_equal(tdm_weights_open(&w, f, &o, &(tdm_region){region, bytes, NULL, NULL}, &err), TDM_OK);
    for (int p = 0; p < TDM_PROJ_COUNT; p++) {
        assert_int_equal(tdm_weights_layer(w, 0)->proj[p].scheme, TDM_SCHEME_BF16);
        assert_int_equal(tdm_weights_layer(w, 1)->proj[p].scheme,
                         p == TDM_PROJ_DOWN ? TDM_SCHEME_BF16 : TDM_SCHEME_FP8_CHANNEL);
    }
    tdm_weights_close(w);
    assert_int_equal(tdm_weights_open(&w, f, &o, &(tdm_region){region, bytes - 1, NULL, NULL}, &err), TDM_ERR_BUDGET);
    tdm_model_file_close(f);
    free(region);
}

/* Opens and loads bytes as a GGUF; whatever they are, it ends in weights or in an error with a text. */
static bool loads(const char *path, const char *bytes, size_t n)
{
    const tdm_weights_options o = {.scheme = TDM_SCHEME_FP8_BLOCK, .act = TDM_ACT_DYNAMIC};
    tdm_error err = {0};
    tdm_model_file *f = NULL;
    tdm_weights *w = NULL;
    size_t need = 0;
    void *region = NULL;
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    fclose(file);
    tdm_status st = tdm_model_file_open(&f, path, &err);
    if (st == TDM_OK) st = tdm_weights_bytes(f, &o, &need, &err);
    if (st == TDM_OK) {
        region = aligned_alloc(64, need);
        st = tdm_weights_open(&w, f, &o, &(tdm_region){region, need, NULL, NULL}, &err);
    }
    if (st != TDM_OK) assert_string_not_equal(err.what, "");
    tdm_weights_close(w);
    tdm_model_file_close(f);
    free(region);
    return st == TDM_OK;
}

static void damaged_models_end_in_an_error(void **state)
{
    unsigned long n;
    char *file = test_file_get("tests/golden/data/files/qwen3.gguf", &n), *dir = test_scratch_new(),
         *path = test_path(dir, "a.gguf");
    (void)state;
    assert_true(loads(path, file, n));
    for (unsigned long cut = 1; cut < n; cut += 499) assert_false(loads(path, file, cut));
    for (unsigned long bit = 0; bit < 8 * n; bit += bit < 8 * 3000 ? 41 : 1999) {
        file[bit / 8] = (char)(file[bit / 8] ^ (1 << bit % 8));
        (void)loads(path, file, n); /* a flipped bit of a weight is another weight */
        file[bit / 8] = (char)(file[bit / 8] ^ (1 << bit % 8));
    }
    free(file);
    free(path);
    test_scratch_free(dir);
}

/* Root mean square of a matrix's values; fails on one that is not finite. */
static double deviation(const tdm_weight *w)
{
    double squares = 0.0;
    for (int64_t r = 0; r < w->codes.rows; r++)
        for (int64_t c = 0; c < w->codes.cols; c++) {
            const int64_t i = r * w->codes.stride + c;
            float v = w->scheme == TDM_SCHEME_BF16 ? tdm_bf16_to_f32(((const uint16_t *)w->codes.data)[i]) : tdm_e4m3_to_f32(((const uint8_t *)w->codes.data)[i]);
            if (w->scheme == TDM_SCHEME_FP8_CHANNEL) v *= ((const float *)w->scale.data)[r];
            if (w->scheme == TDM_SCHEME_FP8_BLOCK) v *= ((const float *)w->scale.data)[r / TDM_FP8_BLOCK * w->scale.cols + c / TDM_FP8_BLOCK];
            if (w->scheme == TDM_SCHEME_FP8_TENSOR) v *= ((const float *)w->scale.data)[0];
            assert_true(isfinite(v));
            squares += (double)v * (double)v;
        }
    return sqrt(squares / (double)(w->codes.rows * w->codes.cols));
}

static void random_weights_are_those_of_a_fresh_model(void **state)
{
    static const tdm_scheme schemes[] = {TDM_SCHEME_BF16, TDM_SCHEME_FP8_TENSOR, TDM_SCHEME_FP8_CHANNEL, TDM_SCHEME_FP8_BLOCK};
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(schemes); i++) {
        tdm_model_file *f;
        tdm_weights *w;
        tdm_error err = {0};
        size_t bytes = 0;
        uint64_t hash[2];
        const tdm_weights_options o = {.scheme = schemes[i], .act = TDM_ACT_DYNAMIC};
        /* one by its config alone, once by its folder, whose weights are not looked at */
        for (int k = 0; k < 2; k++) {
            assert_int_equal(tdm_model_file_open_random(&f, k ? "tests/golden/data/models/qwen2" : "tests/golden/data/models/qwen2/config.json", &err), TDM_OK);
            assert_int_equal(tdm_weights_bytes(f, &o, &bytes, &err), TDM_OK);
            void *region = aligned_alloc(64, bytes);
            memset(region, k ? 0xFF : 0x11, bytes);
            assert_int_equal(tdm_weights_open(&w, f, &o, &(tdm_region){region, bytes, NULL, NULL}, &err), TDM_OK);
            assert_int_equal(tdm_weights_hash(w, &hash[k], &err), TDM_OK);
            const tdm_layer_weights *first = tdm_weights_layer(w, 0), *second = tdm_weights_layer(w, 1);
            for (int p = 0; p < TDM_PROJ_COUNT; p++) {
                const tdm_weight *a = &first->proj[p], *b = &second->proj[p];
                const double std = deviation(a);
                if (!(std > 0.015 && std < 0.03)) fail_msg("deviation %g", std);
                assert_memory_not_equal(a->codes.data, b->codes.data, (size_t)(a->codes.rows * a->codes.cols));
                for (int64_t c = 0; c < a->bias.cols; c++) assert_int_equal(((const uint16_t *)a->bias.data)[c], 0);
            }
            for (int64_t c = 0; c < first->norm_ffn.cols; c++) assert_int_equal(((const uint16_t *)first->norm_ffn.data)[c], tdm_f32_to_bf16(1.0f));
            assert_true(deviation(tdm_weights_embedding(w)) > 0.015);
            tdm_weights_close(w);
            tdm_model_file_close(f);
            free(region);
        }
        assert_true(hash[0] == hash[1]); /* no byte of the region is left as it was */
    }
}

/* qwen3 has a head of its own. The values come from files in one round and are drawn in the other. */
static void an_embedding_on_the_host_is_the_same_model(void **state)
{
    (void)state;
    const tdm_backend *be;
    tdm_error err = {0};
    assert_int_equal(tdm_backend_cpu(NULL, &be, &err), TDM_OK);
    for (int random = 0; random < 2; random++) {
        const char *path = "tests/golden/data/models/qwen3";
        tdm_model_file *f;
        tdm_weights *w[2];
        void *region[2];
        size_t bytes[2];
        uint64_t hash[2];
        assert_int_equal(random ? tdm_model_file_open_random(&f, path, &err) : tdm_model_file_open(&f, path, &err), TDM_OK);
        for (int host = 0; host < 2; host++) {
            const tdm_weights_options o = {.scheme = TDM_SCHEME_FP8_BLOCK, .act = TDM_ACT_DYNAMIC, .embedding_on_host = host};
            assert_int_equal(tdm_weights_bytes(f, &o, &bytes[host], &err), TDM_OK);
            region[host] = aligned_alloc(64, bytes[host]);
            assert_int_equal(tdm_weights_open(&w[host], f, &o, &(tdm_region){region[host], bytes[host], be, NULL}, &err), TDM_OK);
            assert_int_equal(tdm_weights_hash(w[host], &hash[host], &err), TDM_OK);
        }
        const tdm_cview a = tdm_weights_embedding(w[0])->codes, b = tdm_weights_embedding(w[1])->codes, head = tdm_weights_head(w[1])->codes;
        const tdm_weights_options o = {.embedding_on_host = true};
        const size_t size = (size_t)(a.rows * a.cols) * sizeof(uint16_t);
        assert_int_equal(bytes[0], bytes[1] + tdm_weights_host_bytes(f, &o));
        assert_true(tdm_weights_host_bytes(f, &o) >= size);
        assert_true((const char *)b.data + size <= (const char *)region[1] || (const char *)b.data >= (const char *)region[1] + bytes[1]);
        assert_true((const char *)head.data >= (const char *)region[1] && (const char *)head.data < (const char *)region[1] + bytes[1]);
        assert_memory_equal(a.data, b.data, size);
        assert_memory_equal((const char *)region[0] + bytes[0] - bytes[1], region[1], bytes[1]);
        assert_true(hash[0] == hash[1]);
        for (int host = 0; host < 2; host++) {
            tdm_weights_close(w[host]);
            free(region[host]);
        }
        tdm_model_file_close(f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_model_itself_loads),
        cmocka_unit_test(a_missing_extra_or_misshapen_tensor_is_named),
        cmocka_unit_test(values_that_are_no_numbers_are_refused),
        cmocka_unit_test(names_known_to_be_harmless_are_skipped),
        cmocka_unit_test(a_head_beside_a_tied_embedding_must_be_equal),
        cmocka_unit_test(fp8_checkpoints_are_checked),
        cmocka_unit_test(a_recipe_that_contradicts_the_checkpoint_is_refused),
        cmocka_unit_test(damaged_shard_indexes_are_refused),
        cmocka_unit_test(layers_and_modules_can_stay_bf16),
        cmocka_unit_test(damaged_models_end_in_an_error),
        cmocka_unit_test(random_weights_are_those_of_a_fresh_model),
        cmocka_unit_test(an_embedding_on_the_host_is_the_same_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
