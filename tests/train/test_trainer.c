/* tests/train/test_trainer.c  labels: unit, golden
 * The trainer's promises, bit for bit: its log-probabilities are the sampler's and the scorer's; the gradient does not depend on the
 * micro-batch split, on checkpointing or on threads, nor does that of values; a look under dropout drops what the step drops. That the gradient is right is shown against PyTorch in tests/conformance. */
#include <math.h>

#include "testing/scratch.h"
#include "testing/tiny_model.h"

#include "infer/engine.h"
#include "train/trainer.h"

enum { ITEMS = 6, LONGEST = 90 };
static const tdm_sampling plain = {.temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f};

typedef struct opened {
    tdm_trainer *t;
    void *memory[3];
} opened;

static void trainer_open(opened *o, const tiny_model *m, const tdm_trainer_spec *spec)
{
    const tdm_trainer_bytes b = tdm_trainer_count(m->be, m->model.c, m->model.kv_dtype, spec);
    const size_t bytes[3] = {b.tape, b.kv, b.scratch};
    for (int i = 0; i < 3; i++) {
        o->memory[i] = aligned_alloc(64, tdm_align_up(bytes[i] + 1, 64));
        memset(o->memory[i], 0xFF, bytes[i]);
    }
    const tdm_trainer_regions r = {o->memory[0], o->memory[1], o->memory[2]};
    TINY_OK(tdm_trainer_open(&o->t, &m->model, spec, &r, err));
}

static void trainer_close(opened *o)
{
    tdm_trainer_close(o->t);
    for (int i = 0; i < 3; i++) free(o->memory[i]);
}

typedef struct batch {
    tdm_sequence seq[ITEMS];
    tdm_train_item item[ITEMS];
    float lp[ITEMS][LONGEST], old[ITEMS][LONGEST], ref[ITEMS][LONGEST], entropy[ITEMS][LONGEST], value[ITEMS][LONGEST], returns[ITEMS][LONGEST];
} batch;

static void make_batch(batch *b, int64_t vocab)
{
    for (int i = 0; i < ITEMS; i++) {
        const int64_t count = 12 + 13 * i, prompt = 3 + 2 * i;
        b->seq[i] = (tdm_sequence){.tokens = tiny_tokens(count, vocab, (uint32_t)i + 99), .prompt = prompt, .count = count, .room = count};
        for (int64_t k = 0; k < count - prompt; k++) {
            b->old[i][k] = -5.9f + 0.02f * (float)((k * 7 + i) % 11);
            b->ref[i][k] = -6.0f + 0.03f * (float)((k * 5 + i) % 7);
            b->value[i][k] = 0.1f * (float)((k + i) % 5) - 0.2f;
            b->returns[i][k] = 0.3f * (float)((k * 3 + i) % 4) - 0.4f;
        }
        b->item[i] = (tdm_train_item){.seq = &b->seq[i], .sampler = b->old[i], .old = b->old[i], .ref = b->ref[i], .advantage = i % 2 ? 1.0 : -0.7,
                                      .weight = 0.01, .entropy_weight = i == 2 ? 0.0 : 0.003, .lp = b->lp[i], .entropy = b->entropy[i],
                                      .coef = b->old[i], .value = b->value[i], .returns = b->returns[i]};
    }
}

static void free_batch(batch *b)
{
    for (int i = 0; i < ITEMS; i++) free(b->seq[i].tokens);
}

typedef struct config {
    const char *model;
    tdm_scheme scheme;
    int64_t micro_tokens;
    bool checkpointing, offload;
    tdm_level level; /* of the correction; at TDM_LEVEL_SEQUENCE of the ratio too */
    tdm_values values; /* of a critic's loss, or of a frozen one at a sequence's end */
    int threads;
    bool late; /* copies beside the stream are made as late as they may be */
} config;

/* A backend whose copies beside the stream run when they are joined: whoever writes over a place too soon, or reads it unjoined, is seen. */
static struct { void *dst; const void *src; size_t bytes; } pending[TDM_SIDE_SLOTS];

static tdm_status late_copy(tdm_stream *s, int slot, void *dst, const void *src, size_t bytes, tdm_error *err)
{
    (void)s;
    (void)err;
    assert_true(slot >= 0 && slot < TDM_SIDE_SLOTS);
    assert_null(pending[slot].dst);
    pending[slot].dst = dst;
    pending[slot].src = src;
    pending[slot].bytes = bytes;
    return TDM_OK;
}

static tdm_status late_join(tdm_stream *s, int slot, tdm_error *err)
{
    (void)s;
    (void)err;
    assert_non_null(pending[slot].dst);
    memcpy(pending[slot].dst, pending[slot].src, pending[slot].bytes);
    pending[slot].dst = NULL;
    return TDM_OK;
}

