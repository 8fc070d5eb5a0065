/* labels: unit, golden
 * Every model file of tests/golden/data/files against what PyTorch, transformers and the gguf package say it holds:
 * facts of the config exactly, frequencies within 2 ulp (their powf is not glibc's), every dequantized tensor bit by
 * bit through its SHA-256. */
#include "memory/gguf.h"
#include "memory/hash.h"
#include "memory/safetensors.h"
#include "memory/weights.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define DATA "tests/golden/data/files/"

static const char *text_of(const json_t *o, const char *key) { return json_string_value(json_object_get(o, key)); }
static int64_t int_of(const json_t *o, const char *key) { return json_integer_value(json_object_get(o, key)); }

static tdm_scheme scheme_of(const char *name)
{
    return strcmp(name, "fp8_tensor") == 0    ? TDM_SCHEME_FP8_TENSOR
           : strcmp(name, "fp8_channel") == 0 ? TDM_SCHEME_FP8_CHANNEL
           : strcmp(name, "fp8_block") == 0   ? TDM_SCHEME_FP8_BLOCK
                                              : TDM_SCHEME_BF16;
}

static void expect_config(const tdm_model_config *c, const json_t *want)
{
    assert_string_equal(c->model_type, text_of(want, "model_type"));
    assert_int_equal(c->layers, int_of(want, "layers"));
    assert_int_equal(c->width, int_of(want, "width"));
    assert_int_equal(c->ffn, int_of(want, "ffn"));
    assert_int_equal(c->heads, int_of(want, "heads"));
    assert_int_equal(c->kv_heads, int_of(want, "kv_heads"));
    assert_int_equal(c->head_dim, int_of(want, "head_dim"));
    assert_int_equal(c->vocab, int_of(want, "vocab"));
    assert_int_equal(c->context, int_of(want, "context"));
    assert_int_equal(c->tied_head, json_is_true(json_object_get(want, "tied")));
    assert_true(fabs((double)c->norm_eps - json_number_value(json_object_get(want, "eps"))) < 1e-12);
    float inv_freq[TDM_HEAD_DIM_MAX / 2];
    const json_t *freq = json_object_get(want, "inv_freq");
    assert_int_equal(json_array_size(freq), c->head_dim / 2);
    tdm_rope_inv_freq(c, inv_freq);
    for (int64_t i = 0; i < c->head_dim / 2; i++) {
        const double w = json_number_value(json_array_get(freq, (size_t)i));
        if (fabs((double)inv_freq[i] - w) > 2 * w * 0x1p-23)
            fail_msg("inv_freq[%d] is %.9g, want %.9g", (int)i, (double)inv_freq[i], w);
    }
}

static float value_at(const tdm_weight *w, int64_t r, int64_t c)
{
    const size_t at = (size_t)(r * w->codes.stride + c);
    if (w->scheme == TDM_SCHEME_BF16) return tdm_bf16_to_f32(((const uint16_t *)w->codes.data)[at]);
    int64_t s = 0;
    if (w->scheme == TDM_SCHEME_FP8_CHANNEL) s = r;
    if (w->scheme == TDM_SCHEME_FP8_BLOCK) s = r / 128 * w->scale.stride + c / 128;
    return tdm_e4m3_to_f32(((const uint8_t *)w->codes.data)[at]) * ((const float *)w->scale.data)[s];
}

static void expect_matrix(const json_t *values, const char *name, const tdm_weight *w, int *seen)
{
    char hex[65];
    tdm_sha256 sha;
    tdm_sha256_init(&sha);
    for (int64_t r = 0; r < w->codes.rows; r++)
        for (int64_t c = 0; c < w->codes.cols; c++) {
            const float v = value_at(w, r, c);
            tdm_sha256_put(&sha, &v, sizeof v);
        }
    tdm_sha256_hex(&sha, hex);
    if (!text_of(values, name) || strcmp(hex, text_of(values, name)) != 0)
        fail_msg("%s: other values than the golden's", name);
    assert_int_equal((uintptr_t)w->codes.data % 64, 0);
    assert_int_equal((uintptr_t)w->scale.data % 64, 0);
    ++*seen;
}

static void expect_vector(const json_t *values, const char *name, tdm_cview v, int *seen)
{
    const tdm_weight w = {.codes = v, .scheme = TDM_SCHEME_BF16};
    if (v.data) expect_matrix(values, name, &w, seen);
}

