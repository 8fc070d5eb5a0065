/* Adapter files: what PEFT wrote is read to the bit, what we do not compute is refused by its name, what is broken is named.
 * labels: unit, golden */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "testing/scratch.h"
#include "memory/arch/arch.h"
#include "train/peft.h"

#define GOLDEN "tests/golden/data/peft"

/* The model of make_goldens_peft.py. */
static tdm_model_config tiny(void)
{
    return (tdm_model_config){.arch = &tdm_arch_llama, .layers = 2, .width = 8, .ffn = 12, .heads = 2, .kv_heads = 1, .head_dim = 4, .vocab = 16};
}

static float value_at(tdm_cview v, int64_t i)
{
    float f;
    uint32_t u = 0;
    if (v.dtype == TDM_DTYPE_F32) memcpy(&u, (const char *)v.data + 4 * i, 4);
    else memcpy((char *)&u + 2, (const char *)v.data + 2 * i, 2);
    memcpy(&f, &u, 4);
    return f;
}

static void expect_values(tdm_cview v, const json_t *list)
{
    assert_int_equal(json_array_size(list), v.rows * v.cols);
    for (int64_t i = 0; i < v.rows * v.cols; i++) {
        float want = (float)json_number_value(json_array_get(list, (size_t)i));
        if (value_at(v, i) != want) fail_msg("element %lld is %.9g, want %.9g", (long long)i, (double)value_at(v, i), (double)want);
    }
}

static void reads_to_the_bit_what_peft_wrote(void **state)
{
    (void)state;
    json_t *expect = json_load_file(GOLDEN "/expect.json", 0, NULL);
    assert_non_null(expect);
    const char *name;
    json_t *want;
    json_object_foreach(json_object_get(expect, "read"), name, want)
    {
        char dir[128];
        tdm_peft *p;
        tdm_error err = {0};
        tdm_model_config model = tiny();
        snprintf(dir, sizeof dir, GOLDEN "/%s", name);
        tdm_status st = tdm_peft_open(&p, dir, &model, &err);
        if (st != TDM_OK) tdm_error_print(&err);
        assert_int_equal(st, TDM_OK);
        const tdm_peft_config *c = tdm_peft_config_of(p);
        assert_int_equal(c->rank, json_integer_value(json_object_get(want, "r")));
        assert_true(tdm_peft_scaling(c) == json_number_value(json_object_get(want, "scaling")));
        assert_true(c->dropout == json_number_value(json_object_get(want, "dropout")));
        const json_t *tensors = json_object_get(want, "tensors");
        int64_t count;
        const tdm_peft_pair *pairs = tdm_peft_pairs(p, &count);
        assert_int_equal(count * 2, json_object_size(tensors));
        for (int64_t i = 0; i < count; i++) {
            char tensor[TDM_PEFT_NAME_BYTES];
            assert_true(c->targets[pairs[i].proj]);
            tdm_peft_tensor_name(tensor, (tdm_peft_names){0}, pairs[i].layer, pairs[i].proj, 0, false);
            expect_values(pairs[i].a, json_object_get(tensors, tensor));
            tdm_peft_tensor_name(tensor, (tdm_peft_names){0}, pairs[i].layer, pairs[i].proj, 0, true);
            expect_values(pairs[i].b, json_object_get(tensors, tensor));
            if (i > 0) assert_true(pairs[i - 1].layer < pairs[i].layer || pairs[i - 1].proj < pairs[i].proj);
        }
        tdm_peft_close(p);
    }
    json_decref(expect);
}

static void what_is_not_plain_lora_is_refused_by_its_name(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"dora", "use_dora"},         {"rank_pattern", "rank_pattern"}, {"alpha_pattern", "alpha_pattern"}, {"modules_to_save", "modules_to_save"},
        {"bias", "\"bias\""},         {"lora_bias", "lora_bias"},       {"lm_head", "lm_head"},             {"embed", "embed_tokens"},
        {"tokens", "trainable_token_indices"}, {"pissa", "init_lora_weights"}, {"alora", "alora_invocation_tokens"}, {"parameters", "target_parameters"},
    };
    json_t *expect = json_load_file(GOLDEN "/expect.json", 0, NULL);
    assert_int_equal(json_array_size(json_object_get(expect, "refused")), TDM_COUNT(cases));
    json_decref(expect);
    for (size_t i = 0; i < TDM_COUNT(cases); i++) {
        char dir[128];
        tdm_peft *p;
        tdm_error err = {0};
        tdm_model_config model = tiny();
        snprintf(dir, sizeof dir, GOLDEN "/%s", cases[i][0]);
        assert_int_equal(tdm_peft_open(&p, dir, &model, &err), TDM_ERR_INPUT);
        assert_null(p);
        if (!strstr(err.what, cases[i][1])) fail_msg("%s: \"%s\" does not name %s", cases[i][0], err.what, cases[i][1]);
        assert_string_not_equal(err.hint, "");
    }
}

