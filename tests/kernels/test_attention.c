/* labels: unit, golden
 * kv_write, kv_copy and attention against PyTorch in float64: pages shuffled, prefills and decodes side by side, grouped heads,
 * sliding window, FP8 keys and values. And the promise: decode, chunked prefill and the whole sequence give the same bits. */
#include "testing/paged.h"

static const char *const names[] = {"attn/tiny", "attn/mixed", "attn/window", "attn/wide", "attn/odd", "attn/fp8"};

/* Scores, softmax and sums in f32: 2^-15 of the sum of absolute values. A device's matrix units take probabilities in bf16: each is
 * off by half a step, up to 2^-8 of it (eight significant bits), and so is the sum in the worst case. */
static double spread(const tdm_backend *be) { return be->device ? 0x1p-8 + 0x1p-15 : 0x1p-15; }

static void agrees_with_pytorch(void **state)
{
    (void)state;
    paged_cache p;
    OPS_EACH_BACKEND(be)
        for (size_t i = 0; i < TDM_COUNT(names); i++)
            for (uint32_t shuffle = 0; shuffle < 2; shuffle++) {
                const paged_case c = paged_golden(names[i]);
                if (be->device && c.dh % 8) continue; /* refused where a model is opened */
                const int64_t t = paged_rows(&c);
                char what[64];
                snprintf(what, sizeof what, "%s %s", be->name, names[i]);
                tdm_view o = test_aligned(t, c.heads * c.dh, TDM_DTYPE_BF16), lse = test_aligned(t, c.heads, TDM_DTYPE_F32);
                tdm_view bare = test_aligned(t, c.heads * c.dh, TDM_DTYPE_BF16), none = {0};
                paged_open(&p, be, 1 + (int)shuffle, &c, shuffle * 99, shuffle ? 5 : 0);
                paged_run(&p, &c, o, lse);
                paged_run(&p, &c, bare, none);
                paged_close(&p);
                test_near(what, tdm_view_const(o), test_golden(goldens, "%s/o", names[i]), 0, spread(be), test_golden(goldens, "%s/o/mag", names[i]));
                test_near(what, tdm_view_const(lse), test_golden(goldens, "%s/lse", names[i]), 0x1p-18, 0x1p-16, ops_absent);
                test_same_bits("without lse", tdm_view_const(bare), tdm_view_const(o));
                test_guard_free("o", o);
                test_guard_free("o", bare);
                test_guard_free("lse", lse);
            }
}

static const struct { int64_t heads, kv_heads, dh, window; tdm_dtype dtype; int64_t n, len[5]; } shapes[] = {
    {1, 1, 16, 0, TDM_DTYPE_BF16, 1, {1}},
    {4, 2, 64, 0, TDM_DTYPE_BF16, 3, {150, 3, 64}},
    {4, 1, 128, 0, TDM_DTYPE_BF16, 2, {97, 129}},
    {2, 2, 64, 33, TDM_DTYPE_BF16, 2, {140, 16}},
    {6, 2, 32, 0, TDM_DTYPE_E4M3, 4, {70, 1, 65, 15}},
    {8, 1, 64, 50, TDM_DTYPE_E4M3, 2, {120, 63}},
    {2, 1, 64, 0, TDM_DTYPE_BF16, 1, {580}}, /* more than a device reduces in one part */
};

static void decode_chunks_and_the_whole_give_the_same_bits(void **state)
{
    (void)state;
    paged_cache p;
    for (size_t i = 0; i < TDM_COUNT(shapes); i++) {
        paged_case c = paged_random(shapes[i].heads, shapes[i].kv_heads, shapes[i].dh, shapes[i].window, shapes[i].dtype, shapes[i].n, shapes[i].len);
        const int64_t t = paged_rows(&c), cols = c.heads * c.dh;
        tdm_view ref = test_aligned(t, cols, TDM_DTYPE_BF16), ref_lse = test_aligned(t, c.heads, TDM_DTYPE_F32);
        paged_open(&p, test_reference(), 1, &c, 1, 0);
        paged_run(&p, &c, ref, ref_lse);
        paged_close(&p);
        OPS_EACH_BACKEND(be) {
            tdm_view o = test_aligned(t, cols, TDM_DTYPE_BF16), lse = test_aligned(t, c.heads, TDM_DTYPE_F32);
            paged_open(&p, be, 2, &c, 17, 0);
            paged_run(&p, &c, o, lse);
            paged_close(&p);
            /* A step apart where sums fall on either side of a tie; values are below 1. */
            test_near(be->name, tdm_view_const(o), tdm_view_const(ref), 0x1p-8, spread(be), ops_absent);
            test_near(be->name, tdm_view_const(lse), tdm_view_const(ref_lse), 0x1p-17, 0x1p-16, ops_absent);
            for (int64_t chunk = 1; chunk <= 33; chunk += 32) {
                tdm_view o1 = test_aligned(t, cols, TDM_DTYPE_BF16), lse1 = test_aligned(t, c.heads, TDM_DTYPE_F32);
                paged_open(&p, be, chunk > 1 ? 2 : 1, &c, 5 + (uint32_t)chunk, 7);
                int64_t at = 0;
                for (int64_t b = 0; b < c.sequences; at += c.len[b++])
                    for (int64_t first = 0, rows; first < c.len[b]; first += rows) {
                        rows = tdm_min_i64(chunk, c.len[b] - first);
                        paged_attention(&p, &c, tdm_cview_rows(c.q, at + first, rows), 1, b, &first, &rows, tdm_view_rows(o1, at + first, rows),
                                        tdm_view_rows(lse1, at + first, rows));
                    }
                paged_close(&p);
                test_same_bits(be->name, tdm_view_const(o1), tdm_view_const(o));
                test_same_bits("lse", tdm_view_const(lse1), tdm_view_const(lse));
                test_guard_free("o", o1);
                test_guard_free("lse", lse1);
            }
            test_guard_free("o", o);
            test_guard_free("lse", lse);
        }
        free(ref.data);
        free(ref_lse.data);
        paged_free(&c);
    }
}

