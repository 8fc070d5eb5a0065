/* labels: unit
 * Loading on several threads, and through the pinned stage of a device: the bytes are those of a plain loop over the tensors, and the
 * error is the first one's. The device is played by memory that nobody may touch but a copy that waits for stream_sync. */
#include "memory/safetensors.h"
#include "memory/weights.h"
#include "testing/scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>

#define OK(call)                                                                                                                           \
    do {                                                                                                                                   \
        tdm_error err_ = {0};                                                                                                              \
        tdm_error *err = &err_;                                                                                                            \
        if ((call) != TDM_OK) fail_msg("%s: %s (%s)", #call, err->what, err->where);                                                       \
    } while (0)

/* ---- A device ---------------------------------------------------------------------------------------------------------------- */

enum { QUEUE = 4096 };
static struct {
    void *base; /* of the device's memory: nobody's, but while the stream is waited for */
    size_t bytes;
    struct {
        void *to;
        const void *from;
        size_t bytes;
    } queue[QUEUE];
    int queued, open_stages, syncs, fail_at; /* fail_at: the sync that fails, -1 none */
} device;

static tdm_status stage_open(void **base, size_t bytes, tdm_error *err)
{
    (void)err;
    *base = aligned_alloc(64, tdm_align_up(bytes, 64));
    assert_non_null(*base);
    memset(*base, 0xee, bytes);
    device.open_stages++;
    return TDM_OK;
}

static void stage_close(void *base, size_t bytes)
{
    (void)bytes;
    assert_int_equal(device.queued, 0); /* a copy would still read it */
    device.open_stages--;
    free(base);
}

static tdm_status copy_later(tdm_stream *s, void *to, const void *from, size_t bytes, tdm_error *err)
{
    (void)s;
    (void)err;
    assert_true(device.queued < QUEUE);
    device.queue[device.queued].to = to;
    device.queue[device.queued].from = from;
    device.queue[device.queued++].bytes = bytes;
    return TDM_OK;
}

static tdm_status copy_now(tdm_stream *s, tdm_error *err)
{
    (void)s;
    assert_int_equal(mprotect(device.base, device.bytes, PROT_READ | PROT_WRITE), 0);
    for (int i = 0; i < device.queued; i++) memcpy(device.queue[i].to, device.queue[i].from, device.queue[i].bytes);
    device.queued = 0;
    assert_int_equal(mprotect(device.base, device.bytes, PROT_NONE), 0);
    if (device.syncs++ == device.fail_at) return TDM_FAIL(err, TDM_ERR_OTHER, "device", "", "the device failed");
    return TDM_OK;
}

static tdm_region device_region(tdm_backend *be, size_t bytes)
{
    const tdm_backend *cpu;
    OK(tdm_backend_cpu(NULL, &cpu, err));
    memcpy(be, cpu, sizeof *be);
    be->device = true;
    be->host_open = stage_open;
    be->host_close = stage_close;
    be->upload = be->download = copy_later;
    be->stream_sync = copy_now;
    memset(&device, 0, sizeof device);
    device.fail_at = -1;
    device.bytes = tdm_align_up(bytes, 4096);
    device.base = mmap(NULL, device.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(device.base != MAP_FAILED);
    return (tdm_region){device.base, bytes, be, NULL};
}

static void device_close(void)
{
    assert_int_equal(device.open_stages, 0);
    munmap(device.base, device.bytes);
}

/* ---- The same bytes ---------------------------------------------------------------------------------------------------------- */

/* Rows that are no multiple of 64 bytes and of a block. One model has matrices of several bands, the other more tensors than four batches
 * hold. */
static const char *const odd_models[] = {
    "{\"model_type\":\"qwen2\",\"num_hidden_layers\":1,\"hidden_size\":520,\"intermediate_size\":1100,\"num_attention_heads\":9,"
    "\"num_key_value_heads\":3,\"head_dim\":66,\"vocab_size\":701,\"tie_word_embeddings\":false}",
    "{\"model_type\":\"qwen2\",\"num_hidden_layers\":360,\"hidden_size\":8,\"intermediate_size\":140,\"num_attention_heads\":3,"
    "\"num_key_value_heads\":1,\"head_dim\":6,\"vocab_size\":99,\"tie_word_embeddings\":false}"};

/* Values of several magnitudes; those of BF16 are in a file of half the size. */
static void *values(int64_t n, bool bf16, uint32_t *seed)
{
    float *x = malloc((size_t)n * sizeof *x);
    uint16_t *rounded = (uint16_t *)(void *)x;
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        *seed = *seed * 1664525u + 1013904223u;
        const float v = ((float)(*seed >> 8) * 0x1p-23f - 1.0f) * ldexpf(1.0f, (int)(*seed >> 4 & 7u));
        if (bf16) rounded[i] = tdm_f32_to_bf16(v); /* behind what is still to come */
        else x[i] = v;
    }
    return x;
}

/* The shapes of the config, written as safetensors. */
static tdm_model_file *odd_model(const char *config, bool bf16)
{
    tdm_model_file *shapes, *f;
    uint32_t seed = 1;
    char *dir = test_scratch_new(), *config_path = test_path(dir, "config.json"), *path = test_path(dir, "model.safetensors");
    test_file_put(config_path, config);
    OK(tdm_model_file_open_random(&shapes, dir, err));
    const int64_t count = tdm_model_file_count(shapes);
    tdm_st_entry *entry = calloc((size_t)count, sizeof *entry);
    assert_non_null(entry);
    for (int64_t i = 0; i < count; i++) {
        const tdm_tensor *t = tdm_model_file_at(shapes, i);
        entry[i] = (tdm_st_entry){.name = t->name, .dtype = bf16 ? TDM_ST_BF16 : TDM_ST_F32, .rank = t->rank, .shape = {t->shape[0], t->shape[1]},
                                  .data = values(tdm_tensor_rows(t) * tdm_tensor_cols(t), bf16, &seed)};
    }
    OK(tdm_safetensors_write(path, entry, count, NULL, err));
    OK(tdm_model_file_open(&f, dir, err));
    for (int64_t i = 0; i < count; i++) free((void *)(uintptr_t)entry[i].data);
    free(entry);
    tdm_model_file_close(shapes);
    free(config_path);
    free(path);
    test_scratch_free(dir); /* the map keeps the file */
    return f;
}

static float amax_of(const float *x, int64_t row, int64_t rows, int64_t col, int64_t cols, int64_t stride)
{
    float amax = 0;
    for (int64_t r = row; r < row + rows; r++)
        for (int64_t c = col; c < col + cols; c++) amax = fmaxf(amax, fabsf(x[r * stride + c]));
    return amax;
}

/* The scale of an element by the words of ops.h. */
static float scale_for(const tdm_weight *w, const float *x, int64_t r, int64_t c, float whole)
{
    const int64_t n = w->codes.rows, k = w->codes.cols, row = r / 128 * 128, col = c / 128 * 128;
    if (w->scheme == TDM_SCHEME_FP8_TENSOR) return tdm_fp8_scale(whole, w->pow2);
    if (w->scheme == TDM_SCHEME_FP8_CHANNEL) return tdm_fp8_scale(amax_of(x, r, 1, 0, k, k), w->pow2);
    return tdm_fp8_scale(amax_of(x, row, tdm_min_i64(128, n - row), col, tdm_min_i64(128, k - col), k), w->pow2);
}

static void expect_matrix(const tdm_model_file *f, const tdm_weight *w, const char *name)
{
    const tdm_tensor *t = tdm_model_file_find(f, name);
    const int64_t n = w->codes.rows, k = w->codes.cols;
    float *x = malloc((size_t)(n * k) * sizeof *x);
    assert_non_null(t);
    assert_non_null(x);
    tdm_tensor_read(t, 0, n, x);
    const float whole = amax_of(x, 0, n, 0, k, k);
    for (int64_t r = 0; r < n; r++) {
        float scale = 0;
        for (int64_t c = 0; c < k; c++) {
            if (w->scheme == TDM_SCHEME_BF16) {
                if (((const uint16_t *)w->codes.data)[r * k + c] != tdm_f32_to_bf16(x[r * k + c]))
                    fail_msg("%s: row %lld, column %lld", name, (long long)r, (long long)c);
                continue;
            }
            if (c == 0 || (w->scheme == TDM_SCHEME_FP8_BLOCK && c % 128 == 0 && r % 128 == 0)) scale = scale_for(w, x, r, c, whole);
            const float *scales = w->scale.data;
            const float stored = w->scheme == TDM_SCHEME_FP8_TENSOR    ? scales[0]
                                 : w->scheme == TDM_SCHEME_FP8_CHANNEL ? scales[r]
                                                                       : scales[r / 128 * w->scale.stride + c / 128];
            const bool known = w->scheme != TDM_SCHEME_FP8_BLOCK || r % 128 == 0; /* the amax of a block once, not for each of its rows */
            if ((known && stored != scale) || ((const uint8_t *)w->codes.data)[r * k + c] != tdm_f32_to_e4m3(x[r * k + c] / stored))
                fail_msg("%s: row %lld, column %lld", name, (long long)r, (long long)c);
        }
    }
    free(x);
}

static void expect_vector(const tdm_model_file *f, const tdm_cview *v, const char *name)
{
    const tdm_tensor *t = tdm_model_file_find(f, name);
    float x[2048];
    assert_non_null(t);
    assert_true(v->cols <= 2048);
    tdm_tensor_read(t, 0, 1, x);
    for (int64_t i = 0; i < v->cols; i++) assert_int_equal(((const uint16_t *)v->data)[i], tdm_f32_to_bf16(x[i]));
}

static void expect_model(const tdm_model_file *f, const tdm_weights *w)
{
    char name[128];
    for (int64_t l = 0; l < tdm_weights_config(w)->layers; l++) {
        const tdm_layer_weights *layer = tdm_weights_layer(w, l);
        for (int p = 0; p < TDM_PROJ_COUNT; p++) {
            snprintf(name, sizeof name, "model.layers.%d.%s.%s.weight", (int)l, p <= TDM_PROJ_O ? "self_attn" : "mlp", tdm_proj_names[p]);
            expect_matrix(f, &layer->proj[p], name);
            snprintf(name, sizeof name, "model.layers.%d.self_attn.%s.bias", (int)l, tdm_proj_names[p]);
            if (p <= TDM_PROJ_V) expect_vector(f, &layer->proj[p].bias, name);
        }
        snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", (int)l);
        expect_vector(f, &layer->norm_attn, name);
        snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", (int)l);
        expect_vector(f, &layer->norm_ffn, name);
    }
    const tdm_cview norm = tdm_weights_final_norm(w);
    expect_vector(f, &norm, "model.norm.weight");
    expect_matrix(f, tdm_weights_embedding(w), "model.embed_tokens.weight");
    expect_matrix(f, tdm_weights_head(w), "lm_head.weight");
}

static uint64_t fnv(uint64_t h, const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static uint64_t plain_hash(const unsigned char *p, size_t bytes)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t at = 0; at < bytes; at += 1 << 20) {
        const uint64_t part = fnv(0xcbf29ce484222325u, p + at, bytes - at < 1 << 20 ? bytes - at : 1 << 20);
        h = fnv(h, (const unsigned char *)&part, sizeof part);
    }
    return h;
}

