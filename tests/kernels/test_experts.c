/* labels: unit
 * Mixtures of experts: routes against double arithmetic, an expert's rows against linear on that expert's matrix, gradients against a batch that
 * was split. */
#include "testing/ops_case.h"

enum { T = 61, E = 11, U = 3, N = 70, K = 144, R = 5, SEQUENCES = 4 };
static const int32_t q_start[SEQUENCES + 1] = {0, 1, 20, 45, T};
static const tdm_limits limits = {.tokens = T, .width = 256, .vocab = 8, .head_rows = 8, .heads = 1, .head_dim = 64, .rank = R, .context = 1};

static int open_backends(void **state)
{
    (void)state;
    backends_n = test_backends(backends);
    return 0;
}

/* ---- Routes -------------------------------------------------------------------------------------------------------------------- */

typedef struct routes {
    int32_t expert[T * U], row[T * U], token[T * U], start[E + 1];
    float weight[T * U];
} routes;

static tdm_routes lend(test_stream *s, routes *r, int64_t tokens)
{
    return (tdm_routes){.tokens = tokens, .experts = E, .used = U, .expert = test_out_bytes(s, r->expert, sizeof r->expert),
                        .weight = test_out_bytes(s, r->weight, sizeof r->weight), .row = test_out_bytes(s, r->row, sizeof r->row),
                        .token = test_out_bytes(s, r->token, sizeof r->token), .start = test_out_bytes(s, r->start, sizeof r->start)};
}

static routes route(const tdm_backend *be, tdm_cview logits, bool normalize, const int32_t *given)
{
    routes r = {0};
    if (given) memcpy(r.expert, given, (size_t)(logits.rows * U) * sizeof *given);
    test_stream s = test_stream_open(be, &limits, 2);
    const tdm_routes z = lend(&s, &r, logits.rows);
    const tdm_route a = {.logits = test_in(&s, logits), .normalize = normalize, .given = given != NULL, .routes = &z};
    TEST_OK(be->route(s.s, &a, err));
    test_stream_close(&s);
    return r;
}

/* Weights of the experts in double. */
static void weights_of(const double *logit, const int32_t *expert, bool normalize, double *w)
{
    double all = 0, chosen = 0;
    for (int e = 0; e < E; e++) all += exp(logit[e]);
    for (int u = 0; u < U; u++) chosen += exp(logit[expert[u]]) / all;
    for (int u = 0; u < U; u++) w[u] = exp(logit[expert[u]]) / all / (normalize ? chosen : 1.0);
}

static void check_routes(const routes *r, tdm_cview logits, bool normalize)
{
    bool seen[T * U] = {false};
    for (int64_t t = 0; t < logits.rows; t++) {
        double logit[E], w[U];
        const int32_t *expert = r->expert + t * U;
        for (int e = 0; e < E; e++) logit[e] = (double)test_view_at(logits, t, e);
        weights_of(logit, expert, normalize, w);
        for (int u = 0; u < U; u++) {
            assert_true(fabs((double)r->weight[t * U + u] - w[u]) <= 0x1p-8 * w[u]);
            const int32_t row = r->row[t * U + u];
            assert_true(row >= r->start[expert[u]] && row < r->start[expert[u] + 1] && !seen[row]);
            seen[row] = true;
            assert_int_equal(r->token[row], t);
            assert_true(row == r->start[expert[u]] || r->token[row - 1] < t);
        }
    }
    assert_int_equal(r->start[0], 0);
    assert_int_equal(r->start[E], logits.rows * U);
}

static void tokens_go_to_the_largest_logits(void **state)
{
    (void)state;
    tdm_view logits = test_random(T, E, TDM_DTYPE_BF16, 3, 1);
    uint16_t *last = (uint16_t *)logits.data + (T - 1) * logits.stride;
    for (int e = 0; e < E; e++) last[e] = tdm_f32_to_bf16(e == 7 ? 2.0f : 1.0f); /* equal ones: the lower numbers */
    const tdm_cview l = tdm_view_const(logits);
    OPS_EACH_BACKEND(be)
        for (int normalize = 0; normalize < 2; normalize++) {
            const routes r = route(be, l, normalize, NULL);
            check_routes(&r, l, normalize);
            for (int64_t t = 0; t < T; t++)
                for (int u = 0; u < U; u++) {
                    int above = 0;
                    const float own = test_view_at(l, t, r.expert[t * U + u]);
                    for (int e = 0; e < E; e++) above += test_view_at(l, t, e) > own || (test_view_at(l, t, e) == own && e < r.expert[t * U + u]);
                    assert_int_equal(above, u);
                }
            assert_true(r.expert[(T - 1) * U] == 7 && r.expert[(T - 1) * U + 1] == 0 && r.expert[(T - 1) * U + 2] == 1);
            const routes again = route(be, l, normalize, r.expert), none = route(be, tdm_cview_rows(l, 0, 0), normalize, NULL);
            assert_memory_equal(&again, &r, sizeof r);
            assert_int_equal(none.start[E], 0);
        }
    free(logits.data);
}

