/* labels: unit, golden
 * What single families of models need of an operation, against PyTorch in float64 and from backend to backend: GELU as a gate, norms whose
 * weights are f32, norms on the way into the residual stream, heads that turn in part, scaled rows of the embedding. */
#include "testing/ops_case.h"

static int open_families(void **state)
{
    (void)state;
    goldens = test_goldens_open("tests/golden/data/kernels/families.bin");
    backends_n = test_backends(backends);
    return 0;
}

static tdm_cview of(const char *kind, int d, int f32, const char *key) { return test_golden(goldens, "%s/%d/%d/%s", kind, d, f32, key); }

static void gelu_is_a_gate(void **state)
{
    (void)state;
    const tdm_cview gate = test_golden(goldens, "gelu/gate"), up = test_golden(goldens, "gelu/up"), dy = test_golden(goldens, "gelu/dy");
    tdm_view first = {0};
    OPS_EACH_BACKEND(be) {
        tdm_view y = test_guarded(gate.rows, gate.cols, TDM_DTYPE_BF16), g = test_copy(gate), u = test_copy(up);
        test_stream s = test_stream_open(be, &ops_limits, 2);
        TEST_OK(be->swiglu(s.s, TDM_GLU_GELU_TANH, test_out(&s, y), test_in(&s, gate), test_in(&s, up), NULL, err));
        const tdm_view dg = test_out(&s, g), du = test_out(&s, u);
        TEST_OK(be->swiglu_backward(s.s, TDM_GLU_GELU_TANH, dg, du, test_in(&s, dy), tdm_view_const(dg), tdm_view_const(du), err));
        test_stream_close(&s);
        /* far below 0 the gate is nothing and its slope the difference of small numbers */
        test_near(be->name, tdm_view_const(y), test_golden(goldens, "gelu/y"), 0x1p-15, 1e-6, ops_absent);
        test_near(be->name, tdm_view_const(g), test_golden(goldens, "gelu/dgate"), 0x1p-15, 4e-6, ops_absent);
        test_near(be->name, tdm_view_const(u), test_golden(goldens, "gelu/dup"), 0x1p-15, 1e-6, ops_absent);
        if (first.data) test_near(be->name, tdm_view_const(y), tdm_view_const(first), 0x1p-8, 1e-6, ops_absent);
        else first = test_copy(tdm_view_const(y));
        tdm_view all[] = {y, g, u};
        for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("gelu", all[k]);
    }
    free(first.data);
}

static const struct { int d, f32; } widths[] = {{7, 1}, {301, 1}, {301, 0}, {1030, 1}};

static void norms_take_weights_of_f32(void **state)
{
    (void)state;
    OPS_EACH_BACKEND(be)
        for (size_t i = 0; i < TDM_COUNT(widths); i++) {
            const int d = widths[i].d, f = widths[i].f32;
            const tdm_cview x = of("rms", d, f, "x"), w = of("rms", d, f, "w");
            tdm_view y = test_guarded(x.rows, d, TDM_DTYPE_BF16), rstd = test_guarded(x.rows, 1, TDM_DTYPE_F32), dx = test_guarded(x.rows, d, TDM_DTYPE_F32);
            test_fill(dx, 0.0f);
            test_stream s = test_stream_open(be, &ops_limits, 2);
            const tdm_view r = test_out(&s, rstd);
            TEST_OK(be->rms_norm(s.s, test_out(&s, y), r, test_in(&s, x), test_in(&s, w), 1e-6f, NULL, err));
            TEST_OK(be->rms_norm_backward(s.s, test_out(&s, dx), test_in(&s, of("rms", d, f, "dy")), test_in(&s, x), test_in(&s, w), tdm_view_const(r), err));
            test_stream_close(&s);
            test_near(be->name, tdm_view_const(y), of("rms", d, f, "y"), 0x1p-18, 0, ops_absent);
            test_near("rstd", tdm_view_const(rstd), of("rms", d, f, "rstd"), 0x1p-19, 0, ops_absent);
            test_near("dx", tdm_view_const(dx), of("rms", d, f, "dx"), 0, 0x1p-17, of("rms", d, f, "mag"));
            tdm_view all[] = {y, rstd, dx};
            for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("rms_norm", all[k]);
        }
}

static void add_forward(const tdm_backend *be, int threads, tdm_view y, tdm_view rstd, tdm_cview r, tdm_cview x, tdm_cview w)
{
    test_stream s = test_stream_open(be, &ops_limits, threads);
    TEST_OK(be->rms_norm_add(s.s, test_out(&s, y), test_out(&s, rstd), test_in(&s, r), test_in(&s, x), test_in(&s, w), 1e-6f, err));
    test_stream_close(&s);
}

