/* labels: unit, golden
 * linear_backward against PyTorch in float64; gradients do not change a bit when a batch is split, dx when a row stands alone. */
#include "testing/golden_file.h"
#include "testing/linear_case.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const scheme_names[] = {"bf16", "tensor", "channel", "block"};

static test_goldens *goldens;
static const tdm_backend *backends[TEST_BACKENDS_MOST];
static size_t backends_n;

static int open_goldens(void **state)
{
    (void)state;
    goldens = test_goldens_open("tests/golden/data/kernels/linear.bin");
    backends_n = test_backends(backends);
    return 0;
}
static int close_goldens(void **state)
{
    (void)state;
    test_goldens_close(goldens);
    return 0;
}

/* What one call wrote. */
typedef struct results {
    tdm_view dx, side, dh, grad_a, grad_b;
} results;

static void clear(tdm_view v, float value)
{
    for (int64_t i = 0; i < v.rows; i++)
        for (int64_t j = 0; j < v.cols; j++) ((float *)v.data)[i * v.stride + j] = value;
}
static results results_new(const test_linear_case *c, int64_t rows)
{
    results r = {test_guarded(rows, c->k, TDM_DTYPE_F32), test_guarded(rows, c->k, TDM_DTYPE_F32),
                 test_guarded(rows, c->r, TDM_DTYPE_BF16), test_guarded(c->r, c->k, TDM_DTYPE_F32),
                 test_guarded(c->n, c->r, TDM_DTYPE_F32)};
    clear(r.grad_a, 0.0f);
    clear(r.grad_b, 0.0f);
    return r;
}
static void results_free(results *r)
{
    tdm_view all[] = {r->dx, r->side, r->dh, r->grad_a, r->grad_b};
    for (size_t i = 0; i < TDM_COUNT(all); i++) {
        test_guard_check("backward", all[i]);
        free(all[i].data);
    }
}

enum { ACCUMULATE = 1, SIDE = 2, NO_DX = 4 };

/* Rows [first, first + count) of the case; gradients are added to r's. */
/* starts [count of them + 1]: the rows of each sequence, counted from `first`; NULL: one sequence. */
static void run_sequences(const tdm_backend *be, int threads, const test_linear_case *c, tdm_cview h, int64_t first, int64_t count, const int32_t *starts,
                          int64_t sequences, results *r, int flags)
{
    const int64_t width = c->k > c->n ? c->k : c->n;
    const bool head = width > 16384;
    const tdm_limits limits = {.tokens = c->t, .width = head ? c->k : width, .vocab = head ? width : 1, .head_rows = 1, .heads = 1,
                               .head_dim = 64, .rank = c->r, .context = 1};
    test_stream s = test_stream_open(be, &limits, threads);
    const tdm_weight w = test_in_weight(&s, &c->w);
    tdm_linear_backward b = {.accumulate = flags & ACCUMULATE, .dy = test_in(&s, tdm_cview_rows(c->dy, first, count)), .w = &w};
    if (!(flags & NO_DX)) b.dx = test_out(&s, r->dx);
    if (c->r) {
        b.x = test_in(&s, tdm_cview_rows(c->x, first, count));
        b.h = test_in(&s, tdm_cview_rows(h, first, count));
        b.lora_a = test_in(&s, c->a);
        b.lora_b = test_in(&s, c->b);
        b.lora_dh = test_out(&s, r->dh);
        b.grad_a = test_out(&s, r->grad_a);
        b.grad_b = test_out(&s, r->grad_b);
        b.lora_scale = 0.7f;
        b.q_start = starts ? test_in_bytes(&s, starts, (size_t)(sequences + 1) * sizeof *starts) : NULL;
        b.sequences = sequences;
        if (flags & SIDE) b.lora_dx = test_out(&s, r->side);
    }
    TEST_OK(be->linear_backward(s.s, &b, err));
    test_stream_close(&s);
}
static void run(const tdm_backend *be, int threads, const test_linear_case *c, tdm_cview h, int64_t first, int64_t count, results *r, int flags)
{
    run_sequences(be, threads, c, h, first, count, NULL, 1, r, flags);
}

static test_linear_case golden_case(tdm_scheme scheme)
{
    const char *name = scheme_names[scheme];
    test_linear_case c = {.w = {.scheme = scheme}};
    c.w.codes = test_golden(goldens, "linear/%s/codes", name);
    if (scheme != TDM_SCHEME_BF16) c.w.scale = test_golden(goldens, "linear/%s/scale", name);
    c.x = test_golden(goldens, "linear/x");
    c.dy = test_golden(goldens, "linear/dy");
    c.a = test_golden(goldens, "linear/a");
    c.b = test_golden(goldens, "linear/b");
    c.t = c.x.rows;
    c.n = c.w.codes.rows;
    c.k = c.w.codes.cols;
    c.r = c.a.rows;
    return c;
}