static void weights_have_the_gradient_of_their_formula(void **state)
{
    (void)state;
    tdm_view logits = test_random(T, E, TDM_DTYPE_BF16, 2, 3), dw = test_random(T, U, TDM_DTYPE_F32, 1, 4);
    OPS_EACH_BACKEND(be)
        for (int normalize = 0; normalize < 2; normalize++) {
            routes r = route(be, tdm_view_const(logits), normalize, NULL);
            tdm_view d = test_guarded(T, E, TDM_DTYPE_BF16);
            test_stream s = test_stream_open(be, &limits, 2);
            const tdm_routes z = lend(&s, &r, T);
            const tdm_route_backward a = {.dlogits = test_out(&s, d), .logits = test_in(&s, tdm_view_const(logits)), .dweight = test_in(&s, tdm_view_const(dw)),
                                          .normalize = normalize, .routes = &z};
            TEST_OK(be->route_backward(s.s, &a, err));
            test_stream_close(&s);
            for (int64_t t = 0; t < T; t++)
                for (int e = 0; e < E; e++) { /* central differences */
                    double logit[E], up[U], down[U], want = 0;
                    for (int i = 0; i < E; i++) logit[i] = (double)test_view_at(tdm_view_const(logits), t, i);
                    logit[e] += 1e-5;
                    weights_of(logit, r.expert + t * U, normalize, up);
                    logit[e] -= 2e-5;
                    weights_of(logit, r.expert + t * U, normalize, down);
                    for (int u = 0; u < U; u++) want += (up[u] - down[u]) / 2e-5 * (double)test_view_at(tdm_view_const(dw), t, u);
                    assert_true(fabs((double)test_view_at(tdm_view_const(d), t, e) - want) <= 0x1p-8 * fabs(want) + 1e-6);
                }
            test_guard_free("dlogits", d);
        }
    free(logits.data);
    free(dw.data);
}

/* ---- Sums ---------------------------------------------------------------------------------------------------------------------- */

static void what_experts_made_is_added_by_weight(void **state)
{
    (void)state;
    tdm_view logits = test_random(T, E, TDM_DTYPE_BF16, 2, 5), x = test_random(T * U, N, TDM_DTYPE_BF16, 1, 6), res = test_random(T, N, TDM_DTYPE_F32, 1, 7);
    OPS_EACH_BACKEND(be) {
        routes r = route(be, tdm_view_const(logits), true, NULL);
        tdm_view y = test_guarded(T, N, TDM_DTYPE_F32), dx = test_guarded(T * U, N, TDM_DTYPE_BF16), dw = test_guarded(T, U, TDM_DTYPE_F32);
        test_stream s = test_stream_open(be, &limits, 2);
        const tdm_routes z = lend(&s, &r, T);
        const tdm_cview from = test_in(&s, tdm_view_const(res)), made = test_in(&s, tdm_view_const(x));
        TEST_OK(be->combine(s.s, &(tdm_combine){.y = test_out(&s, y), .r = from, .x = made, .weighted = true, .routes = &z}, err));
        TEST_OK(be->combine_backward(s.s, &(tdm_combine_backward){.dx = test_out(&s, dx), .dweight = test_out(&s, dw), .dy = from, .x = made, .routes = &z}, err));
        test_stream_close(&s);
        for (int64_t t = 0; t < T; t++) {
            for (int c = 0; c < N; c++) {
                double want = (double)test_view_at(tdm_view_const(res), t, c);
                for (int u = 0; u < U; u++) want += (double)r.weight[t * U + u] * (double)test_view_at(tdm_view_const(x), r.row[t * U + u], c);
                assert_true(fabs((double)test_view_at(tdm_view_const(y), t, c) - want) <= 0x1p-20);
            }
            for (int u = 0; u < U; u++) {
                double dot = 0;
                for (int c = 0; c < N; c++) {
                    const float d = test_view_at(tdm_view_const(res), t, c);
                    dot += (double)d * (double)test_view_at(tdm_view_const(x), r.row[t * U + u], c);
                    const float rounded = tdm_bf16_to_f32(tdm_f32_to_bf16(r.weight[t * U + u] * d));
                    assert_true(test_view_at(tdm_view_const(dx), r.row[t * U + u], c) == rounded);
                }
                assert_true(fabs((double)test_view_at(tdm_view_const(dw), t, u) - dot) <= 0x1p-17 * N);
            }
        }
        test_guard_free("combine", y);
        test_guard_free("combine_backward dx", dx);
        test_guard_free("combine_backward dweight", dw);
    }
    free(logits.data);
    free(x.data);
    free(res.data);
}