/* ---- our own files ---- */

enum { RANK = 2, MAX_PAIRS = 14, MAX_VALUES = 4096 };
typedef struct made {
    tdm_peft_config config;
    tdm_peft_pair pairs[MAX_PAIRS];
    int64_t count;
    float values[MAX_VALUES];
} made;

static void make(made *m, const bool targets[TDM_PROJ_COUNT])
{
    tdm_model_config model = tiny();
    memset(m, 0, sizeof *m);
    m->config = (tdm_peft_config){.rank = RANK, .alpha = 4, .base_model = "models/tiny \"quoted\""};
    size_t at = 0;
    for (size_t i = 0; i < MAX_VALUES; i++) m->values[i] = (float)i / 16 - 3;
    for (int64_t layer = 0; layer < model.layers; layer++) {
        for (int p = 0; p < TDM_PROJ_COUNT; p++) {
            int64_t n, k;
            if (!(m->config.targets[p] = targets[p])) continue;
            tdm_proj_shape(&model, (tdm_proj)p, &n, &k);
            tdm_peft_pair *pair = &m->pairs[m->count++];
            *pair = (tdm_peft_pair){.layer = layer, .proj = (tdm_proj)p};
            pair->a = (tdm_cview){m->values + at, TDM_DTYPE_F32, RANK, k, k};
            at += (size_t)(RANK * k);
            pair->b = (tdm_cview){m->values + at, TDM_DTYPE_F32, n, RANK, RANK};
            at += (size_t)(RANK * n);
            assert_true(at <= MAX_VALUES);
        }
    }
}

static const bool all_targets[TDM_PROJ_COUNT] = {true, true, true, true, true, true, true};
static const bool two_targets[TDM_PROJ_COUNT] = {[TDM_PROJ_Q] = true, [TDM_PROJ_DOWN] = true};

static void what_is_saved_comes_back(void **state)
{
    (void)state;
    char *dir = test_scratch_new();
    const bool *const sets[] = {all_targets, two_targets};
    for (size_t s = 0; s < TDM_COUNT(sets); s++) {
        static made m;
        tdm_peft *p;
        tdm_error err = {0};
        tdm_model_config model = tiny();
        make(&m, sets[s]);
        assert_int_equal(tdm_peft_save(dir, &m.config, m.pairs, m.count, (tdm_cview){0}, &err), TDM_OK);
        assert_int_equal(tdm_peft_open(&p, dir, &model, &err), TDM_OK);
        assert_memory_equal(tdm_peft_config_of(p), &m.config, sizeof m.config);
        int64_t count;
        const tdm_peft_pair *pairs = tdm_peft_pairs(p, &count);
        assert_int_equal(count, m.count);
        for (int64_t i = 0; i < count; i++) {
            assert_int_equal(pairs[i].layer, m.pairs[i].layer);
            assert_int_equal(pairs[i].proj, m.pairs[i].proj);
            assert_memory_equal(pairs[i].a.data, m.pairs[i].a.data, (size_t)(pairs[i].a.rows * pairs[i].a.cols) * 4);
            assert_memory_equal(pairs[i].b.data, m.pairs[i].b.data, (size_t)(pairs[i].b.rows * pairs[i].b.cols) * 4);
        }
        tdm_peft_close(p);
    }
    test_scratch_free(dir);
}

/* Saves pairs with one change and expects the error to say `what` somewhere. */
static void expect_refused(const char *dir, const made *m, const char *what)
{
    tdm_peft *p;
    tdm_error err = {0};
    tdm_model_config model = tiny();
    assert_int_equal(tdm_peft_save(dir, &m->config, m->pairs, m->count, (tdm_cview){0}, &err), TDM_OK);
    assert_int_equal(tdm_peft_open(&p, dir, &model, &err), TDM_ERR_INPUT);
    assert_null(p);
    if (!strstr(err.what, what) && !strstr(err.where, what)) fail_msg("neither \"%s\" nor \"%s\" says %s", err.what, err.where, what);
}