/* Into memory full of 0xa5, so that a byte nobody wrote shows. */
static void load_host(const tdm_model_file *f, const tdm_weights_options *o, size_t bytes, unsigned char *region, bool expect)
{
    tdm_weights *w;
    uint64_t hash;
    memset(region, 0xa5, bytes);
    OK(tdm_weights_open(&w, f, o, &(tdm_region){region, bytes, NULL, NULL}, err));
    if (expect) expect_model(f, w);
    OK(tdm_weights_hash(w, &hash, err));
    assert_true(hash == plain_hash(region, bytes));
    tdm_weights_close(w);
}

static void load_device(const tdm_model_file *f, const tdm_weights_options *o, const unsigned char *want, size_t want_bytes)
{
    tdm_backend be;
    tdm_weights *w;
    uint64_t hash;
    size_t bytes;
    const size_t host = tdm_weights_host_bytes(f, o);
    OK(tdm_weights_bytes(f, o, &bytes, err));
    assert_int_equal(bytes + host, want_bytes);
    const tdm_region r = device_region(&be, bytes);
    OK(tdm_weights_open(&w, f, o, &r, err));
    if (tdm_weights_config(w)->layers > 1) assert_true(device.syncs > 4); /* both halves of the stage were used again */
    OK(tdm_weights_hash(w, &hash, err));
    assert_true(hash == plain_hash(want, want_bytes));
    const tdm_weight *table = tdm_weights_embedding(w);
    if (host) assert_memory_equal(table->codes.data, want, host);
    if (host && o->fp8_embedding) /* its scales lie behind its codes */
        assert_true((const char *)table->scale.data == (const char *)table->codes.data + tdm_align_up((size_t)(table->codes.rows * table->codes.cols), 64));
    assert_int_equal(mprotect(r.base, device.bytes, PROT_READ), 0);
    assert_memory_equal(r.base, want + host, bytes);
    tdm_weights_close(w);
    device_close();
}