/* ---- Products ------------------------------------------------------------------------------------------------------------------ */

enum { STEP = R * (N + K) + 2, BLOCKS = 1 * 2 };
typedef struct experts {
    tdm_weight w[E];
    uint16_t bf16[E * N * K];
    uint8_t codes[E * N * K];
    float scale[E * 16];       /* each expert's scales 64-byte aligned, as the weight store has them */
    uint16_t lora[E * STEP];   /* A, then B, of each */
} experts;

static void fill_experts(experts *x, tdm_scheme scheme, tdm_act_quant act)
{
    uint32_t seed = 11;
    for (int64_t i = 0; i < E * N * K; i++) x->bf16[i] = tdm_f32_to_bf16(test_noise(&seed));
    for (int64_t i = 0; i < E * STEP; i++) x->lora[i] = tdm_f32_to_bf16(test_noise(&seed));
    for (int e = 0; e < E; e++) {
        float f[N * K];
        tdm_weight *w = &x->w[e];
        *w = (tdm_weight){.scheme = scheme, .act = act};
        w->codes = (tdm_cview){x->bf16 + (int64_t)e * N * K, TDM_DTYPE_BF16, N, K, K};
        if (scheme == TDM_SCHEME_BF16) continue;
        for (int i = 0; i < N * K; i++) f[i] = tdm_bf16_to_f32(x->bf16[(int64_t)e * N * K + i]);
        const tdm_view codes = tdm_view_make(x->codes + (int64_t)e * N * K, TDM_DTYPE_E4M3, N, K), scale = tdm_view_make(x->scale + e * 16, TDM_DTYPE_F32, 1, BLOCKS);
        tdm_weight_quantize(&(tdm_quantize_weight){.codes = codes, .scale = scale, .x = {f, TDM_DTYPE_F32, N, K, K}, .scheme = scheme});
        w->codes = tdm_view_const(codes);
        w->scale = tdm_view_const(scale);
    }
}

static const void *moved(const void *p, const void *from, const void *to) { return (const char *)to + ((const char *)p - (const char *)from); }

/* The same in the backend's memory. */
static void lend_experts(test_stream *s, const experts *x, tdm_weight w[E], tdm_cview *a, tdm_cview *b)
{
    const void *bf16 = test_in_bytes(s, x->bf16, sizeof x->bf16), *codes = test_in_bytes(s, x->codes, sizeof x->codes), *scale = test_in_bytes(s, x->scale, sizeof x->scale);
    const uint16_t *lora = test_in_bytes(s, x->lora, sizeof x->lora);
    for (int e = 0; e < E; e++) {
        w[e] = x->w[e];
        w[e].codes.data = w[e].scheme == TDM_SCHEME_BF16 ? moved(w[e].codes.data, x->bf16, bf16) : moved(w[e].codes.data, x->codes, codes);
        if (w[e].scale.data) w[e].scale.data = moved(w[e].scale.data, x->scale, scale);
    }
    *a = (tdm_cview){lora, TDM_DTYPE_BF16, R, K, K};
    *b = (tdm_cview){lora + R * K, TDM_DTYPE_BF16, N, R, R};
}

static tdm_cview later(tdm_cview v, int64_t elements)
{
    v.data = (const uint16_t *)v.data + elements;
    return v;
}

