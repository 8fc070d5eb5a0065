/* tests/infer/test_engine.c  labels: unit, golden
 * The rollout engine's promises, bit for bit: a completion does not depend on what runs beside it, on the number of sequences decoded
 * together, on pages running out, on chunk sizes or threads. */
#include "testing/tiny_model.h"

#include "infer/engine.h"

enum { PROMPTS = 3, SAMPLES = 4, NEW = 40 };
static const int64_t prompt_len[PROMPTS] = {5, 33, 70};

typedef struct result {
    int32_t tokens[PROMPTS * SAMPLES][256];
    float logprob[PROMPTS * SAMPLES][NEW];
    int64_t count[PROMPTS * SAMPLES];
    int64_t preemptions;
} result;

typedef struct setup {
    const char *model;
    tdm_scheme scheme;
    tdm_dtype kv;
    int threads;
    int64_t sequences, batch_tokens, pages; /* pages 0: plenty */
    tdm_sampling sampling;
    bool adapter, one_by_one;
} setup;

static const tdm_sampling plain = {.temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f};

static void run(const setup *s, result *r)
{
    tiny_model t;
    tdm_adapter adapter = {0};
    tdm_engine *e;
    tiny_open(&t, s->model, s->scheme, TDM_ACT_DYNAMIC, s->kv, s->threads);
    if (s->adapter) tiny_adapter(&adapter, &t, 4);
    tdm_engine_spec spec = {.sequences = s->sequences, .samples = PROMPTS * SAMPLES, .requests = PROMPTS, .context = 128,
                            .batch_tokens = s->batch_tokens, .head_rows = 3, .rank = 4};
    spec.kv_pages = s->pages ? s->pages : tdm_engine_max_pages(t.be, &spec);
    spec.kv_pages = tdm_max_i64(spec.kv_pages, tdm_engine_min_pages(t.be, &spec));
    void *kv = aligned_alloc(64, tdm_align_up(tdm_kv_cache_bytes(t.be, t.model.c, s->kv, spec.kv_pages), 64));
    void *buffers = aligned_alloc(64, tdm_align_up(tdm_engine_buffer_bytes(t.be, t.model.c, &spec), 64));
    TINY_OK(tdm_engine_open(&e, &t.model, &spec, kv, buffers, err));
    tdm_sequence seq[PROMPTS * SAMPLES];
    tdm_request request[PROMPTS];
    memset(r, 0, sizeof *r);
    for (int p = 0; p < PROMPTS; p++) {
        int32_t *ids = tiny_tokens(prompt_len[p], t.model.c->vocab, (uint32_t)p + 7);
        for (int i = 0; i < SAMPLES; i++) {
            const int n = p * SAMPLES + i;
            memcpy(r->tokens[n], ids, (size_t)prompt_len[p] * sizeof *ids);
            seq[n] = (tdm_sequence){.tokens = r->tokens[n], .prompt = prompt_len[p], .room = prompt_len[p] + NEW - 3 * i, .logprob = r->logprob[n]};
        }
        request[p] = (tdm_request){.sequence = &seq[p * SAMPLES], .samples = SAMPLES, .sampling = s->sampling, .seed = 42, .step = 3, .prompt_index = (uint32_t)p};
        free(ids);
    }
    if (s->one_by_one)
        for (int p = 0; p < PROMPTS; p++) TINY_OK(tdm_engine_run(e, s->adapter ? &adapter : NULL, &request[p], 1, NULL, NULL, err));
    else TINY_OK(tdm_engine_run(e, s->adapter ? &adapter : NULL, request, PROMPTS, NULL, NULL, err));
    for (int n = 0; n < PROMPTS * SAMPLES; n++) r->count[n] = seq[n].count;
    r->preemptions = tdm_engine_run_stats(e)->preemptions;
    tdm_engine_close(e);
    free(kv);
    free(buffers);
    free(adapter.param);
    tiny_close(&t);
}

static void expect_same(const setup *base, const setup *other)
{
    static result a, b;
    run(base, &a);
    run(other, &b);
    for (int n = 0; n < PROMPTS * SAMPLES; n++) {
        assert_int_equal(a.count[n], b.count[n]);
        assert_memory_equal(a.tokens[n], b.tokens[n], sizeof a.tokens[n]);
        assert_memory_equal(a.logprob[n], b.logprob[n], sizeof a.logprob[n]);
    }
}

static const setup base = {.model = "llama3", .scheme = TDM_SCHEME_FP8_CHANNEL, .kv = TDM_DTYPE_BF16, .threads = 1, .sequences = 12,
                           .batch_tokens = 256, .sampling = plain, .adapter = true};

static void does_not_depend_on_what_runs_beside_it(void **state)
{
    (void)state;
    setup s = base;
    s.sequences = 1;
    s.batch_tokens = 64;
    expect_same(&base, &s);
    s.sequences = 5;
    expect_same(&base, &s);
    s = base;
    s.one_by_one = true;
    expect_same(&base, &s);
}

static void does_not_depend_on_chunk_sizes_or_threads(void **state)
{
    (void)state;
    setup s = base;
    s.batch_tokens = 13;
    expect_same(&base, &s);
    s = base;
    s.threads = 2;
    expect_same(&base, &s);
}

static void gives_the_same_when_pages_run_out(void **state)
{
    (void)state;
    static result r;
    setup s = base;
    s.pages = 20;
    run(&s, &r);
    assert_true(r.preemptions > 0);
    expect_same(&base, &s);
    s.pages = 1; /* raised to the least there may be */
    expect_same(&base, &s);
}

static void holds_for_every_scheme_cache_and_sampling(void **state)
{
    (void)state;
    const tdm_scheme schemes[] = {TDM_SCHEME_BF16, TDM_SCHEME_FP8_BLOCK};
    for (size_t i = 0; i < TDM_COUNT(schemes); i++) {
        setup a = base;
        a.model = "qwen3_wide";
        a.scheme = schemes[i];
        a.kv = i ? TDM_DTYPE_E4M3 : TDM_DTYPE_BF16;
        a.sampling = (tdm_sampling){.temperature = 0.8f, .top_p = 0.9f, .min_p = 0.01f, .repetition_penalty = 1.2f, .top_k = 50};
        setup b = a;
        b.sequences = 3;
        b.batch_tokens = 17;
        expect_same(&a, &b);
    }
}

static void samples_of_a_group_differ(void **state)
{
    (void)state;
    static result r;
    run(&base, &r);
    assert_memory_not_equal(r.tokens[0], r.tokens[1], sizeof r.tokens[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(does_not_depend_on_what_runs_beside_it), cmocka_unit_test(does_not_depend_on_chunk_sizes_or_threads),
        cmocka_unit_test(gives_the_same_when_pages_run_out),      cmocka_unit_test(holds_for_every_scheme_cache_and_sampling),
        cmocka_unit_test(samples_of_a_group_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