/* The gradient of one step, malloc'd; count in *n. */
static float *gradient(const config *c, int64_t *n, double *loss)
{
    static batch b;
    tiny_model m;
    opened o;
    tdm_adapter adapter;
    tdm_optimizer opt;
    tiny_open(&m, c->model, c->scheme, TDM_ACT_DYNAMIC, TDM_DTYPE_BF16, c->threads);
    tdm_backend late = *m.be;
    late.side_out = late.side_in = late_copy;
    late.side_join = late_join;
    if (c->late) m.model.be = &late;
    make_batch(&b, m.model.c->vocab);
    tiny_role(&adapter, &m, c->values ? 3 : 4, c->values != TDM_VALUES_NONE); /* the trainer's activations have room for rank 4 */
    uint16_t *start = adapter.param;
    void *region = aligned_alloc(64, tdm_align_up(tdm_optimizer_bytes(&adapter, TDM_OPTIMIZER_SGD), 64));
    const tdm_optimizer_config sgd = {.kind = TDM_OPTIMIZER_SGD, .lr = 1.0};
    TINY_OK(tdm_optimizer_init(&opt, &sgd, m.be, m.stream, &adapter, region, err));
    memcpy(adapter.param, start, (size_t)adapter.count * sizeof *start);
    for (int64_t i = adapter.head_first; i < adapter.count; i++) opt.master[i] = tdm_bf16_to_f32(start[i]);
    const tdm_trainer_spec spec = {.micro_tokens = c->micro_tokens, .sequences = 8, .context = LONGEST, .head_rows = 7, .rank = 4, .checkpointing = c->checkpointing, .offload = c->offload};
    trainer_open(&o, &m, &spec);
    const tdm_loss_config lc = {.kind = TDM_LOSS_DAPO, .ratio_of_sequence = c->level == TDM_LEVEL_SEQUENCE, .clip_low = 0.2, .clip_high = 0.3, .kl = 0.1, .kl_kind = TDM_KL_K3,
                                .correction = TDM_CORRECTION_TRUNCATE, .level = c->level, .cap = 2.0};
    const tdm_value_config vc = {.clip = 0.2, .factor = 0.5};
    tdm_value_sums values = {0};
    const tdm_train_pass pass = {.adapter = &adapter, .loss = &lc, .sampling = &plain, .opt = &opt, .values = c->values,
                                 .value_loss = c->values == TDM_VALUES_TOKENS ? &vc : NULL, .value_sums = &values};
    tdm_loss_sums sums = {0};
    TINY_OK(tdm_optimizer_zero_grad(&opt, err));
    TINY_OK(tdm_trainer_accumulate(o.t, &pass, b.item, ITEMS, &sums, err));
    for (int slot = 0; slot < TDM_SIDE_SLOTS; slot++) assert_null(pending[slot].dst);
    *loss = c->values ? values.loss : sums.loss;
    *n = adapter.count;
    float *copy = malloc((size_t)adapter.count * sizeof *copy);
    memcpy(copy, opt.grad, (size_t)adapter.count * sizeof *copy);
    trainer_close(&o);
    free(region);
    free(start);
    free_batch(&b);
    tiny_close(&m);
    return copy;
}

static void expect_same_gradient(const config *a, const config *b)
{
    int64_t n, m;
    double la, lb, largest = 0.0;
    float *ga = gradient(a, &n, &la), *gb = gradient(b, &m, &lb);
    assert_int_equal(n, m);
    assert_memory_equal(ga, gb, (size_t)n * sizeof *ga);
    assert_true(fabs(la - lb) <= 1e-12 * fabs(la)); /* what is not a gradient is added tile by tile */
    for (int64_t i = 0; i < n; i++) {
        const double v = ga[i] < 0 ? -(double)ga[i] : (double)ga[i];
        assert_true(v < 1e6); /* finite, and so not NaN */
        if (v > largest) largest = v;
    }
    assert_true(largest > 0.0);
    free(ga);
    free(gb);
}

static const config base = {.model = "llama3", .scheme = TDM_SCHEME_FP8_CHANNEL, .micro_tokens = 400, .threads = 1};

static void gradient_does_not_depend_on_the_micro_batch_split(void **state)
{
    (void)state;
    config c = base;
    c.micro_tokens = LONGEST;
    expect_same_gradient(&base, &c);
}