static void check_products(const tdm_backend *be, const experts *x, bool lora)
{
    tdm_view logits = test_random(T, E, TDM_DTYPE_BF16, 2, 5), in = test_random(T * U, K, TDM_DTYPE_BF16, 1, 6);
    routes r = route(be, tdm_view_const(logits), true, NULL);
    tdm_view y = test_guarded(T * U, N, TDM_DTYPE_BF16), want = test_guarded(T * U, N, TDM_DTYPE_BF16), h = test_guarded(T * U, R, TDM_DTYPE_BF16);
    test_stream s = test_stream_open(be, &limits, 2);
    const tdm_routes z = lend(&s, &r, T);
    tdm_weight w[E];
    tdm_cview a, b;
    lend_experts(&s, x, w, &a, &b);
    tdm_linear l = {.x = test_in(&s, tdm_view_const(in)), .w = w};
    const tdm_view out = test_out(&s, y), alone = test_out(&s, want), hs = test_out(&s, h);
    if (w[0].act != TDM_ACT_NONE) {
        const tdm_view codes = tdm_view_make(test_scratch(&s, T * U * K), TDM_DTYPE_E4M3, T * U, K), scale = tdm_view_make(test_scratch(&s, T * U * 8), TDM_DTYPE_F32, T * U, 2);
        TEST_OK(be->quantize_act(s.s, &(tdm_quantize_act){.codes = codes, .scale = scale, .x = l.x, .scheme = w[0].scheme, .act = w[0].act}, err));
        l.xq = tdm_view_const(codes);
        l.xs = tdm_view_const(scale);
    }
    if (lora) l.lora_a = a, l.lora_b = b, l.lora_h = hs, l.lora_scale = 0.5f;
    l.y = out;
    TEST_OK(be->linear_experts(s.s, &(tdm_linear_experts){.of = l, .lora_step = STEP, .routes = &z}, err));
    for (int64_t row = 0, e = 0; row < T * U; row++) {
        while (row >= r.start[e + 1]) e++;
        tdm_linear one = l;
        one.w = &w[e];
        one.y = tdm_view_rows(alone, row, 1);
        one.x = tdm_cview_rows(l.x, row, 1);
        if (l.xq.data) one.xq = tdm_cview_rows(l.xq, row, 1), one.xs = tdm_cview_rows(l.xs, row, 1);
        if (lora) one.lora_a = later(a, e * STEP), one.lora_b = later(b, e * STEP), one.lora_h = tdm_view_rows(hs, row, 1);
        TEST_OK(be->linear(s.s, &one, err));
    }
    test_stream_close(&s);
    test_same_bits(be->name, tdm_view_const(y), tdm_view_const(want));
    test_guard_free("y", y);
    test_guard_free("want", want);
    test_guard_free("h", h);
    free(logits.data);
    free(in.data);
}

static const struct { tdm_scheme scheme; tdm_act_quant act; } kinds[] = {
    {TDM_SCHEME_BF16, TDM_ACT_NONE}, {TDM_SCHEME_FP8_BLOCK, TDM_ACT_NONE}, {TDM_SCHEME_FP8_BLOCK, TDM_ACT_DYNAMIC}};

static void a_row_has_the_bits_that_linear_gives_it(void **state)
{
    (void)state;
    experts *x = calloc(1, sizeof *x);
    for (size_t k = 0; k < TDM_COUNT(kinds); k++) {
        fill_experts(x, kinds[k].scheme, kinds[k].act);
        OPS_EACH_BACKEND(be) {
            check_products(be, x, false);
            check_products(be, x, true);
        }
    }
    free(x);
}