/* The f32 sum stays within 2^-18 of the sum of absolute values; what passes through dh, rounded once to bf16, may be a step of
 * dh (2^-8) off where its f32 sum fell on the other side of a tie. */
static void expect_near(const char *what, tdm_cview got, const char *name, bool through_dh)
{
    const tdm_cview want = test_golden(goldens, "%s", name), mag = test_golden(goldens, "%s/mag", name);
    char lora[96];
    snprintf(lora, sizeof lora, "%s_lora/mag", name);
    const tdm_cview moved = !through_dh ? (tdm_cview){0} : strstr(name, "/dx") && !strstr(name, "_lora") ? test_golden(goldens, "%s", lora) : mag;
    for (int64_t i = 0; i < got.rows; i++)
        for (int64_t j = 0; j < got.cols; j++) {
            const float y = test_view_at(got, i, j), ref = test_view_at(want, i, j);
            const float bound = 0x1p-18f * test_view_at(mag, i, j) + (through_dh ? 0x1p-9f * test_view_at(moved, i, j) : 0.0f) + 1e-7f;
            if (!(fabsf(y - ref) <= bound))
                fail_msg("%s %s[%lld, %lld] is %.9g, should be %.9g within %.3g", what, name, (long long)i, (long long)j, (double)y,
                         (double)ref, (double)bound);
        }
}

static void agrees_with_pytorch(void **state)
{
    (void)state;
    char name[80];
    for (int scheme = 0; scheme <= 3; scheme++)
        for (size_t i = 0; i < backends_n; i++) {
            const test_linear_case c = golden_case((tdm_scheme)scheme);
            const tdm_cview h = test_golden(goldens, "linear/h"), dh = test_golden(goldens, "linear/dh");
            const char *what = backends[i]->name;
            results r = results_new(&c, c.t);
            run(backends[i], 2, &c, h, 0, c.t, &r, 0);
            for (int64_t t = 0; t < c.t; t++)
                for (int64_t j = 0; j < c.r; j++) {
                    const float want = test_view_at(dh, t, j), got = test_view_at(tdm_view_const(r.dh), t, j);
                    if (!(fabsf(got - want) <= 0x1p-7f * fabsf(want))) fail_msg("%s dh %g, should be %g", what, (double)got, (double)want);
                }
            snprintf(name, sizeof name, "linear/%s/none/dx", scheme_names[scheme]);
            expect_near(what, tdm_view_const(r.dx), name, true);
            snprintf(name, sizeof name, "linear/%s/none/grad_a", scheme_names[scheme]);
            expect_near(what, tdm_view_const(r.grad_a), name, true);
            snprintf(name, sizeof name, "linear/%s/none/grad_b", scheme_names[scheme]);
            expect_near(what, tdm_view_const(r.grad_b), name, false);
            run(backends[i], 1, &c, h, 0, c.t, &r, SIDE);
            snprintf(name, sizeof name, "linear/%s/none/dx_lora", scheme_names[scheme]);
            expect_near(what, tdm_view_const(r.side), name, true);
            results_free(&r);
        }
}

static const struct { int64_t t, n, k, r; } shapes[] = {
    {1, 1, 1, 1}, {5, 3, 2, 1}, {17, 33, 31, 3}, {13, 64, 64, 8}, {70, 65, 127, 5}, {40, 130, 129, 16}, {12, 600, 66, 4}, {530, 21, 70, 17}, {150, 192, 160, 16}, {260, 200, 64, 8},
};

enum { MOST_SEQUENCES = 32 };