static void add_backward(const tdm_backend *be, int threads, tdm_view dx, tdm_cview dy, tdm_cview x, tdm_cview w, tdm_cview rstd)
{
    test_stream s = test_stream_open(be, &ops_limits, threads);
    TEST_OK(be->rms_norm_add_backward(s.s, test_out(&s, dx), test_in(&s, dy), test_in(&s, x), test_in(&s, w), test_in(&s, rstd), err));
    test_stream_close(&s);
}

static void outputs_are_normalized_on_their_way(void **state)
{
    (void)state;
    OPS_EACH_BACKEND(be)
        for (size_t i = 0; i < TDM_COUNT(widths); i++) {
            const int d = widths[i].d, f = widths[i].f32;
            const tdm_cview x = of("add", d, f, "x"), w = of("add", d, f, "w"), r = of("add", d, f, "r"), dy = of("add", d, f, "dy");
            tdm_view y = test_guarded(x.rows, d, TDM_DTYPE_F32), rstd = test_guarded(x.rows, 1, TDM_DTYPE_F32), dx = test_guarded(x.rows, d, TDM_DTYPE_BF16);
            tdm_view place = test_copy(r), none = {0};
            add_forward(be, 2, y, rstd, r, x, w);
            test_near(be->name, tdm_view_const(y), of("add", d, f, "y"), 0x1p-18, 0x1p-18, ops_absent);
            test_near("rstd", tdm_view_const(rstd), of("add", d, f, "rstd"), 0x1p-19, 0, ops_absent);
            add_backward(be, 2, dx, dy, x, w, tdm_view_const(rstd));
            test_near("dx", tdm_view_const(dx), of("add", d, f, "dx"), 0x1p-17, 0x1p-17, of("add", d, f, "mag"));
            /* in place, and without rstd */
            test_stream s = test_stream_open(be, &ops_limits, 1);
            const tdm_view at = test_out(&s, place);
            TEST_OK(be->rms_norm_add(s.s, at, none, tdm_view_const(at), test_in(&s, x), test_in(&s, w), 1e-6f, err));
            test_stream_close(&s);
            test_same_bits("in place", tdm_view_const(place), tdm_view_const(y));
            tdm_view all[] = {y, rstd, dx, place};
            for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("rms_norm_add", all[k]);
        }
}

static void a_row_of_them_has_the_same_bits_alone(void **state)
{
    (void)state;
    static const struct { int64_t t, d; } shapes[] = {{1, 1}, {37, 130}, {9, 4096}};
    for (size_t i = 0; i < TDM_COUNT(shapes); i++) {
        const int64_t t = shapes[i].t, d = shapes[i].d;
        tdm_view x = test_random(t, d, TDM_DTYPE_BF16, 3, 1), w = test_random(1, d, TDM_DTYPE_F32, 1, 2), r = test_random(t, d, TDM_DTYPE_F32, 1, 3);
        tdm_view ref = test_guarded(t, d, TDM_DTYPE_F32), ref_rstd = test_guarded(t, 1, TDM_DTYPE_F32), ref_dx = test_guarded(t, d, TDM_DTYPE_BF16);
        const tdm_cview xc = tdm_view_const(x), wc = tdm_view_const(w), rc = tdm_view_const(r);
        add_forward(test_reference(), 1, ref, ref_rstd, rc, xc, wc);
        add_backward(test_reference(), 1, ref_dx, rc, xc, wc, tdm_view_const(ref_rstd));
        OPS_EACH_BACKEND(be) {
            tdm_view y = test_guarded(t, d, TDM_DTYPE_F32), rstd = test_guarded(t, 1, TDM_DTYPE_F32), dx = test_guarded(t, d, TDM_DTYPE_BF16);
            tdm_view y1 = test_guarded(t, d, TDM_DTYPE_F32), rstd1 = test_guarded(t, 1, TDM_DTYPE_F32), dx1 = test_guarded(t, d, TDM_DTYPE_BF16);
            add_forward(be, 2, y, rstd, rc, xc, wc);
            add_backward(be, 2, dx, rc, xc, wc, tdm_view_const(rstd));
            for (int64_t row = 0; row < t; row++) {
                add_forward(be, 1, tdm_view_rows(y1, row, 1), tdm_view_rows(rstd1, row, 1), tdm_cview_rows(rc, row, 1), tdm_cview_rows(xc, row, 1), wc);
                add_backward(be, 1, tdm_view_rows(dx1, row, 1), tdm_cview_rows(rc, row, 1), tdm_cview_rows(xc, row, 1), wc,
                             tdm_cview_rows(tdm_view_const(rstd1), row, 1));
            }
            test_same_bits("y", tdm_view_const(y1), tdm_view_const(y));
            test_same_bits("rstd", tdm_view_const(rstd1), tdm_view_const(rstd));
            test_same_bits("dx", tdm_view_const(dx1), tdm_view_const(dx));
            test_near(be->name, tdm_view_const(y), tdm_view_const(ref), 0x1p-17, 0x1p-17, ops_absent);
            double top = 0;
            for (int64_t row = 0; row < t; row++) top = fmax(top, (double)test_view_at(tdm_view_const(rstd), row, 0));
            test_near(be->name, tdm_view_const(dx), tdm_view_const(ref_dx), 0x1p-8, 0x1p-17 * (1 + 4 * top), ops_absent);
            tdm_view all[] = {y, rstd, dx, y1, rstd1, dx1};
            for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("rms_norm_add", all[k]);
            const tdm_view none = {NULL, TDM_DTYPE_F32, 0, d, d}, half = {NULL, TDM_DTYPE_BF16, 0, d, d}, no_rstd = {NULL, TDM_DTYPE_F32, 0, 1, 1};
            add_forward(be, 1, none, no_rstd, tdm_view_const(none), tdm_view_const(half), wc);
        }
        tdm_view all[] = {x, w, r, ref, ref_rstd, ref_dx};
        for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("rms_norm_add", all[k]);
    }
}

