/* Host arrays with guard bytes between a row's last column and its stride, and comparisons that name the element that fails. */
#ifndef TANDEM_TESTS_ARRAYS_H
#define TANDEM_TESTS_ARRAYS_H

#include "kernels/ops.h"

enum { TEST_GUARD = 3, TEST_GUARD_BYTE = 0x5a };

/* A guarded array for results, every byte TEST_GUARD_BYTE; the caller's (free data). */
tdm_view test_guarded(int64_t rows, int64_t cols, tdm_dtype dtype);
/* A guarded copy; the caller's (free data). */
tdm_view test_copy(tdm_cview v);
/* Guarded noise in (-scale, scale), f32 or bf16; the caller's (free data). */
tdm_view test_random(int64_t rows, int64_t cols, tdm_dtype dtype, float scale, uint32_t seed);
/* The same with rows that begin 16-byte aligned, which attention and RoPE ask for; still guarded. */
tdm_view test_aligned(int64_t rows, int64_t cols, tdm_dtype dtype);
tdm_view test_copy_aligned(tdm_cview v);
tdm_view test_random_aligned(int64_t rows, int64_t cols, tdm_dtype dtype, float scale, uint32_t seed);
/* Every element of an f32 array. */
void test_fill(tdm_view v, float value);
/* Fails where a byte between cols and stride changed. */
void test_guard_check(const char *what, tdm_view v);
/* test_guard_check, then free. */
void test_guard_free(const char *what, tdm_view v);
/* Fails at the first element that differs in a bit. */
void test_same_bits(const char *what, tdm_cview got, tdm_cview want);
/* Fails where |got - want| > rounding(want) + relative * |want| + absolute * (mag or 1): rounding is half a step of got's dtype where
 * that is bf16, none where it is f32; mag is absent or as large as want. NaN matches NaN. */
void test_near(const char *what, tdm_cview got, tdm_cview want, double relative, double absolute, tdm_cview mag);
/* Columns [first, first + cols). */
tdm_cview test_cols(tdm_cview v, int64_t first, int64_t cols);
float test_view_at(tdm_cview v, int64_t row, int64_t col);

#endif
