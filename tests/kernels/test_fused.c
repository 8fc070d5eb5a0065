/* labels: unit
 * timeout: 300
 * What does several operations in one gives the bits of the operations one by one: linear_group, rope_kv, and quantization inside
 * rms_norm, swiglu and attention. */
#include "testing/linear_case.h"
#include "testing/paged.h"

/* Large shapes are there for a device's kernels; the CPU's fused operations are its plain ones, one after the other. */
enum { CPU_MOST = 20000 };

/* ---- Quantization on the way ------------------------------------------------------------------------------------------------- */

static const struct { tdm_scheme scheme; tdm_act_quant act; bool pow2; } kinds[] = {
    {TDM_SCHEME_FP8_TENSOR, TDM_ACT_DYNAMIC, false}, {TDM_SCHEME_FP8_TENSOR, TDM_ACT_STATIC, false}, {TDM_SCHEME_FP8_CHANNEL, TDM_ACT_DYNAMIC, false},
    {TDM_SCHEME_FP8_CHANNEL, TDM_ACT_DYNAMIC, true}, {TDM_SCHEME_FP8_BLOCK, TDM_ACT_DYNAMIC, false}, {TDM_SCHEME_FP8_BLOCK, TDM_ACT_STATIC, false}};

/* Host arrays of a result and of its quantization. */
typedef struct result {
    tdm_view y, codes, scale;
} result;

static result result_open(int64_t t, int64_t cols, size_t kind)
{
    const bool tensor = kinds[kind].scheme == TDM_SCHEME_FP8_TENSOR, block = kinds[kind].scheme == TDM_SCHEME_FP8_BLOCK;
    return (result){test_aligned(t, cols, TDM_DTYPE_BF16), test_guarded(t, cols, TDM_DTYPE_E4M3),
                    test_guarded(tensor ? 1 : t, block ? tdm_ceil_div(cols, TDM_FP8_BLOCK) : 1, TDM_DTYPE_F32)};
}
static void result_free(const result *r)
{
    test_guard_free("y", r->y);
    test_guard_free("codes", r->codes);
    test_guard_free("scale", r->scale);
}
/* x: y as it is lent to the stream. */
static tdm_quantize_act quantization(test_stream *s, const result *r, tdm_view y, size_t kind)
{
    return (tdm_quantize_act){.codes = test_out(s, r->codes), .scale = test_out(s, r->scale), .x = tdm_view_const(y), .scheme = kinds[kind].scheme,
                              .act = kinds[kind].act, .input_scale = 0.007f, .pow2 = kinds[kind].pow2};
}
static void same_results(const char *what, const result *a, const result *b)
{
    test_same_bits(what, tdm_view_const(a->y), tdm_view_const(b->y));
    test_same_bits(what, tdm_view_const(a->codes), tdm_view_const(b->codes));
    test_same_bits(what, tdm_view_const(a->scale), tdm_view_const(b->scale));
}

typedef tdm_status make_fn(const tdm_backend *be, test_stream *s, tdm_view y, tdm_cview a, tdm_cview b, const tdm_quantize_act *q, tdm_error *err);
static tdm_status make_norm(const tdm_backend *be, test_stream *s, tdm_view y, tdm_cview a, tdm_cview b, const tdm_quantize_act *q, tdm_error *err)
{
    return be->rms_norm(s->s, y, (tdm_view){0}, a, b, 1e-6f, q, err);
}
static tdm_status make_swiglu(const tdm_backend *be, test_stream *s, tdm_view y, tdm_cview a, tdm_cview b, const tdm_quantize_act *q, tdm_error *err)
{
    return be->swiglu(s->s, TDM_GLU_SILU, y, a, b, q, err);
}

static void check_made(make_fn *make, tdm_dtype dtype, int64_t b_rows, int64_t t, int64_t cols)
{
    tdm_view a = test_random_aligned(t, cols, dtype, 3, 1), b = test_random_aligned(b_rows ? b_rows : t, cols, TDM_DTYPE_BF16, 2, 2);
    for (size_t kind = 0; kind < TDM_COUNT(kinds); kind++)
        OPS_EACH_BACKEND(be) {
            if (!be->device && t * cols > CPU_MOST) continue;
            const result one = result_open(t, cols, kind), two = result_open(t, cols, kind);
            for (int fused = 0; fused < 2; fused++) {
                const result *r = fused ? &one : &two;
                test_stream s = test_stream_open(be, &ops_limits, 2);
                const tdm_view y = test_out(&s, r->y);
                const tdm_quantize_act q = quantization(&s, r, y, kind);
                TEST_OK(make(be, &s, y, test_in(&s, tdm_view_const(a)), test_in(&s, tdm_view_const(b)), fused ? &q : NULL, err));
                if (!fused) TEST_OK(be->quantize_act(s.s, &q, err));
                test_stream_close(&s);
            }
            same_results(be->name, &one, &two);
            result_free(&one);
            result_free(&two);
        }
    test_guard_free("a", a);
    test_guard_free("b", b);
}