static void gradient_does_not_depend_on_checkpointing_or_threads(void **state)
{
    (void)state;
    config c = base;
    c.checkpointing = true;
    c.threads = 2;
    expect_same_gradient(&base, &c);
    config d = base, e = base;
    d.model = e.model = "qwen3_wide";
    d.scheme = e.scheme = TDM_SCHEME_FP8_BLOCK;
    e.checkpointing = true;
    e.micro_tokens = 150;
    for (d.level = TDM_LEVEL_SEQUENCE; d.level <= TDM_LEVEL_GEOMETRIC; d.level++) {
        e.level = d.level;
        expect_same_gradient(&d, &e);
    }
}

/* Of a critic's values and of scores at the end, with a rank below what the trainer has room for. */
static void gradient_of_values_does_not_depend_on_the_split_or_checkpointing(void **state)
{
    (void)state;
    for (tdm_values v = TDM_VALUES_TOKENS; v <= TDM_VALUES_SEQUENCE; v++) {
        config c = base, d = base;
        c.values = d.values = v;
        d.micro_tokens = LONGEST;
        d.threads = 2;
        expect_same_gradient(&c, &d);
        d.checkpointing = d.offload = true;
        expect_same_gradient(&c, &d);
    }
}

/* A value is that of the state which predicts the token, a score that of the whole sequence: its head's product with that row, whatever stands
 * around it; and two sequences that begin alike have the same values there. */
static void values_are_of_the_states_before_their_tokens(void **state)
{
    (void)state;
    tiny_model m;
    opened o;
    tdm_adapter adapter;
    enum { N = 20, SHORT = 13 };
    float values[2][N], scores[2], alone;
    tiny_open(&m, "llama3", TDM_SCHEME_FP8_CHANNEL, TDM_ACT_DYNAMIC, TDM_DTYPE_BF16, 2);
    tiny_role(&adapter, &m, 3, true);
    float *head = malloc((size_t)adapter.head_count * sizeof *head);
    for (int64_t i = 0; i < adapter.head_count; i++) head[i] = tdm_bf16_to_f32(adapter.param[adapter.head_first + i]);
    adapter.head = head;
    int32_t *tokens = tiny_tokens(N, m.model.c->vocab, 4);
    const tdm_trainer_spec spec = {.micro_tokens = 64, .sequences = 4, .context = N, .head_rows = 5, .rank = 4, .forward_only = true};
    trainer_open(&o, &m, &spec);
    tdm_sequence seq[2] = {{.tokens = tokens, .prompt = 1, .count = N, .room = N}, {.tokens = tokens, .prompt = 6, .count = SHORT, .room = SHORT}};
    tdm_train_item item[2] = {{.seq = &seq[0], .value = values[0]}, {.seq = &seq[1], .value = values[1]}};
    tdm_train_pass pass = {.adapter = &adapter, .values = TDM_VALUES_TOKENS};
    TINY_OK(tdm_trainer_look(o.t, &pass, item, 2, err));
    assert_memory_equal(values[0] + 5, values[1], (SHORT - 6) * sizeof(float)); /* tokens 6 to 12 of both */
    pass.values = TDM_VALUES_SEQUENCE;
    for (int i = 0; i < 2; i++) item[i].value = &scores[i];
    TINY_OK(tdm_trainer_look(o.t, &pass, item, 2, err));
    assert_true(scores[1] == values[0][SHORT - 1]); /* the state after SHORT tokens is what predicts the next */
    assert_true(scores[0] != scores[1]);
    item[0].value = &alone;
    TINY_OK(tdm_trainer_look(o.t, &pass, item, 1, err));
    assert_true(alone == scores[0]);
    trainer_close(&o);
    free(head);
    free(tokens);
    free(adapter.param);
    tiny_close(&m);
}

/* Models of one layer, of two and of more; micro-batches of all items and of some. */
static void gradient_does_not_depend_on_offloading(void **state)
{
    (void)state;
    static const int layers[] = {1, 2, 5};
    char *dir = test_scratch_new(), *path = test_path(dir, "config.json"), text[512];
    for (size_t k = 0; k < TDM_COUNT(layers); k++) {
        snprintf(text, sizeof text, "{\"model_type\":\"qwen3\",\"num_hidden_layers\":%d,\"hidden_size\":64,\"intermediate_size\":96,\"num_attention_heads\":4,"
                 "\"num_key_value_heads\":2,\"head_dim\":16,\"vocab_size\":304,\"max_position_embeddings\":256,\"tie_word_embeddings\":false}", layers[k]);
        test_file_put(path, text);
        config plain_run = {.model = path, .scheme = TDM_SCHEME_FP8_CHANNEL, .micro_tokens = 400, .threads = 1}, offloaded = plain_run;
        offloaded.checkpointing = offloaded.offload = true;
        for (int late = 0; late < 2; late++)
            for (int64_t micro = LONGEST; micro <= 400; micro += 310) {
                offloaded.late = late;
                offloaded.micro_tokens = micro;
                offloaded.level = plain_run.level = late ? TDM_LEVEL_SEQUENCE : TDM_LEVEL_TOKEN;
                expect_same_gradient(&plain_run, &offloaded);
            }
    }
    free(path);
    test_scratch_free(dir);
}