static void what_is_missing_misshapen_or_not_finite_is_named(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *weights = test_path(dir, "adapter_model.safetensors"), *config = test_path(dir, "adapter_config.json");
    static made m;

    make(&m, two_targets);
    m.count--;
    expect_refused(dir, &m, "layers.1.mlp.down_proj.lora_A.weight is missing");

    make(&m, two_targets);
    m.config.targets[TDM_PROJ_Q] = false;
    expect_refused(dir, &m, "q_proj is not in target_modules");

    make(&m, two_targets);
    m.config.rank = 3;
    expect_refused(dir, &m, "layers.0.self_attn.q_proj.lora_A.weight");

    make(&m, two_targets);
    m.pairs[3].layer = 2;
    expect_refused(dir, &m, "has 2 layers");

    make(&m, two_targets);
    m.pairs[3].b.rows--;
    expect_refused(dir, &m, "[7, 2]");

    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < TDM_COUNT(bad); i++) {
        make(&m, two_targets);
        m.values[(const float *)m.pairs[2].b.data - m.values + 5] = bad[i];
        expect_refused(dir, &m, "layers.1.self_attn.q_proj.lora_B.weight");
    }

    make(&m, two_targets); /* one half of a pair */
    int64_t entry_count;
    tdm_error err = {0};
    tdm_peft *p;
    tdm_model_config model = tiny();
    assert_int_equal(tdm_peft_save(dir, &m.config, m.pairs, m.count, (tdm_cview){0}, &err), TDM_OK);
    tdm_st_entry *entries = tdm_peft_entries((tdm_peft_names){0}, m.pairs, m.count, (tdm_cview){0}, &entry_count);
    assert_int_equal(tdm_safetensors_write(weights, entries, m.count * 2 - 1, NULL, &err), TDM_OK);
    assert_int_equal(tdm_peft_open(&p, dir, &model, &err), TDM_ERR_INPUT);
    assert_non_null(strstr(err.what, "layers.1.mlp.down_proj.lora_B.weight is missing"));

    err = (tdm_error){0}; /* a tensor of something else */
    entries[0].name = "base_model.model.model.embed_tokens.lora_embedding_A";
    assert_int_equal(tdm_safetensors_write(weights, entries, m.count * 2, NULL, &err), TDM_OK);
    assert_int_equal(tdm_peft_open(&p, dir, &model, &err), TDM_ERR_INPUT);
    assert_non_null(strstr(err.where, "lora_embedding_A"));
    free(entries);

    err = (tdm_error){0}; /* only the pickled form */
    char *pickled = test_path(dir, "adapter_model.bin");
    remove(weights);
    test_file_put(pickled, "x");
    assert_int_equal(tdm_peft_open(&p, dir, &model, &err), TDM_ERR_INPUT);
    assert_non_null(strstr(err.hint, "safe_serialization"));

    err = (tdm_error){0};
    remove(config);
    assert_int_equal(tdm_peft_open(&p, dir, &model, &err), TDM_ERR_INPUT);
    assert_string_equal(err.where, config);
    free(pickled), free(weights), free(config);
    test_scratch_free(dir);
}

static void expect_head_refused(const char *dir, const made *m, tdm_cview head, const char *what)
{
    tdm_error err = {0};
    tdm_peft *p;
    tdm_model_config model = tiny();
    assert_int_equal(tdm_peft_save(dir, &m->config, m->pairs, m->count, head, &err), TDM_OK);
    assert_int_equal(tdm_peft_open_head(&p, dir, &model, &err), TDM_ERR_INPUT);
    assert_null(p);
    if (!strstr(err.what, what)) fail_msg("\"%s\" does not say %s", err.what, what);
}

static void a_head_is_of_critics_and_reward_models_alone(void **state)
{
    (void)state;
    char *dir = test_scratch_new();
    made m;
    tdm_peft *p;
    tdm_error err = {0};
    tdm_model_config model = tiny();
    float values[64];
    for (int i = 0; i < 64; i++) values[i] = 0.25f * (float)(i + 1);
    const tdm_cview head = {values, TDM_DTYPE_F32, 1, model.width, model.width}, none = {0}, wide = {values, TDM_DTYPE_F32, 1, model.width + 1, model.width + 1};
    make(&m, two_targets);
    expect_head_refused(dir, &m, none, "no head");
    m.config.head = true;
    assert_int_equal(tdm_peft_save(dir, &m.config, m.pairs, m.count, head, &err), TDM_OK);
    assert_int_equal(tdm_peft_open_head(&p, dir, &model, &err), TDM_OK);
    assert_int_equal(tdm_peft_head(p).cols, model.width);
    assert_memory_equal(tdm_peft_head(p).data, values, (size_t)model.width * sizeof *values);
    tdm_peft_close(p);
    assert_int_equal(tdm_peft_open(&p, dir, &model, &err), TDM_ERR_INPUT);
    assert_non_null(strstr(err.what, "SEQ_CLS"));
    expect_head_refused(dir, &m, none, "score.weight is missing");
    expect_head_refused(dir, &m, wide, "the head is [1, ");
    values[3] = NAN;
    expect_head_refused(dir, &m, head, "NaN");
    test_scratch_free(dir);
}