/* Backward of tokens [first, last), which begin a sequence and end one; gradients are added to grad [E, STEP]. */
static void backward(const tdm_backend *be, const experts *x, tdm_view logits, tdm_view in, tdm_view dy, int from, int to, float *grad, tdm_view dx)
{
    const int64_t first = q_start[from], tokens = q_start[to] - first, n = tokens * U;
    int32_t own[SEQUENCES + 1];
    for (int i = from; i <= to; i++) own[i - from] = q_start[i] - q_start[from];
    routes r = route(be, tdm_cview_rows(tdm_view_const(logits), first, tokens), true, NULL);
    test_stream s = test_stream_open(be, &limits, 2);
    const tdm_routes z = lend(&s, &r, tokens);
    tdm_weight w[E];
    tdm_cview a, b;
    lend_experts(&s, x, w, &a, &b);
    tdm_view xs = tdm_view_make(test_scratch(&s, (size_t)(n * K) * 2), TDM_DTYPE_BF16, n, K), dys = tdm_view_make(test_scratch(&s, (size_t)(n * N) * 2), TDM_DTYPE_BF16, n, N);
    tdm_view hs = tdm_view_make(test_scratch(&s, (size_t)(n * R) * 2), TDM_DTYPE_BF16, n, R), dh = tdm_view_make(test_scratch(&s, (size_t)(n * R) * 2), TDM_DTYPE_BF16, n, R);
    tdm_view dxs = tdm_view_make(test_scratch(&s, (size_t)(n * K) * 4), TDM_DTYPE_F32, n, K);
    TEST_OK(be->gather_rows(s.s, xs, test_in(&s, tdm_cview_rows(tdm_view_const(in), first, tokens)), z.token, err));
    TEST_OK(be->gather_rows(s.s, dys, test_in(&s, tdm_cview_rows(tdm_view_const(dy), first, tokens)), z.token, err));
    TEST_OK(be->gather_rows(s.s, hs, test_in(&s, test_cols(tdm_cview_rows(tdm_view_const(in), first, tokens), 0, R)), z.token, err));
    float *g = test_out_bytes(&s, grad, E * STEP * sizeof *grad);
    const tdm_linear_backward l = {.dx = dxs, .dy = tdm_view_const(dys), .x = tdm_view_const(xs), .h = tdm_view_const(hs), .w = w, .lora_a = a, .lora_b = b, .lora_dh = dh,
                                   .grad_a = tdm_view_make(g, TDM_DTYPE_F32, R, K), .grad_b = tdm_view_make(g + R * K, TDM_DTYPE_F32, N, R), .lora_scale = 0.5f,
                                   .q_start = test_in_i32(&s, own, to - from + 1), .sequences = to - from};
    TEST_OK(be->linear_experts_backward(s.s, &(tdm_linear_experts_backward){.of = l, .lora_step = STEP, .routes = &z}, err));
    const tdm_combine sum = {.y = test_out(&s, tdm_view_rows(dx, first, tokens)), .x = tdm_view_const(dxs), .routes = &z};
    TEST_OK(be->combine(s.s, &sum, err));
    test_stream_close(&s);
}

static void gradients_do_not_depend_on_micro_batches(void **state)
{
    (void)state;
    experts *x = calloc(1, sizeof *x);
    tdm_view logits = test_random(T, E, TDM_DTYPE_BF16, 2, 5), in = test_random(T, K, TDM_DTYPE_BF16, 1, 6), dy = test_random(T, N, TDM_DTYPE_BF16, 1, 8);
    float *whole = calloc(E * STEP, sizeof *whole), *split = calloc(E * STEP, sizeof *split), *first = calloc(E * STEP, sizeof *first);
    tdm_view first_dx = {0};
    fill_experts(x, TDM_SCHEME_FP8_BLOCK, TDM_ACT_NONE);
    OPS_EACH_BACKEND(be) {
        tdm_view dx = test_guarded(T, K, TDM_DTYPE_F32), part = test_guarded(T, K, TDM_DTYPE_F32);
        memset(whole, 0, E * STEP * sizeof *whole);
        memset(split, 0, E * STEP * sizeof *split);
        backward(be, x, logits, in, dy, 0, SEQUENCES, whole, dx);
        backward(be, x, logits, in, dy, 0, 2, split, part);
        backward(be, x, logits, in, dy, 2, SEQUENCES, split, part);
        assert_memory_equal(whole, split, E * STEP * sizeof *whole);
        test_same_bits("dx", tdm_view_const(part), tdm_view_const(dx));
        if (!first_dx.data) {
            first_dx = test_copy(tdm_view_const(dx));
            memcpy(first, whole, E * STEP * sizeof *whole);
        }
        /* dh, rounded to bf16, may be a step apart */
        test_near(be->name, tdm_view_const(dx), tdm_view_const(first_dx), 0x1p-8, 0.25, ops_absent);
        test_near(be->name, (tdm_cview){whole, TDM_DTYPE_F32, E, STEP, STEP}, (tdm_cview){first, TDM_DTYPE_F32, E, STEP, STEP}, 0x1p-8, 0.25, ops_absent);
        test_guard_free("dx", dx);
        test_guard_free("part", part);
    }
    free(first_dx.data);
    free(logits.data);
    free(in.data);
    free(dy.data);
    free(whole);
    free(split);
    free(first);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_go_to_the_largest_logits), cmocka_unit_test(weights_have_the_gradient_of_their_formula),
        cmocka_unit_test(what_experts_made_is_added_by_weight), cmocka_unit_test(a_row_has_the_bits_that_linear_gives_it),
        cmocka_unit_test(gradients_do_not_depend_on_micro_batches),
    };
    return cmocka_run_group_tests(tests, open_backends, NULL);
}
