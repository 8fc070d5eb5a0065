/* labels: unit, golden
 * attention_backward against torch.autograd in float64, and whether a sequence's gradients depend on its neighbours. */
#include "testing/paged.h"

static const char *const names[] = {"attnb/tiny", "attnb/mixed", "attnb/window", "attnb/wide", "attnb/fp8"};

typedef struct grads { tdm_view dq, dk, dv; } grads;
static grads grads_new(const paged_case *c)
{
    return (grads){test_aligned(c->q.rows, c->q.cols, TDM_DTYPE_BF16), test_aligned(c->k.rows, c->k.cols, TDM_DTYPE_BF16),
                   test_aligned(c->v.rows, c->v.cols, TDM_DTYPE_BF16)};
}
static void grads_free(grads *g)
{
    test_guard_free("dq", g->dq);
    test_guard_free("dk", g->dk);
    test_guard_free("dv", g->dv);
}

/* Forward of the whole case, then backward of sequences [b, b + n) alone, whose first row is `at`. */
static void run(const tdm_backend *be, int threads, const paged_case *c, tdm_cview d_o, int64_t b, int64_t n, int64_t at, const grads *g)
{
    static paged_cache p;
    paged_call call;
    const int64_t t = c->q.rows, first[PAGED_SEQUENCES] = {0};
    int64_t rows = 0;
    for (int64_t i = b; i < b + n; i++) rows += c->len[i];
    tdm_view o = test_aligned(t, c->q.cols, TDM_DTYPE_BF16), lse = test_aligned(t, c->heads, TDM_DTYPE_F32);
    paged_open(&p, be, threads, c, 11, 0);
    paged_run(&p, c, o, lse);
    paged_batch(&p, &call, n, b, first, c->rows + b);
    const tdm_attention_backward a = {
        .dq = test_out(&p.s, tdm_view_rows(g->dq, at, rows)), .dk = test_out(&p.s, tdm_view_rows(g->dk, at, rows)),
        .dv = test_out(&p.s, tdm_view_rows(g->dv, at, rows)), .do_ = test_in(&p.s, tdm_cview_rows(d_o, at, rows)),
        .o = test_in(&p.s, tdm_cview_rows(tdm_view_const(o), at, rows)), .q = test_in(&p.s, tdm_cview_rows(c->q, at, rows)),
        .lse = test_in(&p.s, tdm_cview_rows(tdm_view_const(lse), at, rows)), .kv = &p.kv, .batch = &call.batch, .heads = c->heads,
        .window = c->window, .scale = c->scale};
    TEST_OK(be->attention_backward(p.s.s, &a, err));
    paged_close(&p);
    free(o.data);
    free(lse.data);
}

/* dO, P and dS are rounded to bf16 once each, o was: 2^-7 of the sum of absolute values covers what three half steps can move. */
static void agrees_with_pytorch(void **state)
{
    (void)state;
    OPS_EACH_BACKEND(be)
        for (size_t i = 0; i < TDM_COUNT(names); i++) {
            const paged_case c = paged_golden(names[i]);
            grads g = grads_new(&c);
            run(be, 2, &c, test_golden(goldens, "%s/do", names[i]), 0, c.sequences, 0, &g);
            const struct { const char *key; tdm_view got; } all[] = {{"dq", g.dq}, {"dk", g.dk}, {"dv", g.dv}};
            for (size_t k = 0; k < TDM_COUNT(all); k++) {
                char what[64];
                snprintf(what, sizeof what, "%s %s %s", be->name, names[i], all[k].key);
                test_near(what, tdm_view_const(all[k].got), test_golden(goldens, "%s/%s", names[i], all[k].key), 0, 0x1p-7,
                          test_golden(goldens, "%s/%s/mag", names[i], all[k].key));
            }
            grads_free(&g);
        }
}

static const struct { int64_t heads, kv_heads, dh, window; tdm_dtype dtype; int64_t n, len[5]; } shapes[] = {
    {1, 1, 16, 0, TDM_DTYPE_BF16, 2, {1, 2}},
    {4, 2, 64, 0, TDM_DTYPE_BF16, 3, {90, 3, 64}},
    {4, 1, 128, 0, TDM_DTYPE_BF16, 2, {33, 70}},
    {2, 2, 64, 33, TDM_DTYPE_BF16, 2, {100, 16}},
    {6, 2, 32, 0, TDM_DTYPE_E4M3, 4, {70, 1, 33, 15}},
};

static void a_sequence_has_the_same_gradients_alone_and_in_a_batch(void **state)
{
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(shapes); i++) {
        paged_case c = paged_random(shapes[i].heads, shapes[i].kv_heads, shapes[i].dh, shapes[i].window, shapes[i].dtype, shapes[i].n, shapes[i].len);
        tdm_view d_o = test_random_aligned(c.q.rows, c.q.cols, TDM_DTYPE_F32, 1, 50);
        grads ref = grads_new(&c);
        run(test_reference(), 1, &c, tdm_view_const(d_o), 0, c.sequences, 0, &ref);
        OPS_EACH_BACKEND(be) {
            grads all = grads_new(&c), one = grads_new(&c);
            run(be, 2, &c, tdm_view_const(d_o), 0, c.sequences, 0, &all);
            for (int64_t b = 0, at = 0; b < c.sequences; at += c.len[b++]) run(be, 1 + (int)(b % 2), &c, tdm_view_const(d_o), b, 1, at, &one);
            run(be, 1, &c, tdm_view_const(d_o), 0, 0, 0, &one); /* no sequence */
            test_same_bits("dq", tdm_view_const(one.dq), tdm_view_const(all.dq));
            test_same_bits("dk", tdm_view_const(one.dk), tdm_view_const(all.dk));
            test_same_bits("dv", tdm_view_const(one.dv), tdm_view_const(all.dv));
            /* Against the CPU: what both round to bf16 may fall to neighbouring numbers. dS stays below 2 Dh, a row of P sums to 1; the
             * columns of P sum to at most the queries, in practice to a few. */
            const double step = 0x1p-7 * (double)c.scale * sqrt((double)c.dh);
            test_near(be->name, tdm_view_const(all.dq), tdm_view_const(ref.dq), 0x1p-7, step, ops_absent);
            test_near(be->name, tdm_view_const(all.dk), tdm_view_const(ref.dk), 0x1p-7, 4 * step, ops_absent);
            test_near(be->name, tdm_view_const(all.dv), tdm_view_const(ref.dv), 0x1p-7, 4 * 0x1p-7, ops_absent);
            grads_free(&all);
            grads_free(&one);
        }
        grads_free(&ref);
        free(d_o.data);
        paged_free(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_pytorch),
        cmocka_unit_test(a_sequence_has_the_same_gradients_alone_and_in_a_batch),
    };
    return OPS_TESTS(tests);
}
