/* tests/infer/test_engine_turns.c  labels: unit
 * Sequences of several turns: whatever waits, whoever runs beside it and however late the answers are, the tokens and log-probabilities are
 * the same bits; and with room for their pages nothing is computed twice. */
#include "testing/tiny_model.h"

#include "infer/engine.h"

enum { PROMPTS = 3, SAMPLES = 4, ALL = PROMPTS * SAMPLES, ROOM = 256, TURNS = 4, OBSERVED = 9 };
static const int64_t prompt_len[PROMPTS] = {5, 33, 70};

typedef struct setup {
    int64_t sequences, batch_tokens, pages; /* pages 0: plenty */
    int late;                               /* an answer comes after so many forwards */
    bool rounds;                            /* or only when nothing else is left to do */
} setup;

typedef struct result {
    int32_t tokens[ALL][ROOM];
    float logprob[ALL][ROOM];
    int64_t count[ALL], vocab;
    tdm_finish finish[ALL];
    tdm_engine_stats stats;
} result;

typedef struct script {
    const setup *s;
    result *r;
    tdm_sequence *seq;   /* [ALL] */
    int waits[ALL];      /* forwards until the answer; -1: nobody waits */
    int turns[ALL];
} script;

static tdm_status ended(void *ctx, int64_t request, int64_t index, tdm_error *err)
{
    script *s = ctx;
    const int64_t n = request * SAMPLES + index;
    (void)err;
    assert_int_equal(s->waits[n], -1);
    s->waits[n] = s->s->late;
    s->turns[n]++;
    return TDM_OK;
}

/* What is observed is a function of the sequence alone. Sample 1 of each request ends after its second turn. */
static tdm_status answer(void *ctx, tdm_engine *e, bool idle, tdm_error *err)
{
    script *s = ctx;
    (void)err;
    for (int64_t n = 0; n < ALL; n++) {
        tdm_sequence *q = &s->seq[n];
        if (s->waits[n] < 0 || (s->s->rounds && !idle) || (s->waits[n]-- > 0 && !idle)) continue;
        s->waits[n] = -1;
        if (q->finish == TDM_FINISH_LENGTH || s->turns[n] == TURNS || (n % SAMPLES == 1 && s->turns[n] == 2) || q->count + OBSERVED >= q->room) {
            tdm_engine_end(e, n / SAMPLES, n % SAMPLES);
            continue;
        }
        for (int k = 0; k < OBSERVED; k++) {
            q->logprob[q->count - q->prompt] = 0.0f;
            q->tokens[q->count] = (int32_t)((q->tokens[q->count - 1] * 7 + k) % s->r->vocab);
            q->count++;
        }
        tdm_engine_continue(e, n / SAMPLES, n % SAMPLES);
    }
    return TDM_OK;
}

/* Turns have lengths of their own. */
static bool stops(void *ctx, const tdm_sequence *q)
{
    (void)ctx;
    return q->count - q->turn >= 3 + q->tokens[q->count - 1] % 11;
}