/* A copied page answers as the page it was copied from, and what is written behind the copied positions is the copy's own. */
static void a_copied_page_answers_as_its_source(void **state)
{
    (void)state;
    static paged_cache p; /* two sequences; the first's first page is copied over the second's */
    OPS_EACH_BACKEND(be)
        for (int fp8 = 0; fp8 < 2; fp8++) {
            const int64_t page = be->kv_page_tokens, copied = page - 5, behind = 5, len[2] = {copied, page};
            paged_case c = paged_random(4, 2, 64, 0, fp8 ? TDM_DTYPE_E4M3 : TDM_DTYPE_BF16, 2, len);
            const int64_t first = copied - 1, one = 1, last = page - 1;
            tdm_view a = test_aligned(1, 256, TDM_DTYPE_BF16), b = test_aligned(1, 256, TDM_DTYPE_BF16), end = test_aligned(1, 256, TDM_DTYPE_BF16);
            tdm_view mixed = test_aligned(1, 256, TDM_DTYPE_BF16), none = {0}, again = test_aligned(1, 256, TDM_DTYPE_BF16);
            const tdm_cview q = tdm_cview_rows(c.q, first, 1), q_end = tdm_cview_rows(c.q, copied + last, 1);
            paged_call call;
            paged_open(&p, be, 1, &c, 3, 0);
            paged_attention(&p, &c, q, 1, 0, &first, &one, a, none);
            TEST_OK(be->kv_copy(p.s.s, &p.kv, p.table[p.stride], p.table[0], err));
            paged_batch(&p, &call, 1, 1, &copied, &behind);
            const tdm_kv_write w = {.kv = &p.kv, .batch = &call.batch, .k = test_in(&p.s, tdm_cview_rows(c.k, 2 * copied, behind)),
                                    .v = test_in(&p.s, tdm_cview_rows(c.v, 2 * copied, behind))};
            TEST_OK(be->kv_write(p.s.s, &w, err));
            paged_attention(&p, &c, q, 1, 1, &first, &one, b, none);
            paged_attention(&p, &c, q_end, 1, 1, &last, &one, end, none);
            paged_attention(&p, &c, q, 1, 0, &first, &one, again, none);
            paged_close(&p);
            test_same_bits("the source", tdm_view_const(again), tdm_view_const(a));
            test_same_bits("copied", tdm_view_const(b), tdm_view_const(a));
            /* The same cache written by hand: the first sequence's rows, then the second's own last ones. */
            tdm_view k = test_copy_aligned(c.k), v = test_copy_aligned(c.v);
            for (int64_t r = 0; r < copied; r++) {
                memcpy((uint16_t *)k.data + (copied + r) * k.stride, (uint16_t *)k.data + r * k.stride, (size_t)k.cols * 2);
                memcpy((uint16_t *)v.data + (copied + r) * v.stride, (uint16_t *)v.data + r * v.stride, (size_t)v.cols * 2);
            }
            paged_case hand = c;
            hand.k = tdm_view_const(k);
            hand.v = tdm_view_const(v);
            paged_open(&p, be, 1, &hand, 3, 0);
            paged_attention(&p, &hand, q_end, 1, 1, &last, &one, mixed, none);
            paged_close(&p);
            test_same_bits("past the copied positions", tdm_view_const(end), tdm_view_const(mixed));
            tdm_view all[] = {a, b, end, mixed, again, k, v};
            for (size_t i = 0; i < TDM_COUNT(all); i++) test_guard_free("copy", all[i]);
            paged_free(&c);
        }
}