static void expect_same_bytes(const tdm_model_file *f, tdm_weights_options o)
{
    size_t bytes;
    o.threads = 1;
    OK(tdm_weights_bytes(f, &o, &bytes, err));
    unsigned char *alone = aligned_alloc(64, tdm_align_up(bytes, 64)), *together = aligned_alloc(64, tdm_align_up(bytes, 64));
    load_host(f, &o, bytes, alone, true);
    o.threads = 5;
    load_host(f, &o, bytes, together, false);
    assert_memory_equal(alone, together, bytes);
    o.threads = 3;
    load_device(f, &o, alone, bytes);
    o.embedding_on_host = true;
    load_device(f, &o, alone, bytes);
    free(alone);
    free(together);
}

static void the_bytes_are_the_same_on_any_number_of_threads_and_on_a_device(void **state)
{
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(odd_models); i++) {
        tdm_model_file *f = odd_model(odd_models[i], i == 1);
        for (int scheme = TDM_SCHEME_BF16; scheme <= TDM_SCHEME_FP8_BLOCK; scheme++)
            expect_same_bytes(
                f, (tdm_weights_options){.scheme = (tdm_scheme)scheme,
                                         .act = TDM_ACT_DYNAMIC,
                                         .pow2_weights = scheme == TDM_SCHEME_FP8_CHANNEL,
                                         .pow2_acts = scheme == TDM_SCHEME_FP8_CHANNEL,
                                         .fp8_head = scheme % 2 == 0,
                                         .fp8_embedding = scheme >= TDM_SCHEME_FP8_CHANNEL});
        tdm_model_file_close(f);
    }
}

