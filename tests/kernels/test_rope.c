/* labels: unit, golden
 * rope (with and without the norm of each head) and its backward against PyTorch in float64. */
#include "testing/ops_case.h"

typedef struct rope_case {
    int64_t heads, dh;
    bool norm;
    tdm_cview cos, sin, w;
    const int32_t *position;
} rope_case;

static void forward(const tdm_backend *be, int threads, const rope_case *c, tdm_view x, tdm_view pre, int64_t first)
{
    test_stream s = test_stream_open(be, &ops_limits, threads);
    const tdm_rope a = {.x = test_out(&s, x), .pre = test_out(&s, pre), .cos = test_in(&s, c->cos), .sin = test_in(&s, c->sin),
                        .norm_w = test_in(&s, c->norm ? c->w : ops_absent), .position = test_in_i32(&s, c->position + first, x.rows),
                        .heads = c->heads, .head_dim = c->dh, .eps = 1e-5f};
    TEST_OK(be->rope(s.s, &a, err));
    test_stream_close(&s);
}

static void backward(const tdm_backend *be, int threads, const rope_case *c, tdm_view dx, tdm_cview pre, int64_t first)
{
    test_stream s = test_stream_open(be, &ops_limits, threads);
    const tdm_rope_backward a = {.dx = test_out(&s, dx), .pre = test_in(&s, pre), .cos = test_in(&s, c->cos), .sin = test_in(&s, c->sin),
                                 .norm_w = test_in(&s, c->norm ? c->w : ops_absent), .position = test_in_i32(&s, c->position + first, dx.rows),
                                 .heads = c->heads, .head_dim = c->dh, .eps = 1e-5f};
    TEST_OK(be->rope_backward(s.s, &a, err));
    test_stream_close(&s);
}

static const struct { int heads, dh; bool norm; } cases[] = {{3, 8, false}, {2, 64, true}, {1, 128, false}, {2, 36, true}};

static rope_case golden_case(size_t i, tdm_cview *x)
{
    char name[32];
    snprintf(name, sizeof name, "rope/%d/%d", cases[i].heads, cases[i].dh);
    *x = test_golden(goldens, "%s/x", name);
    return (rope_case){cases[i].heads, cases[i].dh, cases[i].norm, test_golden(goldens, "%s/cos", name), test_golden(goldens, "%s/sin", name),
                       test_golden(goldens, "%s/w", name), test_golden(goldens, "%s/position", name).data};
}

/* Numbers are below 16 and each result is the difference of two products of them in f32: 2^-18 beside the rounding to bf16. */
static void agrees_with_pytorch(void **state)
{
    (void)state;
    OPS_EACH_BACKEND(be)
        for (size_t i = 0; i < TDM_COUNT(cases); i++) {
            tdm_cview in;
            const rope_case c = golden_case(i, &in);
            const tdm_cview dy = test_golden(goldens, "rope/%d/%d/dy", cases[i].heads, cases[i].dh);
            tdm_view x = test_copy_aligned(in), pre = test_aligned(in.rows, in.cols, TDM_DTYPE_BF16), bare = test_copy_aligned(in), none = {0}, dx = test_copy_aligned(dy);
            forward(be, 2, &c, x, pre, 0);
            test_near(be->name, tdm_view_const(x), test_golden(goldens, "rope/%d/%d/y", cases[i].heads, cases[i].dh), 0x1p-18, 0x1p-18, ops_absent);
            test_same_bits("pre", tdm_view_const(pre), in);
            forward(be, 1, &c, bare, none, 0);
            test_same_bits("without pre", tdm_view_const(bare), tdm_view_const(x));
            backward(be, 2, &c, dx, c.norm ? tdm_view_const(pre) : ops_absent, 0);
            test_near(be->name, tdm_view_const(dx), test_golden(goldens, "rope/%d/%d/dx", cases[i].heads, cases[i].dh), 0x1p-17, 0x1p-17, ops_absent);
            tdm_view all[] = {x, pre, bare, dx};
            for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("rope", all[k]);
        }
}

static void a_row_has_the_same_bits_alone_and_in_a_batch(void **state)
{
    (void)state;
    enum { T = 37 };
    for (size_t i = 0; i < TDM_COUNT(cases); i++) {
        tdm_cview unused;
        int32_t position[T];
        rope_case c = golden_case(i, &unused);
        for (int t = 0; t < T; t++) position[t] = (t * 11 + 3) % 40;
        c.position = position;
        const int64_t cols = c.heads * c.dh;
        tdm_view x = test_random_aligned(T, cols, TDM_DTYPE_BF16, 2, 7), dy = test_random_aligned(T, cols, TDM_DTYPE_BF16, 1, 8), none = {0};
        const tdm_cview pre = c.norm ? tdm_view_const(x) : ops_absent;
        tdm_view ref = test_copy_aligned(tdm_view_const(x)), ref_dx = test_copy_aligned(tdm_view_const(dy));
        forward(test_reference(), 1, &c, ref, none, 0);
        backward(test_reference(), 1, &c, ref_dx, pre, 0);
        OPS_EACH_BACKEND(be) {
            tdm_view y = test_copy_aligned(tdm_view_const(x)), one = test_copy_aligned(tdm_view_const(x));
            tdm_view dx = test_copy_aligned(tdm_view_const(dy)), dx1 = test_copy_aligned(tdm_view_const(dy));
            forward(be, 2, &c, y, none, 0);
            backward(be, 2, &c, dx, pre, 0);
            for (int64_t t = 0; t < T; t += 1 + t / 4) {
                const int64_t n = tdm_min_i64(1 + t / 4, T - t);
                forward(be, 1, &c, tdm_view_rows(one, t, n), none, t);
                backward(be, 1, &c, tdm_view_rows(dx1, t, n), pre.data ? tdm_cview_rows(pre, t, n) : pre, t);
            }
            test_same_bits("y", tdm_view_const(one), tdm_view_const(y));
            test_same_bits("dx", tdm_view_const(dx1), tdm_view_const(dx));
            test_near(be->name, tdm_view_const(y), tdm_view_const(ref), 0x1p-8, 0x1p-17, ops_absent);
            test_near(be->name, tdm_view_const(dx), tdm_view_const(ref_dx), 0x1p-8, 0x1p-16, ops_absent);
            tdm_view all[] = {y, one, dx, dx1};
            for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("rope", all[k]);
            forward(be, 1, &c, tdm_view_rows(x, 0, 0), none, 0);
            backward(be, 1, &c, tdm_view_rows(dy, 0, 0), tdm_cview_rows(tdm_view_const(x), 0, 0), 0);
        }
        tdm_view all[] = {x, dy, ref, ref_dx};
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