/* No sequence, and sequences of which some have no row in this call. */
static void an_empty_batch_is_a_batch(void **state)
{
    (void)state;
    static paged_cache p;
    OPS_EACH_BACKEND(be) {
        static const int64_t len[] = {20, 9, 40};
        paged_case c = paged_random(2, 1, 64, 0, TDM_DTYPE_BF16, 3, len);
        tdm_view o = test_aligned(3, 128, TDM_DTYPE_BF16), alone = test_aligned(3, 128, TDM_DTYPE_BF16), none = {0};
        const int64_t first[] = {19, 9, 38}, rows[] = {1, 0, 2};
        tdm_view q = test_random_aligned(3, 128, TDM_DTYPE_BF16, 1, 40);
        const tdm_cview qc = tdm_view_const(q);
        paged_open(&p, be, 2, &c, 3, 0);
        paged_attention(&p, &c, tdm_cview_rows(qc, 0, 0), 0, 0, first, rows, tdm_view_rows(o, 0, 0), none);
        paged_attention(&p, &c, qc, 3, 0, first, rows, o, none);
        paged_attention(&p, &c, tdm_cview_rows(qc, 0, 1), 1, 0, first, rows, tdm_view_rows(alone, 0, 1), none);
        paged_attention(&p, &c, tdm_cview_rows(qc, 1, 2), 1, 2, first + 2, rows + 2, tdm_view_rows(alone, 1, 2), none);
        paged_close(&p);
        test_same_bits("beside a sequence without rows", tdm_view_const(o), tdm_view_const(alone));
        tdm_view all[] = {o, alone, q};
        for (size_t i = 0; i < TDM_COUNT(all); i++) test_guard_free("empty", all[i]);
        paged_free(&c);
    }
}

/* A group's prompt stands in pages that all its samples name: each answers as it would alone. */
static void samples_of_one_prompt_answer_as_alone(void **state)
{
    (void)state;
    static paged_cache p;
    static const struct {
        int64_t heads, kv_heads, dh, window;
        tdm_dtype dtype;
    } kinds[] = {{4, 2, 64, 0, TDM_DTYPE_BF16}, {8, 1, 128, 0, TDM_DTYPE_E4M3}, {4, 2, 64, 600, TDM_DTYPE_BF16}};
    /* Of the first 1024 positions: the first four sequences' are one prompt, the fifth shares 512 of them, the last two are another's. */
    static const int64_t len[] = {1300, 1100, 1025, 1024, 700, 1290, 1500}, prompt[] = {0, 1024, 1024, 1024, 512, 0, 1024};
    enum { N = TDM_COUNT(len) };
    OPS_EACH_BACKEND(be)
        for (size_t i = 0; i < TDM_COUNT(kinds); i++) {
            const int64_t cols = kinds[i].heads * kinds[i].dh, page = be->kv_page_tokens;
            paged_case c = paged_random(kinds[i].heads, kinds[i].kv_heads, kinds[i].dh, kinds[i].window, kinds[i].dtype, N, len);
            tdm_view o = test_aligned(N, cols, TDM_DTYPE_BF16), alone = test_aligned(N, cols, TDM_DTYPE_BF16), q = test_random_aligned(N, cols, TDM_DTYPE_BF16, 2, 41);
            tdm_view lse = test_aligned(N, c.heads, TDM_DTYPE_F32), lse1 = test_aligned(N, c.heads, TDM_DTYPE_F32);
            int64_t first[N], one[N];
            paged_open(&p, be, 2, &c, 9, 500);
            for (int64_t b = 0; b < N; b++) {
                first[b] = len[b] - 1;
                one[b] = 1;
                const int64_t source = b < 5 ? 0 : 5;
                memcpy(p.table + b * p.stride, p.table + source * p.stride, (size_t)(prompt[b] / page) * sizeof *p.table);
            }
            paged_attention(&p, &c, tdm_view_const(q), N, 0, first, one, o, lse);
            for (int64_t b = 0; b < N; b++)
                paged_attention(&p, &c, tdm_cview_rows(tdm_view_const(q), b, 1), 1, b, first + b, one + b, tdm_view_rows(alone, b, 1), tdm_view_rows(lse1, b, 1));
            paged_close(&p);
            test_same_bits(be->name, tdm_view_const(o), tdm_view_const(alone));
            test_same_bits("lse", tdm_view_const(lse), tdm_view_const(lse1));
            tdm_view all[] = {o, alone, q, lse, lse1};
            for (size_t j = 0; j < TDM_COUNT(all); j++) test_guard_free("samples", all[j]);
            paged_free(&c);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_pytorch),
        cmocka_unit_test(decode_chunks_and_the_whole_give_the_same_bits),
        cmocka_unit_test(a_copied_page_answers_as_its_source),
        cmocka_unit_test(an_empty_batch_is_a_batch),
        cmocka_unit_test(samples_of_one_prompt_answer_as_alone),
    };
    return OPS_TESTS(tests);
}