static void offloading_leaves_two_inputs(void **state)
{
    (void)state;
    tiny_model m;
    tiny_open(&m, "llama3", TDM_SCHEME_BF16, TDM_ACT_NONE, TDM_DTYPE_BF16, 1);
    tdm_model_config c = *m.model.c;
    c.layers = 40;
    tdm_trainer_spec spec = {.micro_tokens = 128, .sequences = 8, .context = LONGEST, .head_rows = 7, .rank = 4, .checkpointing = true};
    const size_t input = (size_t)(128 * c.width) * sizeof(float);
    const tdm_trainer_bytes stay = tdm_trainer_count(m.be, &c, TDM_DTYPE_BF16, &spec);
    spec.offload = true;
    const tdm_trainer_bytes go = tdm_trainer_count(m.be, &c, TDM_DTYPE_BF16, &spec);
    assert_int_equal(stay.tape - go.tape, 39 * input); /* 41 and 2 */
    assert_int_equal(go.offload, 39 * input);
    assert_int_equal(stay.offload, 0);
    spec.forward_only = true;
    assert_int_equal(tdm_trainer_count(m.be, &c, TDM_DTYPE_BF16, &spec).offload, 0);
    tiny_close(&m);
}

static void log_probabilities_are_those_of_both_engines(void **state)
{
    (void)state;
    static const char *const models[] = {"llama3", "llama_linear", "qwen2", "qwen3_wide", "mistral"};
    for (size_t k = 0; k < TDM_COUNT(models); k++)
        for (int fp8_kv = 0; fp8_kv < 2; fp8_kv++) {
            tiny_model m;
            opened o;
            tdm_adapter adapter;
            tdm_engine *e;
            static float train[ITEMS][LONGEST], infer[ITEMS][LONGEST];
            tdm_sequence seq[ITEMS];
            tdm_train_item item[ITEMS];
            float *rows[ITEMS];
            const tdm_dtype kv = fp8_kv ? TDM_DTYPE_E4M3 : TDM_DTYPE_BF16;
            tiny_open(&m, models[k], k % 2 ? TDM_SCHEME_FP8_CHANNEL : TDM_SCHEME_BF16, TDM_ACT_DYNAMIC, kv, 2);
            tiny_adapter(&adapter, &m, 4);
            const tdm_trainer_spec spec = {.micro_tokens = 200, .sequences = 4, .context = LONGEST, .head_rows = 16, .rank = 4, .forward_only = true};
            trainer_open(&o, &m, &spec);
            tdm_engine_spec es = {.sequences = 4, .samples = 1, .requests = 1, .context = LONGEST, .batch_tokens = 50, .head_rows = 16, .rank = 4};
            es.kv_pages = tdm_engine_max_pages(m.be, &es);
            void *pages = aligned_alloc(64, tdm_align_up(tdm_kv_cache_bytes(m.be, m.model.c, kv, es.kv_pages), 64));
            void *buffers = aligned_alloc(64, tdm_align_up(tdm_engine_buffer_bytes(m.be, m.model.c, &es), 64));
            TINY_OK(tdm_engine_open(&e, &m.model, &es, pages, buffers, err));
            for (int i = 0; i < ITEMS; i++) {
                const int64_t n = 2 + 17 * i;
                seq[i] = (tdm_sequence){.tokens = tiny_tokens(n, m.model.c->vocab, (uint32_t)i + 5), .prompt = 1, .count = n, .room = n};
                item[i] = (tdm_train_item){.seq = &seq[i], .lp = train[i]};
                rows[i] = infer[i];
            }
            TINY_OK(tdm_trainer_score(o.t, &adapter, item, ITEMS, &plain, err));
            TINY_OK(tdm_engine_score(e, &adapter, seq, ITEMS, false, rows, err));
            for (int i = 0; i < ITEMS; i++) assert_memory_equal(train[i], infer[i], (size_t)(seq[i].count - 1) * sizeof(float));
            /* and a completion's log-probabilities as sampled, with a truncated distribution */
            const tdm_sampling cut = {.temperature = 0.7f, .top_p = 0.95f, .repetition_penalty = 1.1f, .top_k = 40};
            int32_t tokens[64] = {0};
            uint32_t support[64 * 32];
            const int64_t words = tdm_ceil_div(m.model.c->vocab, 32);
            assert_true(words <= 32);
            memcpy(tokens, seq[2].tokens, 9 * sizeof *tokens);
            tdm_sequence s = {.tokens = tokens, .prompt = 9, .room = 50, .logprob = infer[0], .support = support};
            tdm_request q = {.sequence = &s, .samples = 1, .sampling = cut, .seed = 5};
            TINY_OK(tdm_engine_run(e, &adapter, &q, 1, NULL, NULL, err));
            tdm_train_item it = {.seq = &s, .lp = train[0]};
            TINY_OK(tdm_trainer_score(o.t, &adapter, &it, 1, &cut, err));
            assert_memory_equal(train[0], infer[0], (size_t)tdm_sequence_completion(&s) * sizeof(float));
            for (int i = 0; i < ITEMS; i++) free(seq[i].tokens);
            tdm_engine_close(e);
            trainer_close(&o);
            free(pages);
            free(buffers);
            free(adapter.param);
            tiny_close(&m);
        }
}