static void expect_layer(const json_t *want, const tdm_weights *w, int64_t i, int *seen)
{
    const tdm_layer_weights *l = tdm_weights_layer(w, i);
    const json_t *values = json_object_get(want, "values");
    const char *act = text_of(want, "act");
    char name[256];
    for (int p = 0; p < TDM_PROJ_COUNT; p++) {
        const tdm_weight *m = &l->proj[p];
        const char *part = p <= TDM_PROJ_O ? "self_attn" : "mlp";
        snprintf(name, sizeof name, "model.layers.%d.%s.%s.weight", (int)i, part, tdm_proj_names[p]);
        expect_matrix(values, name, m, seen);
        snprintf(name, sizeof name, "model.layers.%d.%s.%s.bias", (int)i, part, tdm_proj_names[p]);
        expect_vector(values, name, m->bias, seen);
        if (m->scheme == TDM_SCHEME_BF16) {
            assert_int_equal(m->act, TDM_ACT_NONE);
        } else {
            assert_int_equal(m->act, act && strcmp(act, "static") == 0 ? TDM_ACT_STATIC : TDM_ACT_DYNAMIC);
        }
        if (m->act != TDM_ACT_STATIC) continue;
        snprintf(name, sizeof name, "model.layers.%d.%s.%s.input_scale", (int)i, part, tdm_proj_names[p]);
        assert_true((double)m->input_scale == json_number_value(json_object_get(values, name)));
        ++*seen;
    }
    const struct {
        const char *name;
        tdm_cview v;
    } norms[] = {{"input_layernorm", l->norm_attn},
                 {"post_attention_layernorm", l->norm_ffn},
                 {"self_attn.q_norm", l->norm_q},
                 {"self_attn.k_norm", l->norm_k}};
    for (size_t n = 0; n < TDM_COUNT(norms); n++) {
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", (int)i, norms[n].name);
        expect_vector(values, name, norms[n].v, seen);
    }
}