static void a_split_batch_gives_the_same_gradients_and_dx(void **state)
{
    (void)state;
    for (size_t i = 0; i < backends_n; i++)
        for (size_t s = 0; s < TDM_COUNT(shapes); s++)
            for (int scheme = 0; scheme <= 3; scheme++) {
                test_linear_case c = test_linear_random(shapes[s].t, shapes[s].n, shapes[s].k, shapes[s].r, (tdm_scheme)scheme, TDM_ACT_NONE, 21);
                uint16_t *hs = test_noise_bf16(c.t, c.r, 77);
                const tdm_cview h = {hs, TDM_DTYPE_BF16, c.t, c.r, c.r};
                results whole = results_new(&c, c.t), split = results_new(&c, c.t);
                int32_t starts[MOST_SEQUENCES + 1] = {0};
                int64_t sequences = 0;
                for (int64_t count = 1; starts[sequences] < c.t; count = count % 5 + 1 + starts[sequences] / 2, sequences++)
                    starts[sequences + 1] = (int32_t)tdm_min_i64(starts[sequences] + count, c.t);
                run_sequences(backends[i], 2, &c, h, 0, c.t, starts, sequences, &whole, 0);
                for (int64_t at = 0, count = 1; at < sequences; at += count, count = count % 3 + 1) { /* one, two, three, one ... sequences at a time */
                    count = tdm_min_i64(count, sequences - at);
                    const int64_t first = starts[at], rows = starts[at + count] - first;
                    int32_t own[4] = {0};
                    for (int64_t k = 1; k <= count; k++) own[k] = starts[at + k] - starts[at];
                    results part = split;
                    part.dx = tdm_view_rows(split.dx, first, rows);
                    part.dh = tdm_view_rows(split.dh, first, rows);
                    run_sequences(backends[i], 1 + (int)(first % 3), &c, h, first, rows, own, count, &part, 0);
                }
                test_same_bits("dx", tdm_view_const(split.dx), tdm_view_const(whole.dx));
                test_same_bits("dh", tdm_view_const(split.dh), tdm_view_const(whole.dh));
                test_same_bits("dA", tdm_view_const(split.grad_a), tdm_view_const(whole.grad_a));
                test_same_bits("dB", tdm_view_const(split.grad_b), tdm_view_const(whole.grad_b));
                results_free(&whole);
                results_free(&split);
                free(hs);
                test_linear_free(&c);
            }
}

/* A device against the CPU. Operands are below 1 (a block's scale is at most 1 / 448), so a sum of n terms is below n: f32 sums stay
 * within 2^-17 of that between the two, and dh, rounded to bf16, may be a step (2^-7 of it) apart. */
static void check_device(const char *what, const test_linear_case *c, const results *got, const results *want)
{
    const double none = 0x1p-17;
    double dh = 0;
    for (int64_t t = 0; t < c->t; t++)
        for (int64_t j = 0; j < c->r; j++) dh = fmax(dh, 0x1p-7 * fabs((double)test_view_at(tdm_view_const(want->dh), t, j)));
    const tdm_cview flat = {0};
    test_near(what, tdm_view_const(got->dh), tdm_view_const(want->dh), 0x1p-8, none * 0.7 * (double)c->n, flat);
    test_near(what, tdm_view_const(got->dx), tdm_view_const(want->dx), 0, none * (double)c->n + dh * (double)c->r, flat);
    test_near(what, tdm_view_const(got->grad_a), tdm_view_const(want->grad_a), 0, dh * (double)c->t, flat);
    test_near(what, tdm_view_const(got->grad_b), tdm_view_const(want->grad_b), 0, none * (double)c->t, flat);
}

/* The head's backward: rows so long that they are expanded fewer at a time, odd so that no instruction set reads them in place; and a
 * length that a device cuts into slices. */
static void rows_as_long_as_a_vocabulary_fit_the_workspace(void **state)
{
    (void)state;
    static const struct { int64_t n, k, r; } heads[] = {{16401, 6, 2}, {32800, 64, 0}};
    for (size_t i = 0; i < backends_n; i++)
        for (size_t s = 0; s < TDM_COUNT(heads); s++) {
            test_linear_case c = test_linear_random(70, heads[s].n, heads[s].k, heads[s].r, TDM_SCHEME_BF16, TDM_ACT_NONE, 31);
            uint16_t *hs = test_noise_bf16(c.t, c.r, 80);
            const tdm_cview h = {hs, TDM_DTYPE_BF16, c.t, c.r, c.r};
            results whole = results_new(&c, c.t), one = results_new(&c, 1);
            run(backends[i], 2, &c, h, 0, c.t, &whole, 0);
            for (int64_t row = 0; row < c.t; row += 23) {
                run(backends[i], 1, &c, h, row, 1, &one, 0);
                test_same_bits("dx", tdm_view_const(one.dx), tdm_cview_rows(tdm_view_const(whole.dx), row, 1));
            }
            if (backends[i]->device) {
                results first = results_new(&c, c.t);
                run(test_reference(), 1, &c, h, 0, c.t, &first, 0);
                check_device(backends[i]->name, &c, &whole, &first);
                results_free(&first);
            }
            results_free(&whole);
            results_free(&one);
            free(hs);
            test_linear_free(&c);
        }
}

/* dx is products of bf16 summed in one order; the gradients of B are not (lora_scale * dy has more than 8 bits), so a fused
 * multiply-add may differ by its one rounding a step. */
