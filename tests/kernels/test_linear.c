/* labels: unit, golden
 * timeout: 300
 * linear against PyTorch in float64, and the promise that a row has the same bits whatever stands around it. */
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
static const char *const act_names[] = {"none", "dynamic", "static"};

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

/* bf16 weights meet bf16 activations only; FP8 weights meet all three kinds. */
typedef void case_fn(tdm_scheme scheme, tdm_act_quant act);
static void for_each_kind(case_fn *fn)
{
    for (int scheme = 0; scheme <= 3; scheme++)
        for (int act = 0; act <= (scheme ? 2 : 0); act++) fn((tdm_scheme)scheme, (tdm_act_quant)act);
}

/* One rounding at the store (half a step of bf16, none of f32), and the f32 sum: 171 products of exact terms stay within 2^-18 of
 * the sum of absolute values. With the adapter h itself is rounded, one step of which moves y by 2^-8 of the adapter's part. */
static void expect_near(const char *what, tdm_cview got, tdm_cview want, tdm_cview mag, tdm_cview lora_mag)
{
    for (int64_t i = 0; i < got.rows; i++)
        for (int64_t j = 0; j < got.cols; j++) {
            const float y = test_view_at(got, i, j), ref = test_view_at(want, i, j);
            float bound = 0x1p-18f * test_view_at(mag, i, j);
            if (got.dtype == TDM_DTYPE_BF16 && ref != 0.0f) bound += ldexpf(1.0f, ilogbf(ref) - 8);
            if (lora_mag.data) bound += 0x1p-8f * test_view_at(lora_mag, i, j);
            if (!(fabsf(y - ref) <= bound))
                fail_msg("%s[%lld, %lld] is %.9g, should be %.9g within %.3g", what, (long long)i, (long long)j, (double)y,
                         (double)ref, (double)bound);
        }
}

static test_linear_case golden_case(tdm_scheme scheme, tdm_act_quant act)
{
    const char *name = scheme_names[scheme];
    test_linear_case c = {.w = {.scheme = scheme, .act = act, .input_scale = 0.0087f}};
    c.w.codes = test_golden(goldens, "linear/%s/codes", name);
    if (scheme != TDM_SCHEME_BF16) c.w.scale = test_golden(goldens, "linear/%s/scale", name);
    c.x = test_golden(goldens, "linear/x");
    c.a = test_golden(goldens, "linear/a");
    c.b = test_golden(goldens, "linear/b");
    c.bias = test_golden(goldens, "linear/bias");
    c.t = c.x.rows;
    c.n = c.w.codes.rows;
    c.k = c.w.codes.cols;
    return c;
}

static void check_golden(tdm_scheme scheme, tdm_act_quant act)
{
    test_linear_case c = golden_case(scheme, act);
    char name[64], what[96];
    snprintf(name, sizeof name, "linear/%s/%s", scheme_names[scheme], act_names[act]);
    const tdm_cview none = {0}, lora_mag = test_golden(goldens, "linear/%s/none/y_lora/mag", scheme_names[scheme]);
    for (size_t i = 0; i < backends_n; i++)
        for (int f32 = 0; f32 < 2; f32++) {
            tdm_view y = test_guarded(c.t, c.n, f32 ? TDM_DTYPE_F32 : TDM_DTYPE_BF16);
            tdm_view h = test_guarded(c.t, c.a.rows, TDM_DTYPE_BF16);
            snprintf(what, sizeof what, "%s %s", backends[i]->name, name);
            c.r = 0;
            c.w.bias = none;
            test_linear_run(backends[i], 2, &c, 0, c.t, y, h, false);
            expect_near(what, tdm_view_const(y), test_golden(goldens, "%s/plain", name), test_golden(goldens, "%s/plain/mag", name), none);
            c.r = c.a.rows;
            c.w.bias = c.bias;
            test_linear_run(backends[i], 2, &c, 0, c.t, y, h, false);
            expect_near(what, tdm_view_const(y), test_golden(goldens, "%s/y", name), test_golden(goldens, "%s/y/mag", name), lora_mag);
            test_guard_check(what, y);
            test_guard_check(what, h);
            free(y.data);
            free(h.data);
        }
}