static void run(const setup *s, result *r)
{
    tiny_model t;
    tdm_adapter adapter = {0};
    tdm_engine *e;
    tdm_sequence seq[ALL];
    tdm_request request[PROMPTS];
    tiny_open(&t, "llama3", TDM_SCHEME_FP8_CHANNEL, TDM_ACT_DYNAMIC, TDM_DTYPE_BF16, 1);
    tiny_adapter(&adapter, &t, 4);
    tdm_engine_spec spec = {.sequences = s->sequences, .samples = ALL, .requests = PROMPTS, .context = 128, .batch_tokens = s->batch_tokens, .head_rows = 3,
                            .rank = 4, .turns = true};
    spec.kv_pages = tdm_max_i64(s->pages ? s->pages : tdm_engine_max_pages(t.be, &spec), tdm_engine_min_pages(t.be, &spec));
    void *kv = aligned_alloc(64, tdm_align_up(tdm_kv_cache_bytes(t.be, t.model.c, TDM_DTYPE_BF16, spec.kv_pages), 64));
    void *buffers = aligned_alloc(64, tdm_align_up(tdm_engine_buffer_bytes(t.be, t.model.c, &spec), 64));
    TINY_OK(tdm_engine_open(&e, &t.model, &spec, kv, buffers, err));
    memset(r, 0, sizeof *r);
    r->vocab = t.model.c->vocab;
    script play = {.s = s, .r = r, .seq = seq};
    const tdm_turns turns = {.ctx = &play, .ended = ended, .answer = answer};
    for (int n = 0; n < ALL; n++) play.waits[n] = -1;
    for (int p = 0; p < PROMPTS; p++) {
        int32_t *ids = tiny_tokens(prompt_len[p], r->vocab, (uint32_t)p + 7);
        for (int n = p * SAMPLES; n < (p + 1) * SAMPLES; n++) {
            memcpy(r->tokens[n], ids, (size_t)prompt_len[p] * sizeof *ids);
            seq[n] = (tdm_sequence){.tokens = r->tokens[n], .prompt = prompt_len[p], .room = prompt_len[p] + 56, .logprob = r->logprob[n]};
        }
        free(ids);
        request[p] = (tdm_request){.sequence = &seq[p * SAMPLES], .samples = SAMPLES, .seed = 42, .step = 3, .prompt_index = (uint32_t)p,
                                   .sampling = {.temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f}, .stop = stops, .turns = &turns};
    }
    TINY_OK(tdm_engine_run(e, &adapter, request, PROMPTS, NULL, NULL, err));
    for (int n = 0; n < ALL; n++) {
        r->count[n] = seq[n].count;
        r->finish[n] = seq[n].finish;
        assert_true(play.turns[n] >= 2);
        if (n % SAMPLES == 1) assert_int_equal(play.turns[n], 2);
    }
    r->stats = *tdm_engine_run_stats(e);
    tdm_engine_close(e);
    free(kv);
    free(buffers);
    free(adapter.param);
    tiny_close(&t);
}

static const setup base = {.sequences = ALL, .batch_tokens = 256};

static void expect_same(const setup *other)
{
    static result a, b;
    run(&base, &a);
    run(other, &b);
    for (int n = 0; n < ALL; n++) {
        assert_int_equal(a.count[n], b.count[n]);
        assert_int_equal(a.finish[n], b.finish[n]);
        assert_memory_equal(a.tokens[n], b.tokens[n], sizeof a.tokens[n]);
        assert_memory_equal(a.logprob[n], b.logprob[n], sizeof a.logprob[n]);
    }
}

static void does_not_depend_on_when_answers_come(void **state)
{
    (void)state;
    setup s = base;
    s.late = 3;
    expect_same(&s);
    s.late = 100;
    expect_same(&s);
    s.rounds = true;
    expect_same(&s);
}

static void does_not_depend_on_what_runs_beside_it(void **state)
{
    (void)state;
    for (int late = 0; late <= 5; late += 5) {
        setup s = {.sequences = 1, .batch_tokens = 13, .late = late};
        expect_same(&s);
        s.sequences = 3; /* fewer than those that wait */
        expect_same(&s);
        s.sequences = 5;
        expect_same(&s);
    }
}

static void gives_the_same_when_pages_run_out(void **state)
{
    (void)state;
    static result r;
    for (int late = 0; late <= 10; late += 5) {
        setup s = base;
        s.pages = 20;
        s.late = late;
        run(&s, &r);
        assert_true(r.stats.preemptions > 0);
        expect_same(&s);
        s.pages = 1; /* raised to the least there may be */
        expect_same(&s);
    }
}

/* Each position is computed once: a prompt once a group, but for what a sibling takes again of the last page, and its last token. */
static void keeps_keys_and_values_between_turns(void **state)
{
    (void)state;
    static result r;
    setup s = base;
    s.late = 4;
    run(&s, &r);
    int64_t positions = 0;
    for (int n = 0; n < ALL; n++) positions += r.count[n] - 1 - (n % SAMPLES ? prompt_len[n / SAMPLES] - 1 : 0);
    assert_int_equal(r.stats.preemptions, 0);
    assert_int_equal(r.stats.tokens_prefill + r.stats.tokens_decode, positions);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(does_not_depend_on_when_answers_come),
        cmocka_unit_test(does_not_depend_on_what_runs_beside_it),
        cmocka_unit_test(gives_the_same_when_pages_run_out),
        cmocka_unit_test(keeps_keys_and_values_between_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