/* Rows of one element up to more than a block keeps in its registers, or in its shared memory. */
static const struct { int64_t t, cols; } made_shapes[] = {{1, 1}, {3, 7}, {5, 64}, {2, 301}, {33, 1028}, {2, 4104}, {3, 9000}, {2, 26000}};

static void rms_norm_quantizes_as_quantize_act_does(void **state)
{
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(made_shapes); i++) check_made(make_norm, TDM_DTYPE_F32, 1, made_shapes[i].t, made_shapes[i].cols);
}
static void swiglu_quantizes_as_quantize_act_does(void **state)
{
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(made_shapes); i++) check_made(make_swiglu, TDM_DTYPE_BF16, 0, made_shapes[i].t, made_shapes[i].cols);
}

/* Whole sequences, and the last position of each: of one part and of several, and of a sequence without a row. */
static void attention_quantizes_as_quantize_act_does(void **state)
{
    (void)state;
    static paged_cache p;
    static const struct { int64_t heads, kv_heads, dh; int64_t len[3]; } shapes[] = {{4, 2, 64, {150, 3, 64}}, {4, 1, 128, {530, 97, 9}}, {20, 1, 16, {9, 70, 5}}};
    for (size_t i = 0; i < TDM_COUNT(shapes); i++)
        for (size_t kind = 0; kind < TDM_COUNT(kinds); kind++)
            OPS_EACH_BACKEND(be) {
                if (!be->device && shapes[i].len[0] * shapes[i].dh > CPU_MOST) continue;
                paged_case c = paged_random(shapes[i].heads, shapes[i].kv_heads, shapes[i].dh, 0, TDM_DTYPE_BF16, 3, shapes[i].len);
                for (int decode = 0; decode < 2; decode++) {
                    int64_t first[3], rows[3], t = 0;
                    for (int b = 0; b < 3; b++) {
                        first[b] = decode ? c.len[b] - (b != 1) : 0;
                        rows[b] = decode ? b != 1 : c.len[b];
                        t += rows[b];
                    }
                    const int64_t cols = c.heads * c.dh;
                    const result one = result_open(t, cols, kind), two = result_open(t, cols, kind);
                    for (int fused = 0; fused < 2; fused++) {
                        const result *r = fused ? &one : &two;
                        paged_call call;
                        paged_open(&p, be, 1, &c, 5, 0);
                        paged_batch(&p, &call, 3, 0, first, rows);
                        const tdm_view o = test_out(&p.s, r->y);
                        const tdm_quantize_act q = quantization(&p.s, r, o, kind);
                        const tdm_attention a = {.o = o, .q = test_in(&p.s, tdm_cview_rows(c.q, 0, t)), .kv = &p.kv, .batch = &call.batch, .heads = c.heads,
                                                 .scale = c.scale, .quantize = fused ? &q : NULL};
                        TEST_OK(be->attention(p.s.s, &a, err));
                        if (!fused) TEST_OK(be->quantize_act(p.s.s, &q, err));
                        paged_close(&p);
                    }
                    same_results(be->name, &one, &two);
                    result_free(&one);
                    result_free(&two);
                }
                paged_free(&c);
            }
}

/* ---- rope_kv ----------------------------------------------------------------------------------------------------------------- */

typedef struct rotated {
    tdm_view q, k, q_pre, k_pre, o;
} rotated;

