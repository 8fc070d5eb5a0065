/* labels: unit, golden
 * swiglu and its backward against PyTorch in float64. */
#include "testing/ops_case.h"

static void forward(const tdm_backend *be, int threads, tdm_view y, tdm_cview gate, tdm_cview up)
{
    test_stream s = test_stream_open(be, &ops_limits, threads);
    TEST_OK(be->swiglu(s.s, TDM_GLU_SILU, test_out(&s, y), test_in(&s, gate), test_in(&s, up), NULL, err));
    test_stream_close(&s);
}

/* gate and up are overwritten by their gradients. */
static void backward(const tdm_backend *be, int threads, tdm_view gate, tdm_view up, tdm_cview dy)
{
    test_stream s = test_stream_open(be, &ops_limits, threads);
    const tdm_view g = test_out(&s, gate), u = test_out(&s, up);
    TEST_OK(be->swiglu_backward(s.s, TDM_GLU_SILU, g, u, test_in(&s, dy), tdm_view_const(g), tdm_view_const(u), err));
    test_stream_close(&s);
}

/* The exponential is good to a few steps of f32; dgate's factor 1 + gate (1 - s) cancels where gate is near -1.28. */
static void agrees_with_pytorch(void **state)
{
    (void)state;
    const tdm_cview gate = test_golden(goldens, "swiglu/gate"), up = test_golden(goldens, "swiglu/up"), dy = test_golden(goldens, "swiglu/dy");
    OPS_EACH_BACKEND(be) {
        tdm_view y = test_guarded(gate.rows, gate.cols, TDM_DTYPE_BF16), g = test_copy(gate), u = test_copy(up);
        forward(be, 2, y, gate, up);
        test_near(be->name, tdm_view_const(y), test_golden(goldens, "swiglu/y"), 0x1p-17, 1e-36, ops_absent);
        backward(be, 2, g, u, dy);
        test_near(be->name, tdm_view_const(g), test_golden(goldens, "swiglu/dgate"), 0x1p-17, 1e-6, ops_absent);
        test_near(be->name, tdm_view_const(u), test_golden(goldens, "swiglu/dup"), 0x1p-17, 1e-36, ops_absent);
        /* gradients elsewhere have the same bits */
        tdm_view dg = test_guarded(gate.rows, gate.cols, TDM_DTYPE_BF16), du = test_guarded(gate.rows, gate.cols, TDM_DTYPE_BF16);
        test_stream s = test_stream_open(be, &ops_limits, 1);
        TEST_OK(be->swiglu_backward(s.s, TDM_GLU_SILU, test_out(&s, dg), test_out(&s, du), test_in(&s, dy), test_in(&s, gate), test_in(&s, up), err));
        test_stream_close(&s);
        test_same_bits("dgate", tdm_view_const(dg), tdm_view_const(g));
        test_same_bits("dup", tdm_view_const(du), tdm_view_const(u));
        tdm_view all[] = {y, g, u, dg, du};
        for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("swiglu", all[k]);
    }
}

static void a_row_has_the_same_bits_alone_and_in_a_batch(void **state)
{
    (void)state;
    static const struct { int64_t t, f; } shapes[] = {{1, 1}, {33, 17}, {5, 3001}};
    for (size_t i = 0; i < TDM_COUNT(shapes); i++) {
        const int64_t t = shapes[i].t, f = shapes[i].f;
        tdm_view gate = test_random(t, f, TDM_DTYPE_BF16, 8, 1), up = test_random(t, f, TDM_DTYPE_BF16, 3, 2), dy = test_random(t, f, TDM_DTYPE_F32, 1, 3);
        tdm_view ref = test_guarded(t, f, TDM_DTYPE_BF16), ref_g = test_copy(tdm_view_const(gate)), ref_u = test_copy(tdm_view_const(up));
        forward(test_reference(), 1, ref, tdm_view_const(gate), tdm_view_const(up));
        backward(test_reference(), 1, ref_g, ref_u, tdm_view_const(dy));
        OPS_EACH_BACKEND(be) {
            tdm_view y = test_guarded(t, f, TDM_DTYPE_BF16), g = test_copy(tdm_view_const(gate)), u = test_copy(tdm_view_const(up));
            tdm_view y1 = test_guarded(t, f, TDM_DTYPE_BF16), g1 = test_copy(tdm_view_const(gate)), u1 = test_copy(tdm_view_const(up));
            forward(be, 2, y, tdm_view_const(gate), tdm_view_const(up));
            backward(be, 2, g, u, tdm_view_const(dy));
            for (int64_t r = 0; r < t; r++) {
                forward(be, 1, tdm_view_rows(y1, r, 1), tdm_cview_rows(tdm_view_const(gate), r, 1), tdm_cview_rows(tdm_view_const(up), r, 1));
                backward(be, 1, tdm_view_rows(g1, r, 1), tdm_view_rows(u1, r, 1), tdm_cview_rows(tdm_view_const(dy), r, 1));
            }
            test_same_bits("y", tdm_view_const(y1), tdm_view_const(y));
            test_same_bits("dgate", tdm_view_const(g1), tdm_view_const(g));
            test_same_bits("dup", tdm_view_const(u1), tdm_view_const(u));
            test_near(be->name, tdm_view_const(y), tdm_view_const(ref), 0x1p-8, 1e-36, ops_absent);
            test_near(be->name, tdm_view_const(g), tdm_view_const(ref_g), 0x1p-8, 2e-6, ops_absent);
            test_near(be->name, tdm_view_const(u), tdm_view_const(ref_u), 0x1p-8, 1e-36, ops_absent);
            tdm_view all[] = {y, g, u, y1, g1, u1};
            for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("swiglu", all[k]);
            const tdm_view none = {NULL, TDM_DTYPE_BF16, 0, f, f};
            forward(be, 2, none, tdm_view_const(none), tdm_view_const(none));
            backward(be, 2, none, none, (tdm_cview){NULL, TDM_DTYPE_F32, 0, f, f});
        }
        tdm_view all[] = {gate, up, dy, ref, ref_g, ref_u};
        for (size_t k = 0; k < TDM_COUNT(all); k++) free(all[k].data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_pytorch),
        cmocka_unit_test(a_row_has_the_same_bits_alone_and_in_a_batch),
    };
    return OPS_TESTS(tests);
}