static void a_device_that_fails_ends_in_its_error_and_leaves_no_stage(void **state)
{
    tdm_model_file *f = odd_model(odd_models[1], true);
    const tdm_weights_options o = {.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_DYNAMIC, .threads = 2};
    size_t bytes;
    (void)state;
    OK(tdm_weights_bytes(f, &o, &bytes, err));
    for (int n = 0;; n++) {
        tdm_backend be;
        tdm_weights *w;
        tdm_error err = {0};
        uint64_t hash;
        const tdm_region r = device_region(&be, bytes);
        device.fail_at = n;
        tdm_status st = tdm_weights_open(&w, f, &o, &r, &err);
        if (st == TDM_OK) st = tdm_weights_hash(w, &hash, &err);
        const bool failed = device.syncs > n;
        tdm_weights_close(w);
        device_close();
        assert_int_equal(st, failed ? TDM_ERR_OTHER : TDM_OK);
        assert_string_equal(err.what, failed ? "the device failed" : "");
        if (!failed) break;
    }
    tdm_model_file_close(f);
}

/* ---- The first error --------------------------------------------------------------------------------------------------------- */

enum { D = 512, FFN = 1024, MOST = 16 };
#define L0 "model.layers.0."

typedef struct model {
    tdm_st_entry t[MOST];
    int count;
} model;

static float *add(model *m, const char *name, int64_t rows, int64_t cols)
{
    float *x = malloc((size_t)(rows * cols) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < rows * cols; i++) x[i] = (float)(i * 37 % 101 - 50) / 64;
    m->t[m->count++] =
        (tdm_st_entry){.name = name, .dtype = TDM_ST_F32, .rank = rows > 1 ? 2 : 1, .shape = {rows > 1 ? rows : cols, cols}, .data = x};
    return x;
}

/* Loads the model with values that are no numbers in place; the error has to name `tensor` and `at`. */
static void expect_first(const char *dir, tdm_scheme scheme, int threads, const char *tensor, const char *at)
{
    const tdm_weights_options o = {.scheme = scheme, .act = TDM_ACT_DYNAMIC, .threads = threads};
    tdm_error bad = {0};
    tdm_model_file *f;
    tdm_weights *w;
    size_t bytes;
    OK(tdm_model_file_open(&f, dir, err));
    OK(tdm_weights_bytes(f, &o, &bytes, err));
    void *region = aligned_alloc(64, tdm_align_up(bytes, 64));
    assert_int_equal(tdm_weights_open(&w, f, &o, &(tdm_region){region, bytes, NULL, NULL}, &bad), TDM_ERR_INPUT);
    if (!strstr(bad.where, tensor) || !strstr(bad.what, at))
        fail_msg("%d threads, scheme %d: \"%s\" (%s), expected %s, %s", threads, scheme, bad.what, bad.where, tensor, at);
    free(region);
    tdm_model_file_close(f);
}

