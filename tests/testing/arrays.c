#include "testing/arrays.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "testing/backend.h"

static tdm_view guarded(int64_t rows, int64_t cols, int64_t stride, tdm_dtype dtype)
{
    const size_t bytes = (size_t)(rows * stride) * tdm_dtype_bytes(dtype);
    void *p = malloc(bytes + 1);
    assert_non_null(p);
    memset(p, TEST_GUARD_BYTE, bytes + 1);
    return (tdm_view){p, dtype, rows, cols, stride};
}

tdm_view test_guarded(int64_t rows, int64_t cols, tdm_dtype dtype) { return guarded(rows, cols, cols + TEST_GUARD, dtype); }
tdm_view test_aligned(int64_t rows, int64_t cols, tdm_dtype dtype) { return guarded(rows, cols, (cols + 7) / 8 * 8 + 8, dtype); }

static tdm_view filled_from(tdm_view y, tdm_cview v)
{
    const size_t size = tdm_dtype_bytes(v.dtype);
    for (int64_t i = 0; i < v.rows; i++)
        memcpy((char *)y.data + (size_t)(i * y.stride) * size, (const char *)v.data + (size_t)(i * v.stride) * size, (size_t)v.cols * size);
    return y;
}

tdm_view test_copy(tdm_cview v) { return filled_from(test_guarded(v.rows, v.cols, v.dtype), v); }
tdm_view test_copy_aligned(tdm_cview v) { return filled_from(test_aligned(v.rows, v.cols, v.dtype), v); }

static void set(tdm_view v, int64_t row, int64_t col, float value)
{
    if (v.dtype == TDM_DTYPE_F32) ((float *)v.data)[row * v.stride + col] = value;
    else ((uint16_t *)v.data)[row * v.stride + col] = tdm_f32_to_bf16(value);
}

static tdm_view noise(tdm_view v, float scale, uint32_t seed)
{
    for (int64_t i = 0; i < v.rows; i++)
        for (int64_t j = 0; j < v.cols; j++) set(v, i, j, scale * test_noise(&seed));
    return v;
}

tdm_view test_random(int64_t rows, int64_t cols, tdm_dtype dtype, float scale, uint32_t seed)
{
    return noise(test_guarded(rows, cols, dtype), scale, seed);
}

tdm_view test_random_aligned(int64_t rows, int64_t cols, tdm_dtype dtype, float scale, uint32_t seed)
{
    return noise(test_aligned(rows, cols, dtype), scale, seed);
}

void test_fill(tdm_view v, float value)
{
    for (int64_t i = 0; i < v.rows; i++)
        for (int64_t j = 0; j < v.cols; j++) set(v, i, j, value);
}

void test_guard_check(const char *what, tdm_view v)
{
    const size_t size = tdm_dtype_bytes(v.dtype);
    for (int64_t i = 0; i < v.rows; i++)
        for (size_t b = (size_t)v.cols * size; b < (size_t)v.stride * size; b++)
            if (((const uint8_t *)v.data)[(size_t)(i * v.stride) * size + b] != TEST_GUARD_BYTE)
                fail_msg("%s: row %lld is written past its columns", what, (long long)i);
}

void test_guard_free(const char *what, tdm_view v)
{
    test_guard_check(what, v);
    free(v.data);
}

void test_same_bits(const char *what, tdm_cview got, tdm_cview want)
{
    const size_t size = tdm_dtype_bytes(got.dtype);
    assert_true(got.rows == want.rows && got.cols == want.cols && got.dtype == want.dtype);
    for (int64_t i = 0; i < got.rows; i++)
        for (int64_t j = 0; j < got.cols; j++)
            if (memcmp((const char *)got.data + (size_t)(i * got.stride + j) * size,
                       (const char *)want.data + (size_t)(i * want.stride + j) * size, size) != 0)
                fail_msg("%s[%lld, %lld] is %a, should be %a", what, (long long)i, (long long)j, (double)test_view_at(got, i, j),
                         (double)test_view_at(want, i, j));
}

void test_near(const char *what, tdm_cview got, tdm_cview want, double relative, double absolute, tdm_cview mag)
{
    assert_true(got.rows == want.rows && got.cols == want.cols);
    for (int64_t i = 0; i < got.rows; i++)
        for (int64_t j = 0; j < got.cols; j++) {
            const double y = (double)test_view_at(got, i, j), ref = (double)test_view_at(want, i, j);
            double bound = relative * fabs(ref) + absolute * (mag.data ? (double)test_view_at(mag, i, j) : 1.0);
            if ((isnan(y) && isnan(ref)) || y == ref) continue;
            if (got.dtype == TDM_DTYPE_BF16 && ref != 0.0) bound += ldexp(1.0, ilogb(ref) - 8);
            if (!(fabs(y - ref) <= bound))
                fail_msg("%s[%lld, %lld] is %.9g, should be %.9g within %.3g", what, (long long)i, (long long)j, y, ref, bound);
        }
}

tdm_cview test_cols(tdm_cview v, int64_t first, int64_t cols)
{
    v.data = (const char *)v.data + (size_t)first * tdm_dtype_bytes(v.dtype);
    v.cols = cols;
    return v;
}

float test_view_at(tdm_cview v, int64_t row, int64_t col)
{
    const int64_t i = row * v.stride + col;
    switch (v.dtype) {
    case TDM_DTYPE_F32: return ((const float *)v.data)[i];
    case TDM_DTYPE_BF16: return tdm_bf16_to_f32(((const uint16_t *)v.data)[i]);
    case TDM_DTYPE_E4M3: return tdm_e4m3_to_f32(((const uint8_t *)v.data)[i]);
    case TDM_DTYPE_I32: return (float)((const int32_t *)v.data)[i];
    case TDM_DTYPE_U8: return (float)((const uint8_t *)v.data)[i];
    }
    fail_msg("no numbers in this view");
    return 0;
}