static void a_broken_config_is_refused_by_its_key(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", "JSON"},
        {"[]", "object"},
        {"{}", "peft_type"},
        {"{\"peft_type\":\"LOHA\",\"r\":1,\"target_modules\":[\"q_proj\"]}", "LOHA"},
        {"{\"peft_type\":\"LORA\",\"target_modules\":[\"q_proj\"]}", "\"r\""},
        {"{\"peft_type\":\"LORA\",\"r\":0,\"target_modules\":[\"q_proj\"]}", "\"r\""},
        {"{\"peft_type\":\"LORA\",\"r\":1.5,\"target_modules\":[\"q_proj\"]}", "\"r\""},
        {"{\"peft_type\":\"LORA\",\"r\":1}", "target_modules"},
        {"{\"peft_type\":\"LORA\",\"r\":1,\"target_modules\":[]}", "target_modules"},
        {"{\"peft_type\":\"LORA\",\"r\":1,\"target_modules\":[3]}", "target_modules"},
        {"{\"peft_type\":\"LORA\",\"r\":1,\"target_modules\":[\"xq_proj\"]}", "xq_proj"},
        {"{\"peft_type\":\"LORA\",\"r\":1,\"lora_alpha\":\"8\",\"target_modules\":[\"q_proj\"]}", "lora_alpha"},
        {"{\"peft_type\":\"LORA\",\"r\":1,\"lora_dropout\":2,\"target_modules\":[\"q_proj\"]}", "lora_dropout"},
        {"{\"peft_type\":\"LORA\",\"r\":1,\"task_type\":\"SEQ_2_SEQ_LM\",\"target_modules\":[\"q_proj\"]}", "SEQ_2_SEQ_LM"},
        {"{\"peft_type\":\"LORA\",\"r\":1,\"task_type\":\"CAUSAL_LM\",\"modules_to_save\":[\"score\"],\"target_modules\":[\"q_proj\"]}", "modules_to_save"},
        {"{\"peft_type\":\"LORA\",\"r\":1,\"task_type\":\"SEQ_CLS\",\"modules_to_save\":[\"score\",\"lm_head\"],\"target_modules\":[\"q_proj\"]}", "modules_to_save"},
        {"{\"peft_type\":\"LORA\",\"r\":1,\"use_new_thing\":true,\"target_modules\":[\"q_proj\"]}", "use_new_thing"},
        {"{\"peft_type\":\"LORA\",\"r\":1,\"r\":2,\"target_modules\":[\"q_proj\"]}", "JSON"},
    };
    for (size_t i = 0; i < TDM_COUNT(cases); i++) {
        tdm_peft_config c = {0};
        bool resolve, some;
        tdm_error err = {0};
        assert_int_equal(tdm_peft_config_parse(&c, &resolve, &some, cases[i][0], strlen(cases[i][0]), "c.json", &err), TDM_ERR_INPUT);
        if (!strstr(err.what, cases[i][1])) fail_msg("\"%s\" does not name %s", err.what, cases[i][1]);
        assert_string_equal(err.where, "c.json");
    }
    static const char fine[] = "{\"peft_type\":\"LORA\",\"r\":1,\"lora_alpha\":null,\"target_modules\":[\"q_proj\"],\"eva_config\":{\"rho\":2},"
                               "\"init_lora_weights\":\"gaussian\",\"qalora_group_size\":16}";
    tdm_peft_config c = {0};
    bool resolve, some;
    tdm_error err = {0};
    assert_int_equal(tdm_peft_config_parse(&c, &resolve, &some, fine, strlen(fine), "c.json", &err), TDM_OK);
    assert_true(c.alpha == 8 && !resolve && !some);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_to_the_bit_what_peft_wrote),
        cmocka_unit_test(what_is_not_plain_lora_is_refused_by_its_name),
        cmocka_unit_test(what_is_saved_comes_back),
        cmocka_unit_test(what_is_missing_misshapen_or_not_finite_is_named),
        cmocka_unit_test(a_head_is_of_critics_and_reward_models_alone),
        cmocka_unit_test(a_broken_config_is_refused_by_its_key),
    };
    return cmocka_run_group_tests_name("peft", tests, NULL, NULL);
}