static void backends_agree(void **state)
{
    (void)state;
    for (size_t s = 0; s < TDM_COUNT(shapes); s++) {
        test_linear_case c = test_linear_random(shapes[s].t, shapes[s].n, shapes[s].k, shapes[s].r, TDM_SCHEME_FP8_BLOCK, TDM_ACT_NONE, 8);
        uint16_t *hs = test_noise_bf16(c.t, c.r, 78);
        const tdm_cview h = {hs, TDM_DTYPE_BF16, c.t, c.r, c.r};
        results first = results_new(&c, c.t);
        run(test_reference(), 1, &c, h, 0, c.t, &first, 0);
        for (size_t i = 0; i < backends_n; i++) {
            results r = results_new(&c, c.t);
            run(backends[i], 2, &c, h, 0, c.t, &r, 0);
            if (backends[i]->device) {
                check_device(backends[i]->name, &c, &r, &first);
                results_free(&r);
                continue;
            }
            test_same_bits("dx", tdm_view_const(r.dx), tdm_view_const(first.dx));
            test_same_bits("dA", tdm_view_const(r.grad_a), tdm_view_const(first.grad_a));
            for (int64_t n = 0; n < c.n; n++)
                for (int64_t j = 0; j < c.r; j++)
                    assert_true(fabsf(test_view_at(tdm_view_const(r.grad_b), n, j) - test_view_at(tdm_view_const(first.grad_b), n, j)) <=
                                (float)c.t * 0x1p-22f);
            results_free(&r);
        }
        results_free(&first);
        free(hs);
        test_linear_free(&c);
    }
}

static void dx_accumulates_and_dropout_takes_the_side_way(void **state)
{
    (void)state;
    for (size_t i = 0; i < backends_n; i++) {
        test_linear_case c = test_linear_random(19, 70, 90, 5, TDM_SCHEME_FP8_CHANNEL, TDM_ACT_NONE, 4), bare = c;
        uint16_t *hs = test_noise_bf16(c.t, c.r, 79);
        const tdm_cview h = {hs, TDM_DTYPE_BF16, c.t, c.r, c.r};
        bare.r = 0;
        results plain = results_new(&c, c.t), side = results_new(&c, c.t), sum = results_new(&c, c.t), alone = results_new(&c, c.t);
        run(backends[i], 2, &bare, h, 0, c.t, &plain, 0);
        run(backends[i], 2, &c, h, 0, c.t, &side, SIDE);
        test_same_bits("dx without the adapter", tdm_view_const(side.dx), tdm_view_const(plain.dx));
        run(backends[i], 2, &c, h, 0, c.t, &alone, SIDE | NO_DX);
        test_same_bits("the adapter's dx alone", tdm_view_const(alone.side), tdm_view_const(side.side));
        run(backends[i], 2, &c, h, 0, c.t, &sum, 0);
        for (int64_t t = 0; t < c.t; t++)
            for (int64_t k = 0; k < c.k; k++)
                assert_true(test_view_at(tdm_view_const(sum.dx), t, k) ==
                            test_view_at(tdm_view_const(plain.dx), t, k) + test_view_at(tdm_view_const(side.side), t, k));
        clear(plain.dx, 3.0f);
        run(backends[i], 2, &c, h, 0, c.t, &plain, ACCUMULATE);
        for (int64_t t = 0; t < c.t; t++)
            for (int64_t k = 0; k < c.k; k++)
                assert_true(test_view_at(tdm_view_const(plain.dx), t, k) == 3.0f + test_view_at(tdm_view_const(sum.dx), t, k));
        results_free(&plain);
        results_free(&side);
        results_free(&sum);
        results_free(&alone);
        free(hs);
        test_linear_free(&c);
    }
}

static void an_empty_batch_is_a_batch(void **state)
{
    (void)state;
    for (size_t i = 0; i < backends_n; i++) {
        test_linear_case c = test_linear_random(1, 20, 40, 4, TDM_SCHEME_FP8_BLOCK, TDM_ACT_NONE, 2);
        const tdm_cview h = {NULL, TDM_DTYPE_BF16, 1, 4, 4};
        results r = results_new(&c, 0);
        run(backends[i], 2, &c, h, 0, 0, &r, 0);
        for (int64_t j = 0; j < c.k; j++) assert_true(test_view_at(tdm_view_const(r.grad_a), 0, j) == 0.0f);
        results_free(&r);
        test_linear_free(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_pytorch),
        cmocka_unit_test(a_split_batch_gives_the_same_gradients_and_dx),
        cmocka_unit_test(rows_as_long_as_a_vocabulary_fit_the_workspace),
        cmocka_unit_test(backends_agree),
        cmocka_unit_test(dx_accumulates_and_dropout_takes_the_side_way),
        cmocka_unit_test(an_empty_batch_is_a_batch),
    };
    return cmocka_run_group_tests(tests, open_goldens, close_goldens);
}