/* Coefficients that are frozen from a look belong to the gradient's own forward: the same masks, whatever the split. */
static void a_look_sees_what_the_step_sees(void **state)
{
    (void)state;
    static batch b;
    static float looked[2][ITEMS][LONGEST], plainly[ITEMS][LONGEST], coef[LONGEST];
    tiny_model m;
    tdm_adapter adapter;
    tdm_optimizer opt;
    tiny_open(&m, "llama3", TDM_SCHEME_BF16, TDM_ACT_DYNAMIC, TDM_DTYPE_BF16, 2);
    make_batch(&b, m.model.c->vocab);
    tiny_adapter(&adapter, &m, 4);
    uint16_t *start = adapter.param;
    void *region = aligned_alloc(64, tdm_align_up(tdm_optimizer_bytes(&adapter, TDM_OPTIMIZER_SGD), 64));
    const tdm_optimizer_config sgd = {.kind = TDM_OPTIMIZER_SGD, .lr = 1.0};
    TINY_OK(tdm_optimizer_init(&opt, &sgd, m.be, m.stream, &adapter, region, err));
    memcpy(adapter.param, start, (size_t)adapter.count * sizeof *start);
    const tdm_loss_config frozen = {.kind = TDM_LOSS_FROZEN};
    const tdm_train_pass pass = {.adapter = &adapter, .loss = &frozen, .sampling = &plain, .opt = &opt, .dropout = 0.3f, .dropout_seed = 7};
    for (int i = 0; i < ITEMS; i++) {
        b.item[i].dropout_token = (uint32_t)(i * LONGEST);
        b.item[i].coef = coef;
    }
    for (int split = 0; split < 2; split++) {
        opened o;
        const tdm_trainer_spec spec = {.micro_tokens = split ? LONGEST : 400, .sequences = 8, .context = LONGEST, .head_rows = 7, .rank = 4, .dropout = true};
        trainer_open(&o, &m, &spec);
        tdm_loss_sums sums = {0};
        memset(b.lp, 0, sizeof b.lp);
        TINY_OK(tdm_trainer_look(o.t, &pass, b.item, ITEMS, err));
        memcpy(looked[split], b.lp, sizeof b.lp);
        TINY_OK(tdm_optimizer_zero_grad(&opt, err));
        TINY_OK(tdm_trainer_accumulate(o.t, &pass, b.item, ITEMS, &sums, err));
        assert_memory_equal(looked[split], b.lp, sizeof b.lp);
        TINY_OK(tdm_trainer_score(o.t, &adapter, b.item, ITEMS, &plain, err));
        memcpy(plainly, b.lp, sizeof b.lp);
        trainer_close(&o);
    }
    assert_memory_equal(looked[0], looked[1], sizeof looked[0]);
    assert_memory_not_equal(looked[0], plainly, sizeof plainly);
    free(region);
    free(start);
    free_batch(&b);
    tiny_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_look_sees_what_the_step_sees),
        cmocka_unit_test(gradient_does_not_depend_on_the_micro_batch_split),
        cmocka_unit_test(gradient_does_not_depend_on_checkpointing_or_threads),
        cmocka_unit_test(gradient_of_values_does_not_depend_on_the_split_or_checkpointing),
        cmocka_unit_test(values_are_of_the_states_before_their_tokens),
        cmocka_unit_test(gradient_does_not_depend_on_offloading),
        cmocka_unit_test(offloading_leaves_two_inputs),
        cmocka_unit_test(log_probabilities_are_those_of_both_engines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