static void heads_turn_in_part(void **state)
{
    (void)state;
    static const struct { int heads, dh, turned; bool norm; } cases[] = {{2, 64, 48, true}, {3, 32, 16, false}, {1, 128, 128, true}};
    OPS_EACH_BACKEND(be)
        for (size_t i = 0; i < TDM_COUNT(cases); i++) {
            const int heads = cases[i].heads, dh = cases[i].dh, turned = cases[i].turned;
            const tdm_cview in = of("rope", dh, turned, "x"), w = of("rope", dh, turned, "w"), cos = of("rope", dh, turned, "cos"), sin = of("rope", dh, turned, "sin");
            const int32_t *position = of("rope", dh, turned, "position").data;
            tdm_view x = test_copy_aligned(in), pre = test_aligned(in.rows, in.cols, TDM_DTYPE_BF16), dx = test_copy_aligned(of("rope", dh, turned, "dy"));
            test_stream s = test_stream_open(be, &ops_limits, 2);
            const tdm_cview norm = test_in(&s, cases[i].norm ? w : ops_absent);
            const tdm_rope a = {.x = test_out(&s, x), .pre = test_out(&s, pre), .cos = test_in(&s, cos), .sin = test_in(&s, sin), .norm_w = norm,
                                .position = test_in_i32(&s, position, in.rows), .heads = heads, .head_dim = dh, .eps = 1e-5f};
            TEST_OK(be->rope(s.s, &a, err));
            const tdm_rope_backward b = {.dx = test_out(&s, dx), .pre = cases[i].norm ? tdm_view_const(a.pre) : ops_absent, .cos = a.cos, .sin = a.sin,
                                         .norm_w = norm, .position = a.position, .heads = heads, .head_dim = dh, .eps = 1e-5f};
            TEST_OK(be->rope_backward(s.s, &b, err));
            test_stream_close(&s);
            test_near(be->name, tdm_view_const(x), of("rope", dh, turned, "y"), 0x1p-18, 0x1p-18, ops_absent);
            test_near(be->name, tdm_view_const(dx), of("rope", dh, turned, "dx"), 0x1p-17, 0x1p-17, ops_absent);
            test_same_bits("pre", tdm_view_const(pre), in);
            tdm_view all[] = {x, pre, dx};
            for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("rope", all[k]);
        }
}

static void rows_of_the_embedding_are_scaled(void **state)
{
    (void)state;
    static const int32_t ids[] = {4, 0, 2};
    tdm_view table = test_random(5, 72, TDM_DTYPE_BF16, 1, 5);
    OPS_EACH_BACKEND(be) {
        tdm_view y = test_guarded(3, 72, TDM_DTYPE_F32);
        test_stream s = test_stream_open(be, &ops_limits, 2);
        const tdm_weight w = {.codes = test_in(&s, tdm_view_const(table)), .scheme = TDM_SCHEME_BF16};
        TEST_OK(be->embed(s.s, test_out(&s, y), &w, test_in_i32(&s, ids, 3), 25.25f, err));
        test_stream_close(&s);
        for (int r = 0; r < 3; r++)
            for (int c = 0; c < 72; c++)
                assert_true(test_view_at(tdm_view_const(y), r, c) == 25.25f * test_view_at(tdm_view_const(table), ids[r], c));
        test_guard_free("embed", y);
    }
    free(table.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gelu_is_a_gate),
        cmocka_unit_test(norms_take_weights_of_f32),
        cmocka_unit_test(outputs_are_normalized_on_their_way),
        cmocka_unit_test(a_row_of_them_has_the_same_bits_alone),
        cmocka_unit_test(heads_turn_in_part),
        cmocka_unit_test(rows_of_the_embedding_are_scaled),
    };
    return cmocka_run_group_tests(tests, open_families, ops_close);
}