static void agrees_with_pytorch(void **state)
{
    (void)state;
    for_each_kind(check_golden);
}

/* Odd, tiny, non-multiple and longer than a panel is deep; many rows with few and with many columns of K, as kernels differ there. */
static const struct { int64_t t, n, k, r; } shapes[] = {
    {1, 1, 1, 0}, {2, 3, 2, 1}, {7, 17, 31, 3}, {13, 64, 64, 8}, {29, 65, 127, 5}, {40, 130, 129, 0}, {64, 96, 300, 16}, {6, 20, 1100, 4}, {530, 70, 66, 2},
    /* a device's alone: it has other kernels by the number of rows, of columns and of slices */
    {270, 40, 1100, 4}, {65, 131, 2050, 16}, {150, 200, 576, 16}, {260, 136, 192, 4},
};
enum { DEVICE_SHAPES = 9 };

static void check_rows(tdm_scheme scheme, tdm_act_quant act)
{
    if (scheme == TDM_SCHEME_FP8_TENSOR && act == TDM_ACT_DYNAMIC) return; /* its scale is the whole call's, by definition */
    for (size_t i = 0; i < backends_n; i++)
        for (size_t s = 0; s < TDM_COUNT(shapes); s++) {
            if (s >= DEVICE_SHAPES && !backends[i]->device) break;
            test_linear_case c = test_linear_random(shapes[s].t, shapes[s].n, shapes[s].k, shapes[s].r, scheme, act, 11);
            tdm_view all = test_guarded(c.t, c.n, TDM_DTYPE_F32), h = test_guarded(c.t, c.r, TDM_DTYPE_BF16);
            test_linear_run(backends[i], 1, &c, 0, c.t, all, h, false);
            for (int64_t count = 1, first = 0; first < c.t; first += count, count = count % 7 + 1 + (first > 100 ? 60 : 0)) {
                const int64_t rows = tdm_min_i64(count, c.t - first);
                tdm_view y = test_guarded(rows, c.n, TDM_DTYPE_F32), part = test_guarded(rows, c.r, TDM_DTYPE_BF16);
                test_linear_run(backends[i], 1 + (int)(first % 3), &c, first, rows, y, part, false);
                test_same_bits(backends[i]->name, tdm_view_const(y), tdm_cview_rows(tdm_view_const(all), first, rows));
                test_same_bits("h", tdm_view_const(part), tdm_cview_rows(tdm_view_const(h), first, rows));
                test_guard_check(backends[i]->name, y);
                free(y.data);
                free(part.data);
            }
            free(all.data);
            free(h.data);
            test_linear_free(&c);
        }
}

static void a_row_has_the_same_bits_alone_and_in_a_batch(void **state)
{
    (void)state;
    for_each_kind(check_rows);
}

/* A column's bits do not depend on which panel or vector it falls into: the weight is shifted by rows. */
static void check_columns(tdm_scheme scheme, tdm_act_quant act)
{
    if (scheme == TDM_SCHEME_FP8_BLOCK) return; /* its scales lie on a grid of 128 rows */
    for (size_t i = 0; i < backends_n; i++) {
        test_linear_case c = test_linear_random(9, 150, 77, 0, scheme, act, 5);
        tdm_view all = test_guarded(c.t, c.n, TDM_DTYPE_F32), part = test_guarded(c.t, 1, TDM_DTYPE_F32), none = {0};
        test_linear_run(backends[i], 2, &c, 0, c.t, all, none, false);
        for (int64_t row = 0; row < 150; row += 13) {
            test_linear_case one = c;
            one.n = 1;
            one.w.codes = tdm_cview_rows(c.w.codes, row, 1);
            if (scheme == TDM_SCHEME_FP8_CHANNEL) one.w.scale = tdm_cview_rows(c.w.scale, row, 1);
            one.w.bias.data = (const uint16_t *)c.w.bias.data + row;
            one.w.bias.cols = 1;
            test_linear_run(backends[i], 1, &one, 0, c.t, part, none, false);
            tdm_cview want = tdm_view_const(all);
            want.data = (const float *)all.data + row;
            want.cols = 1;
            test_same_bits(backends[i]->name, tdm_view_const(part), want);
        }
        free(all.data);
        free(part.data);
        test_linear_free(&c);
    }
}

