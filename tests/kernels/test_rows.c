/* labels: unit, golden
 * embed, gather_rows, scatter_rows, zero and convert: to the bit on every backend. */
#include "testing/ops_case.h"

static void embed_reads_every_scheme(void **state)
{
    (void)state;
    static const char *const names[] = {"bf16", "tensor", "channel", "block"};
    enum { T = 20 };
    int32_t id[T];
    for (int i = 0; i < T; i++) id[i] = i * 7; /* the goldens hold every seventh row */
    OPS_EACH_BACKEND(be)
        for (int scheme = 0; scheme <= 3; scheme++) {
            const tdm_weight table = {.codes = test_golden(goldens, "embed/%s/codes", names[scheme]),
                                      .scale = scheme ? test_golden(goldens, "embed/%s/scale", names[scheme]) : ops_absent,
                                      .scheme = (tdm_scheme)scheme};
            const tdm_cview want = test_golden(goldens, "embed/%s/values", names[scheme]);
            tdm_view y = test_guarded(T, table.codes.cols, TDM_DTYPE_F32);
            test_stream s = test_stream_open(be, &ops_limits, 2);
            const tdm_weight w = test_in_weight(&s, &table);
            TEST_OK(be->embed(s.s, test_out(&s, y), &w, test_in_i32(&s, id, T), 1.0f, err));
            TEST_OK(be->embed(s.s, (tdm_view){NULL, TDM_DTYPE_F32, 0, y.cols, y.cols}, &w, NULL, 1.0f, err));
            test_stream_close(&s);
            test_same_bits(be->name, tdm_view_const(y), want);
            test_guard_free("embed", y);
        }
}

/* Where rows are wide and aligned, and where they are not; the table once in the backend's memory, once in pinned host memory. */
static void embed_reads_host_memory(void **state)
{
    (void)state;
    enum { T = 37, V = 50 };
    static const int64_t widths[] = {8, 24, 4104, 13};
    int32_t id[T];
    for (int i = 0; i < T; i++) id[i] = i * 31 % V;
    OPS_EACH_BACKEND(be)
        for (size_t k = 0; k < TDM_COUNT(widths); k++) {
            const int64_t cols = widths[k];
            const size_t bytes = (size_t)(V * cols) * sizeof(uint16_t);
            uint16_t *rows = test_noise_bf16(V, cols, 5);
            void *pinned;
            tdm_view y[] = {test_guarded(T, cols, TDM_DTYPE_F32), test_guarded(T, cols, TDM_DTYPE_F32)};
            TEST_OK(be->host_open(&pinned, bytes, err));
            memcpy(pinned, rows, bytes);
            test_stream s = test_stream_open(be, &ops_limits, 2);
            const tdm_weight table = {.codes = {rows, TDM_DTYPE_BF16, V, cols, cols}}, lent = test_in_weight(&s, &table);
            const tdm_weight host = {.codes = {pinned, TDM_DTYPE_BF16, V, cols, cols}};
            const int32_t *ids = test_in_i32(&s, id, T);
            TEST_OK(be->embed(s.s, test_out(&s, y[0]), &lent, ids, 1.0f, err));
            TEST_OK(be->embed(s.s, test_out(&s, y[1]), &host, ids, 1.0f, err));
            test_stream_close(&s);
            for (int64_t t = 0; t < T; t++)
                for (int64_t c = 0; c < cols; c++) {
                    const float want = tdm_bf16_to_f32(rows[id[t] * cols + c]);
                    assert_true(test_view_at(tdm_view_const(y[0]), t, c) == want && test_view_at(tdm_view_const(y[1]), t, c) == want);
                }
            for (int i = 0; i < 2; i++) test_guard_free("embed", y[i]);
            be->host_close(pinned, bytes);
            free(rows);
        }
}

static void convert_rounds_to_nearest_even(void **state)
{
    (void)state;
    const tdm_cview x = test_golden(goldens, "convert/x"), want = test_golden(goldens, "convert/y");
    OPS_EACH_BACKEND(be) {
        tdm_view y = test_guarded(x.rows, x.cols, TDM_DTYPE_BF16), back = test_guarded(x.rows, x.cols, TDM_DTYPE_F32);
        tdm_view same = test_guarded(x.rows, x.cols, TDM_DTYPE_F32), same2 = test_guarded(x.rows, x.cols, TDM_DTYPE_BF16);
        test_stream s = test_stream_open(be, &ops_limits, 2);
        const tdm_view dy = test_out(&s, y);
        const tdm_cview dx = test_in(&s, x);
        TEST_OK(be->convert(s.s, dy, dx, err));
        TEST_OK(be->convert(s.s, test_out(&s, back), tdm_view_const(dy), err));
        TEST_OK(be->convert(s.s, test_out(&s, same), dx, err));
        TEST_OK(be->convert(s.s, test_out(&s, same2), tdm_view_const(dy), err));
        TEST_OK(be->convert(s.s, (tdm_view){NULL, TDM_DTYPE_BF16, 0, 5, 5}, (tdm_cview){NULL, TDM_DTYPE_F32, 0, 5, 5}, err));
        test_stream_close(&s);
        for (int64_t r = 0; r < x.rows; r++)
            for (int64_t c = 0; c < x.cols; c++) {
                const uint16_t got = ((uint16_t *)y.data)[r * y.stride + c], w = ((const uint16_t *)want.data)[r * want.stride + c];
                if (isnan(test_view_at(want, r, c))) assert_true(isnan(test_view_at(tdm_view_const(y), r, c)));
                else if (got != w) fail_msg("%s: bf16(%a) is 0x%04x, should be 0x%04x", be->name, (double)test_view_at(x, r, c), got, w);
                const float wide = test_view_at(tdm_view_const(back), r, c), half = test_view_at(tdm_view_const(y), r, c);
                assert_true(wide == half || (isnan(wide) && isnan(half)));
            }
        test_same_bits("a copy of f32", tdm_view_const(same), x);
        test_same_bits("a copy of bf16", tdm_view_const(same2), tdm_view_const(y));
        tdm_view all[] = {y, back, same, same2};
        for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("convert", all[k]);
    }
}