static void of_many_errors_the_first_in_order_is_named(void **state)
{
    model m = {0};
    char *dir = test_scratch_new(), *config = test_path(dir, "config.json"), *path = test_path(dir, "model.safetensors");
    static const char *const rest[] = {L0 "self_attn.q_proj.weight", L0 "self_attn.k_proj.weight", L0 "self_attn.v_proj.weight",
                                       L0 "self_attn.o_proj.weight"};
    (void)state;
    add(&m, "model.embed_tokens.weight", D, D);
    add(&m, L0 "input_layernorm.weight", 1, D)[3] = NAN; /* vectors come last */
    add(&m, L0 "post_attention_layernorm.weight", 1, D);
    add(&m, "model.norm.weight", 1, D)[5] = NAN;
    for (size_t i = 0; i < TDM_COUNT(rest); i++) add(&m, rest[i], D, D);
    float *gate = add(&m, L0 "mlp.gate_proj.weight", FFN, D), *up = add(&m, L0 "mlp.up_proj.weight", FFN, D),
          *down = add(&m, L0 "mlp.down_proj.weight", D, FFN);
    for (int64_t r = 0; r < D; r += 7) down[r * FFN + 3] = INFINITY;
    down[261 * FFN + 700] = NAN; /* before row 266, though in a later column */
    for (int64_t r = 0; r < 261; r++) down[r * FFN + 3] = 1;
    test_file_put(
        config,
        "{\"model_type\":\"llama\",\"num_hidden_layers\":1,\"hidden_size\":512,\"intermediate_size\":1024,\"num_attention_heads\":8,"
        "\"num_key_value_heads\":8,\"vocab_size\":512,\"tie_word_embeddings\":true}");
    for (int round = 0; round < 2; round++) {
        if (round == 1)
            for (int64_t r = FFN - 1; r >= 1000; r--) gate[r * D + 9] = up[(FFN - 1 - r) * D] = -INFINITY;
        OK(tdm_safetensors_write(path, m.t, m.count, NULL, err));
        for (int scheme = TDM_SCHEME_BF16; scheme <= TDM_SCHEME_FP8_BLOCK; scheme++)
            for (int threads = 1; threads <= 5; threads += 4) {
                if (round == 0)
                    expect_first(dir, (tdm_scheme)scheme, threads, L0 "mlp.down_proj.weight", "row 261, column 700");
                else
                    expect_first(dir, (tdm_scheme)scheme, threads, L0 "mlp.gate_proj.weight", "row 1000, column 9");
            }
    }
    for (int i = 0; i < m.count; i++) free((void *)(uintptr_t)m.t[i].data);
    free(config);
    free(path);
    test_scratch_free(dir);
}

/* Each kind of scale by itself: those made here, and what the weight says of its activations. */
static void powers_of_two_for_weights_and_for_activations(void **state)
{
    tdm_model_file *f = odd_model(odd_models[0], false);
    (void)state;
    for (int acts = 0; acts < 2; acts++) {
        const tdm_weights_options o = {.scheme = TDM_SCHEME_FP8_CHANNEL, .act = TDM_ACT_DYNAMIC, .threads = 2, .pow2_weights = !acts, .pow2_acts = acts};
        tdm_weights *w;
        size_t bytes;
        int powers = 0;
        OK(tdm_weights_bytes(f, &o, &bytes, err));
        void *region = aligned_alloc(64, tdm_align_up(bytes, 64));
        OK(tdm_weights_open(&w, f, &o, &(tdm_region){region, bytes, NULL, NULL}, err));
        const tdm_weight *down = &tdm_weights_layer(w, 0)->proj[TDM_PROJ_DOWN];
        for (int64_t r = 0; r < down->codes.rows; r++) {
            int exponent;
            powers += frexpf(((const float *)down->scale.data)[r], &exponent) == 0.5f;
        }
        assert_int_equal(down->pow2, acts);
        assert_true(acts ? powers < down->codes.rows / 4 : powers == down->codes.rows);
        tdm_weights_close(w);
        free(region);
    }
    tdm_model_file_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bytes_are_the_same_on_any_number_of_threads_and_on_a_device),
        cmocka_unit_test(a_device_that_fails_ends_in_its_error_and_leaves_no_stage),
        cmocka_unit_test(powers_of_two_for_weights_and_for_activations),
        cmocka_unit_test(of_many_errors_the_first_in_order_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