/* Rows of all sequences into an empty cache, then attention over what was written. */
static void rotate(const tdm_backend *be, const paged_case *c, tdm_cview cos, tdm_cview sin, tdm_cview norm, bool fused, const rotated *r)
{
    static paged_cache p;
    int64_t first[PAGED_SEQUENCES] = {0};
    paged_call call;
    const tdm_limits limits = {.tokens = c->k.rows, .width = 64, .vocab = 1, .head_rows = 1, .heads = c->heads, .head_dim = c->dh, .rank = 1, .context = 256};
    p.s = test_stream_open(be, &limits, 2);
    p.stride = tdm_ceil_div(256, be->kv_page_tokens);
    const int64_t pages = c->sequences * p.stride;
    for (int64_t i = 0; i < pages; i++) p.table[i] = (int32_t)(pages - 1 - i);
    p.kv = (tdm_kv_pages){.pages = pages, .kv_heads = c->kv_heads, .head_dim = c->dh, .dtype = c->dtype, .k_scale = c->k_scale, .v_scale = c->v_scale};
    p.kv.data = test_scratch(&p.s, (size_t)pages * be->kv_page_bytes(c->dtype, c->kv_heads, c->dh));
    paged_batch(&p, &call, c->sequences, 0, first, c->len);
    const tdm_rope rope = {.cos = test_in(&p.s, cos), .sin = test_in(&p.s, sin), .norm_w = test_in(&p.s, norm), .position = call.batch.position,
                           .head_dim = c->dh, .eps = 1e-5f};
    tdm_rope_kv a = {.q = rope, .k = rope};
    a.q.x = test_out(&p.s, r->q);
    a.q.pre = test_out(&p.s, r->q_pre);
    a.q.heads = c->heads;
    a.k.x = test_out(&p.s, r->k);
    a.k.pre = test_out(&p.s, r->k_pre);
    a.k.heads = c->kv_heads;
    a.write = (tdm_kv_write){.kv = &p.kv, .batch = &call.batch, .k = tdm_view_const(a.k.x), .v = test_in(&p.s, c->v)};
    if (fused) {
        TEST_OK(be->rope_kv(p.s.s, &a, err));
    } else {
        TEST_OK(be->rope(p.s.s, &a.q, err));
        TEST_OK(be->rope(p.s.s, &a.k, err));
        TEST_OK(be->kv_write(p.s.s, &a.write, err));
    }
    const tdm_attention at = {.o = test_out(&p.s, r->o), .q = tdm_view_const(a.q.x), .kv = &p.kv, .batch = &call.batch, .heads = c->heads, .scale = c->scale};
    TEST_OK(be->attention(p.s.s, &at, err));
    test_stream_close(&p.s);
}

static void rope_kv_is_rope_rope_and_kv_write(void **state)
{
    (void)state;
    static const struct { int64_t heads, kv_heads, dh; tdm_dtype dtype; bool norm, pre; int64_t n, len[4]; } shapes[] = {
        {1, 1, 16, TDM_DTYPE_BF16, false, false, 1, {1}},
        {16, 8, 128, TDM_DTYPE_BF16, true, true, 4, {1, 1, 1, 1}},
        {4, 2, 64, TDM_DTYPE_BF16, false, true, 3, {70, 0, 129}},
        {6, 3, 40, TDM_DTYPE_E4M3, true, false, 3, {66, 1, 3}},
    };
    for (size_t i = 0; i < TDM_COUNT(shapes); i++) {
        const paged_case c = paged_random(shapes[i].heads, shapes[i].kv_heads, shapes[i].dh, 0, shapes[i].dtype, shapes[i].n, shapes[i].len);
        const int64_t t = c.k.rows;
        tdm_view cos = test_random(256, c.dh / 2, TDM_DTYPE_F32, 1, 7), sin = test_random(256, c.dh / 2, TDM_DTYPE_F32, 1, 8);
        tdm_view norm = test_random_aligned(1, c.dh, TDM_DTYPE_BF16, 2, 9);
        OPS_EACH_BACKEND(be) {
            rotated r[2];
            for (int fused = 0; fused < 2; fused++) {
                r[fused] = (rotated){.q = test_copy_aligned(c.q), .k = test_copy_aligned(c.k), .o = test_aligned(t, c.heads * c.dh, TDM_DTYPE_BF16)};
                if (shapes[i].pre) {
                    r[fused].q_pre = test_aligned(t, c.q.cols, TDM_DTYPE_BF16);
                    r[fused].k_pre = test_aligned(t, c.k.cols, TDM_DTYPE_BF16);
                }
                rotate(be, &c, tdm_view_const(cos), tdm_view_const(sin), shapes[i].norm ? tdm_view_const(norm) : ops_absent, fused, &r[fused]);
            }
            const tdm_view one[] = {r[0].q, r[0].k, r[0].o, r[0].q_pre, r[0].k_pre}, two[] = {r[1].q, r[1].k, r[1].o, r[1].q_pre, r[1].k_pre};
            for (size_t v = 0; v < TDM_COUNT(one) && one[v].data; v++) {
                test_same_bits(be->name, tdm_view_const(two[v]), tdm_view_const(one[v]));
                test_guard_free("one by one", one[v]);
                test_guard_free("in one", two[v]);
            }
        }
        paged_case own = c;
        paged_free(&own);
        test_guard_free("cos", cos);
        test_guard_free("sin", sin);
        test_guard_free("norm", norm);
    }
}

/* ---- linear_group ------------------------------------------------------------------------------------------------------------ */

enum { GROUP = 3 };