static const struct { int64_t rows, cols; } shapes[] = {{1, 1}, {7, 3}, {40, 129}, {300, 64}, {5, 4100}};

/* Every third row, from the last on; then back to where they came from, onto an array that keeps its other rows. */
static void rows_are_gathered_and_scattered(void **state)
{
    (void)state;
    static const tdm_dtype dtypes[] = {TDM_DTYPE_F32, TDM_DTYPE_BF16, TDM_DTYPE_U8};
    OPS_EACH_BACKEND(be)
        for (size_t i = 0; i < TDM_COUNT(shapes); i++)
            for (size_t d = 0; d < TDM_COUNT(dtypes); d++) {
                const int64_t rows = shapes[i].rows, cols = shapes[i].cols, some = tdm_ceil_div(rows, 3);
                const size_t size = tdm_dtype_bytes(dtypes[d]);
                int32_t *row = malloc((size_t)some * sizeof *row);
                tdm_view x = test_guarded(rows, cols, dtypes[d]), y = test_guarded(some, cols, dtypes[d]), back = test_guarded(rows, cols, dtypes[d]);
                for (int64_t r = 0; r < rows; r++)
                    for (size_t b = 0; b < (size_t)cols * size; b++) ((uint8_t *)x.data)[(size_t)(r * x.stride) * size + b] = (uint8_t)((size_t)r * 31 + b * 7);
                for (int64_t r = 0; r < some; r++) row[r] = (int32_t)(rows - 1 - 3 * r);
                test_stream s = test_stream_open(be, &ops_limits, 2);
                const tdm_view dy = test_out(&s, y);
                const int32_t *list = test_in_i32(&s, row, some);
                TEST_OK(be->gather_rows(s.s, dy, test_in(&s, tdm_view_const(x)), list, err));
                TEST_OK(be->scatter_rows(s.s, test_out(&s, back), tdm_view_const(dy), list, err));
                TEST_OK(be->gather_rows(s.s, (tdm_view){NULL, dtypes[d], 0, cols, cols}, tdm_view_const(dy), NULL, err));
                TEST_OK(be->scatter_rows(s.s, dy, (tdm_cview){NULL, dtypes[d], 0, cols, cols}, NULL, err));
                test_stream_close(&s);
                for (int64_t r = 0; r < some; r++) {
                    const char *from = (const char *)x.data + (size_t)(row[r] * x.stride) * size;
                    assert_memory_equal((const char *)y.data + (size_t)(r * y.stride) * size, from, (size_t)cols * size);
                    assert_memory_equal((const char *)back.data + (size_t)(row[r] * back.stride) * size, from, (size_t)cols * size);
                }
                for (int64_t r = 0; r < rows; r++)
                    for (size_t b = 0; (rows - 1 - r) % 3 && b < (size_t)cols * size; b++)
                        assert_int_equal(((uint8_t *)back.data)[(size_t)(r * back.stride) * size + b], TEST_GUARD_BYTE);
                tdm_view all[] = {x, y, back};
                for (size_t k = 0; k < TDM_COUNT(all); k++) test_guard_free("rows", all[k]);
                free(row);
            }
}

static void zero_clears_its_view_alone(void **state)
{
    (void)state;
    OPS_EACH_BACKEND(be)
        for (size_t i = 0; i < TDM_COUNT(shapes); i++)
            for (int half = 0; half < 2; half++) {
                const int64_t rows = shapes[i].rows;
                tdm_view y = test_guarded(rows + 2, shapes[i].cols * (i ? 1 : 70001), half ? TDM_DTYPE_BF16 : TDM_DTYPE_F32);
                test_stream s = test_stream_open(be, &ops_limits, 2);
                const tdm_view dy = test_out(&s, y);
                TEST_OK(be->zero(s.s, tdm_view_rows(dy, 1, rows), err));
                TEST_OK(be->zero(s.s, tdm_view_rows(dy, 1, 0), err));
                test_stream_close(&s);
                const uint32_t guard = half ? 0x5a5a0000u : 0x5a5a5a5au;
                float untouched;
                memcpy(&untouched, &guard, 4);
                for (int64_t r = 0; r < y.rows; r++)
                    for (int64_t c = 0; c < y.cols; c++)
                        assert_true(test_view_at(tdm_view_const(y), r, c) == (r > 0 && r <= rows ? 0.0f : untouched));
                test_guard_free("zero", y);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embed_reads_every_scheme),
        cmocka_unit_test(embed_reads_host_memory),
        cmocka_unit_test(convert_rounds_to_nearest_even),
        cmocka_unit_test(rows_are_gathered_and_scattered),
        cmocka_unit_test(zero_clears_its_view_alone),
    };
    return OPS_TESTS(tests);
}