static void a_column_has_the_same_bits_in_any_panel(void **state)
{
    (void)state;
    for_each_kind(check_columns);
}

/* The case with every operand's sign taken away: what it gives is the sum of absolute values, which scales a bound. */
static void take_signs(test_linear_case *c)
{
    const tdm_cview bf16[] = {c->x, c->a, c->b, c->bias, c->w.scheme == TDM_SCHEME_BF16 ? c->w.codes : (tdm_cview){0}};
    for (size_t i = 0; i < TDM_COUNT(bf16); i++)
        for (int64_t j = 0; bf16[i].data && j < bf16[i].rows * bf16[i].stride; j++) ((uint16_t *)(uintptr_t)bf16[i].data)[j] &= 0x7fff;
    for (int64_t j = 0; c->w.scheme != TDM_SCHEME_BF16 && j < c->w.codes.rows * c->w.codes.stride; j++)
        ((uint8_t *)(uintptr_t)c->w.codes.data)[j] &= 0x7f;
}

/* A device against the CPU: both stay within 2^-18 of the sum of absolute values, round once at the store, and may round h to
 * neighbouring numbers. */
static void check_device(const tdm_backend *be, const test_linear_case *c, test_linear_case *mag, tdm_cview want)
{
    tdm_view y = test_guarded(c->t, c->n, TDM_DTYPE_BF16), h = test_guarded(c->t, c->r, TDM_DTYPE_BF16);
    tdm_view sum = test_guarded(c->t, c->n, TDM_DTYPE_F32), plain = test_guarded(c->t, c->n, TDM_DTYPE_F32);
    test_linear_run(be, 2, c, 0, c->t, y, h, false);
    take_signs(mag);
    test_linear_run(test_reference(), 2, mag, 0, c->t, sum, h, false);
    mag->r = 0;
    test_linear_run(test_reference(), 2, mag, 0, c->t, plain, h, false);
    for (int64_t t = 0; t < c->t; t++)
        for (int64_t n = 0; n < c->n; n++) {
            const float got = test_view_at(tdm_view_const(y), t, n), ref = test_view_at(want, t, n);
            const float all = test_view_at(tdm_view_const(sum), t, n), lora = all - test_view_at(tdm_view_const(plain), t, n);
            const float bound = 0x1p-17f * all + 0x1p-8f * lora + (ref != 0.0f ? ldexpf(1.0f, ilogbf(ref) - 7) : 0.0f);
            if (!(fabsf(got - ref) <= bound))
                fail_msg("%s[%lld, %lld] is %.9g, on the CPU %.9g, apart more than %.3g", be->name, (long long)t, (long long)n,
                         (double)got, (double)ref, (double)bound);
        }
    test_guard_free(be->name, y);
    test_guard_free(be->name, h);
    free(sum.data);
    free(plain.data);
}

/* Products of bf16 are exact in f32 and every instruction set sums in the same order, so the difference is that of a fused
 * multiply-add in the epilogue at most: none is used there, so there is none. */
static void check_sets(tdm_scheme scheme, tdm_act_quant act)
{
    bool device = false;
    for (size_t i = 0; i < backends_n; i++) device = device || backends[i]->device;
    for (size_t s = 0; s < (device ? TDM_COUNT(shapes) : DEVICE_SHAPES); s++) {
        test_linear_case c = test_linear_random(shapes[s].t, shapes[s].n, shapes[s].k, shapes[s].r, scheme, act, 3);
        tdm_view first = test_guarded(c.t, c.n, TDM_DTYPE_BF16), h = test_guarded(c.t, c.r, TDM_DTYPE_BF16);
        test_linear_run(test_reference(), 1, &c, 0, c.t, first, h, false);
        for (size_t i = 0; i < backends_n; i++) {
            if (backends[i]->device) {
                test_linear_case mag = test_linear_random(shapes[s].t, shapes[s].n, shapes[s].k, shapes[s].r, scheme, act, 3);
                check_device(backends[i], &c, &mag, tdm_view_const(first));
                test_linear_free(&mag);
                continue;
            }
            tdm_view y = test_guarded(c.t, c.n, TDM_DTYPE_BF16);
            test_linear_run(backends[i], 2, &c, 0, c.t, y, h, false);
            test_same_bits(backends[i]->name, tdm_view_const(y), tdm_view_const(first));
            free(y.data);
        }
        free(first.data);
        free(h.data);
        test_linear_free(&c);
    }
}