/* The third adds to what is there. */
static void run_group(const tdm_backend *be, const test_linear_case *c, bool together, int times, tdm_view *y, tdm_view *h)
{
    const tdm_scheme scheme = c[0].w.scheme;
    const int64_t t = c[0].t, k = c[0].k, blocks = tdm_ceil_div(k, TDM_FP8_BLOCK);
    const tdm_limits limits = {.tokens = t, .width = k > 600 ? k : 600, .vocab = 1, .head_rows = 1, .heads = 1, .head_dim = 64, .rank = 64, .context = 1};
    test_stream s = test_stream_open(be, &limits, 2);
    tdm_weight w[GROUP];
    tdm_linear list[GROUP];
    const bool block = scheme == TDM_SCHEME_FP8_BLOCK;
    const tdm_quantize_act q = {
        .codes = {test_scratch(&s, (size_t)(t * k)), TDM_DTYPE_E4M3, t, k, k},
        .scale = {test_scratch(&s, (size_t)(t * blocks + 1) * 4), TDM_DTYPE_F32, scheme == TDM_SCHEME_FP8_TENSOR ? 1 : t, block ? blocks : 1, block ? blocks : 1},
        .x = test_in(&s, c[0].x), .scheme = scheme, .act = c[0].w.act, .input_scale = c[0].w.input_scale};
    if (q.act != TDM_ACT_NONE) TEST_OK(be->quantize_act(s.s, &q, err));
    for (int i = 0; i < GROUP; i++) {
        w[i] = test_in_weight(&s, &c[i].w);
        list[i] = (tdm_linear){.y = test_out(&s, y[i]), .accumulate = i == 2, .x = q.x, .w = &w[i]};
        if (q.act != TDM_ACT_NONE) list[i].xq = tdm_view_const(q.codes), list[i].xs = tdm_view_const(q.scale);
        if (c[i].r == 0) continue;
        list[i].lora_a = test_in(&s, c[i].a);
        list[i].lora_b = test_in(&s, c[i].b);
        list[i].lora_h = test_out(&s, h[i]);
        list[i].lora_scale = 0.7f;
    }
    for (int n = 0; n < times; n++)
        if (together) TEST_OK(be->linear_group(s.s, list, GROUP, err));
        else
            for (int i = 0; i < GROUP; i++) TEST_OK(be->linear(s.s, &list[i], err));
    test_stream_close(&s);
}

static void check_group(int64_t t, int64_t k, const int64_t *n, const int64_t *r, tdm_scheme scheme, tdm_act_quant act)
{
    test_linear_case c[GROUP];
    for (int i = 0; i < GROUP; i++) c[i] = test_linear_random(t, n[i], k, r[i], scheme, act, 21 + (uint32_t)i * (i > 0));
    OPS_EACH_BACKEND(be) {
        if (!be->device && t * k > CPU_MOST) continue;
        tdm_view y[2][GROUP], h[2][GROUP];
        for (int together = 0; together < 2; together++) {
            for (int i = 0; i < GROUP; i++) {
                y[together][i] = test_guarded(t, n[i], i == 0 ? TDM_DTYPE_BF16 : TDM_DTYPE_F32);
                h[together][i] = test_guarded(t, r[i] ? r[i] : 1, TDM_DTYPE_BF16);
                if (i == 2) test_fill(y[together][i], 2.5f);
            }
            run_group(be, c, together, 3, y[together], h[together]);
        }
        for (int i = 0; i < GROUP; i++) {
            test_same_bits(be->name, tdm_view_const(y[1][i]), tdm_view_const(y[0][i]));
            if (r[i]) test_same_bits("h", tdm_view_const(h[1][i]), tdm_view_const(h[0][i]));
            for (int together = 0; together < 2; together++) {
                test_guard_free("y", y[together][i]);
                test_guard_free("h", h[together][i]);
            }
        }
    }
    for (int i = 0; i < GROUP; i++) test_linear_free(&c[i]);
}

static void a_group_is_its_linears(void **state)
{
    (void)state;
    static const struct { int64_t t, k, n[GROUP], r[GROUP]; } shapes[] = {
        {1, 64, {3, 130, 64}, {0, 0, 0}},     {8, 2048, {256, 128, 40}, {16, 16, 16}}, {13, 300, {70, 5, 129}, {5, 0, 33}},
        {40, 1100, {65, 200, 31}, {0, 8, 0}}, {64, 520, {300, 64, 64}, {16, 32, 64}},  {130, 257, {40, 129, 7}, {4, 4, 0}},
    };
    for (size_t i = 0; i < TDM_COUNT(shapes); i++)
        for (int scheme = 0; scheme <= 3; scheme++)
            for (int act = 0; act <= (scheme ? 2 : 0); act++)
                check_group(shapes[i].t, shapes[i].k, shapes[i].n, shapes[i].r, (tdm_scheme)scheme, (tdm_act_quant)act);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rms_norm_quantizes_as_quantize_act_does), cmocka_unit_test(swiglu_quantizes_as_quantize_act_does),
        cmocka_unit_test(attention_quantizes_as_quantize_act_does), cmocka_unit_test(rope_kv_is_rope_rope_and_kv_write),
        cmocka_unit_test(a_group_is_its_linears),
    };
    return OPS_TESTS(tests);
}