static void run_case(const json_t *want)
{
    char path[256];
    tdm_error err = {0};
    tdm_model_file *f;
    tdm_weights *w;
    size_t bytes;
    int seen = 0;
    const bool stored = json_is_true(json_object_get(want, "stored"));
    const tdm_weights_options o = {.scheme = scheme_of(text_of(want, "scheme")),
                                   .scheme_given = !stored,
                                   .act = TDM_ACT_DYNAMIC,
                                   .pow2_weights = json_is_true(json_object_get(want, "pow2")),
                                   .pow2_acts = json_is_true(json_object_get(want, "pow2"))};
    snprintf(path, sizeof path, DATA "%s", text_of(want, "path"));
    print_message("         %s %s\n", path, text_of(want, "scheme"));
    if (tdm_model_file_open(&f, path, &err) != TDM_OK || tdm_weights_bytes(f, &o, &bytes, &err) != TDM_OK)
        fail_msg("%s (%s)", err.what, err.where);
    expect_config(tdm_model_file_config(f), json_object_get(want, "config"));
    const json_t *eos = json_object_get(want, "eos");
    assert_int_equal(tdm_model_file_config(f)->eos_count, json_array_size(eos));
    for (size_t i = 0; i < json_array_size(eos); i++)
        assert_int_equal(tdm_model_file_config(f)->eos[i], json_integer_value(json_array_get(eos, i)));

    unsigned char *region = aligned_alloc(64, bytes + 64), *again = aligned_alloc(64, bytes + 64);
    memset(region, 0xa5, bytes + 64);
    memset(again, 0x5a, bytes + 64);
    if (tdm_weights_open(&w, f, &o, &(tdm_region){region, bytes, NULL, NULL}, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    for (size_t i = 0; i < 64; i++) assert_int_equal(region[bytes + i], 0xa5); /* exact: not a byte beyond */
    uint64_t hash, hash_again;
    assert_int_equal(tdm_weights_hash(w, &hash, &err), TDM_OK);
    const json_t *values = json_object_get(want, "values");
    expect_matrix(values, "model.embed_tokens.weight", tdm_weights_embedding(w), &seen);
    if (!tdm_weights_config(w)->tied_head)
        expect_matrix(values, "lm_head.weight", tdm_weights_head(w), &seen);
    else
        assert_ptr_equal(tdm_weights_head(w), tdm_weights_embedding(w));
    expect_vector(values, "model.norm.weight", tdm_weights_final_norm(w), &seen);
    for (int64_t i = 0; i < tdm_weights_config(w)->layers; i++) expect_layer(want, w, i, &seen);
    assert_int_equal(seen, json_object_size(values)); /* the golden has no tensor we left out */
    tdm_weights_close(w);
    assert_int_equal(tdm_weights_open(&w, f, &o, &(tdm_region){again, bytes, NULL, NULL}, &err), TDM_OK);
    assert_int_equal(tdm_weights_hash(w, &hash_again, &err), TDM_OK);
    assert_true(hash == hash_again); /* padding included: two loads are one buffer */
    tdm_weights_close(w);
    tdm_model_file_close(f);
    free(region);
    free(again);
}

static void every_file_holds_what_its_writer_says(void **state)
{
    json_error_t bad;
    json_t *root = json_load_file(DATA "expect.json", 0, &bad);
    (void)state;
    assert_non_null(root);
    const json_t *cases = json_object_get(root, "cases");
    assert_true(json_array_size(cases) > 15);
    for (size_t i = 0; i < json_array_size(cases); i++) run_case(json_array_get(cases, i));
    json_decref(root);
}

static void q_k_v_and_gate_up_lie_side_by_side(void **state)
{
    tdm_error err = {0};
    tdm_model_file *f;
    tdm_weights *w;
    size_t bytes;
    const tdm_weights_options o = {.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_DYNAMIC};
    (void)state;
    assert_int_equal(tdm_model_file_open(&f, DATA "qwen3", &err), TDM_OK);
    assert_int_equal(tdm_weights_bytes(f, &o, &bytes, &err), TDM_OK);
    void *region = aligned_alloc(64, bytes);
    assert_int_equal(tdm_weights_open(&w, f, &o, &(tdm_region){region, bytes, NULL, NULL}, &err), TDM_OK);
    for (int64_t i = 0; i < tdm_weights_config(w)->layers; i++) {
        const tdm_weight *p = tdm_weights_layer(w, i)->proj;
        const int fused[][2] = {{TDM_PROJ_Q, TDM_PROJ_K}, {TDM_PROJ_K, TDM_PROJ_V}, {TDM_PROJ_GATE, TDM_PROJ_UP}};
        for (size_t k = 0; k < TDM_COUNT(fused); k++) {
            const tdm_weight *a = &p[fused[k][0]], *b = &p[fused[k][1]];
            assert_ptr_equal((const char *)a->codes.data + a->codes.rows * a->codes.cols, b->codes.data);
            assert_ptr_equal((const float *)a->scale.data + a->scale.rows, b->scale.data);
        }
    }
    tdm_weights_close(w);
    tdm_model_file_close(f);
    free(region);
}

static void every_quantized_type_is_read_as_gguf_py_reads_it(void **state)
{
    tdm_error err = {0};
    tdm_gguf *g;
    tdm_safetensors *want;
    (void)state;
    assert_int_equal(tdm_gguf_open(&g, DATA "quants.gguf", &err), TDM_OK);
    assert_int_equal(tdm_safetensors_open(&want, DATA "quants.safetensors", &err), TDM_OK);
    assert_int_equal(tdm_gguf_tensor_count(g), tdm_safetensors_count(want));
    for (int64_t i = 0; i < tdm_gguf_tensor_count(g); i++) {
        const tdm_tensor *t = tdm_gguf_tensor_at(g, i);
        const tdm_st_tensor *s = tdm_safetensors_find(want, t->name);
        assert_non_null(s);
        assert_string_equal(t->type, t->name); /* each is named after its type */
        const int64_t n = tdm_tensor_rows(t) * tdm_tensor_cols(t);
        assert_int_equal(s->bytes, n * 4);
        float *got = malloc(s->bytes);
        tdm_tensor_read(t, 0, tdm_tensor_rows(t), got);
        for (int64_t k = 0; k < n; k++)
            if (memcmp(&got[k], (const char *)s->data + 4 * k, 4) != 0)
                fail_msg("%s[%d] is %.9g", t->name, (int)k, (double)got[k]);
        free(got);
    }
    tdm_safetensors_close(want);
    tdm_gguf_close(g);
}

static void metadata_of_every_type_is_found(void **state)
{
    tdm_error err = {0};
    tdm_gguf *g;
    tdm_str s;
    int64_t i;
    double x;
    bool b;
    (void)state;
    assert_int_equal(tdm_gguf_open(&g, DATA "quants.gguf", &err), TDM_OK);
    assert_true(tdm_gguf_str(g, "general.architecture", &s) && s.len == 5 && memcmp(s.data, "llama", 5) == 0);
    assert_true(tdm_gguf_int(g, "general.alignment", &i) && i == 64);
    assert_true(tdm_gguf_int(g, "test.u64", &i) && i == INT64_C(1) << 40);
    assert_true(tdm_gguf_float(g, "test.f64", &x) && x == 0.1);
    assert_true(tdm_gguf_bool(g, "test.bool", &b) && b);
    assert_false(tdm_gguf_int(g, "general.architecture", &i));
    assert_false(tdm_gguf_str(g, "absent", &s));
    assert_int_equal(tdm_gguf_array_count(g, "test.texts"), 3);
    assert_int_equal(tdm_gguf_array_count(g, "absent"), -1);
    assert_true(tdm_gguf_array_str(g, "test.texts", 0, &s) && s.len == 0);
    assert_true(tdm_gguf_array_str(g, "test.texts", 2, &s) && s.len == 4 && memcmp(s.data, "zwei", 4) == 0);
    assert_false(tdm_gguf_array_str(g, "test.texts", 3, &s));
    assert_true(tdm_gguf_array_int(g, "test.ints", 0, &i) && i == -3);
    assert_true(tdm_gguf_array_float(g, "test.floats", 1, &x) && x == -2.25);
    tdm_gguf_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_file_holds_what_its_writer_says),
        cmocka_unit_test(q_k_v_and_gate_up_lie_side_by_side),
        cmocka_unit_test(every_quantized_type_is_read_as_gguf_py_reads_it),
        cmocka_unit_test(metadata_of_every_type_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