static void backends_agree(void **state)
{
    (void)state;
    for_each_kind(check_sets);
}

static void accumulate_adds_to_what_is_there(void **state)
{
    (void)state;
    for (size_t i = 0; i < backends_n; i++) {
        test_linear_case c = test_linear_random(11, 70, 90, 4, TDM_SCHEME_FP8_CHANNEL, TDM_ACT_DYNAMIC, 9);
        tdm_view y = test_guarded(c.t, c.n, TDM_DTYPE_F32), sum = test_guarded(c.t, c.n, TDM_DTYPE_F32);
        tdm_view h = test_guarded(c.t, c.r, TDM_DTYPE_BF16);
        for (int64_t j = 0; j < c.t * sum.stride; j++)
            if (j % sum.stride < c.n) ((float *)sum.data)[j] = (float)j;
        test_linear_run(backends[i], 2, &c, 0, c.t, y, h, false);
        test_linear_run(backends[i], 2, &c, 0, c.t, sum, h, true);
        for (int64_t t = 0; t < c.t; t++)
            for (int64_t n = 0; n < c.n; n++) {
                const float want = (float)(t * sum.stride + n) + test_view_at(tdm_view_const(y), t, n);
                assert_true(test_view_at(tdm_view_const(sum), t, n) == want);
            }
        test_guard_check("accumulate", sum);
        free(y.data);
        free(sum.data);
        free(h.data);
        test_linear_free(&c);
    }
}

/* NaN in a code or an activation must come out, not be looked up as a number. */
static void nan_comes_through(void **state)
{
    (void)state;
    for (size_t i = 0; i < backends_n; i++) {
        test_linear_case c = test_linear_random(3, 20, 40, 0, TDM_SCHEME_FP8_CHANNEL, TDM_ACT_DYNAMIC, 2);
        tdm_view y = test_guarded(c.t, c.n, TDM_DTYPE_F32), none = {0};
        ((uint8_t *)(uintptr_t)c.w.codes.data)[4 * c.w.codes.stride + 7] = 0xff;
        ((uint16_t *)(uintptr_t)c.x.data)[2 * c.x.stride + 1] = 0x7fc0;
        test_linear_run(backends[i], 1, &c, 0, c.t, y, none, false);
        for (int64_t t = 0; t < c.t; t++)
            for (int64_t n = 0; n < c.n; n++) assert_int_equal(isnan(test_view_at(tdm_view_const(y), t, n)) != 0, t == 2 || n == 4);
        free(y.data);
        test_linear_free(&c);
    }
}

static void an_empty_batch_is_a_batch(void **state)
{
    (void)state;
    for (size_t i = 0; i < backends_n; i++) {
        test_linear_case c = test_linear_random(1, 20, 40, 4, TDM_SCHEME_FP8_BLOCK, TDM_ACT_DYNAMIC, 2);
        tdm_view y = test_guarded(0, c.n, TDM_DTYPE_BF16), h = test_guarded(0, c.r, TDM_DTYPE_BF16);
        test_linear_run(backends[i], 2, &c, 0, 0, y, h, false);
        free(y.data);
        free(h.data);
        test_linear_free(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_pytorch),
        cmocka_unit_test(a_row_has_the_same_bits_alone_and_in_a_batch),
        cmocka_unit_test(a_column_has_the_same_bits_in_any_panel),
        cmocka_unit_test(backends_agree),
        cmocka_unit_test(accumulate_adds_to_what_is_there),
        cmocka_unit_test(nan_comes_through),
        cmocka_unit_test(an_empty_batch_is_a_batch),
    };
    return cmocka_run_group_tests(tests, open_goldens, close_goldens);
}
