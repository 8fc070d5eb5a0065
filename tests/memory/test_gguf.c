/* labels: unit
 * The rules of GGUF, one damaged file each, built byte by byte; then every truncation and many flipped bits of a real
 * file: an error or a file that still obeys the rules, never a crash (run it under ASan). */
#include "memory/gguf.h"
#include "testing/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

typedef struct bytes {
    unsigned char at[4096];
    size_t n;
} bytes;

static void put(bytes *b, const void *data, size_t n)
{
    assert_true(b->n + n <= sizeof b->at);
    memcpy(b->at + b->n, data, n);
    b->n += n;
}
static void put32(bytes *b, uint32_t v) { put(b, &v, sizeof v); }
static void put64(bytes *b, uint64_t v) { put(b, &v, sizeof v); }
static void put_str(bytes *b, const char *s)
{
    put64(b, strlen(s));
    put(b, s, strlen(s));
}
static void put_head(bytes *b, uint32_t version, uint64_t tensors, uint64_t values)
{
    b->n = 0;
    put(b, "GGUF", 4);
    put32(b, version);
    put64(b, tensors);
    put64(b, values);
}
static void put_u32(bytes *b, const char *key, uint32_t v)
{
    put_str(b, key);
    put32(b, 4);
    put32(b, v);
}
static void put_tensor(bytes *b, const char *name, uint32_t rank, const uint64_t *dims, uint32_t type, uint64_t offset)
{
    put_str(b, name);
    put32(b, rank);
    for (uint32_t i = 0; i < rank && i < 8; i++) put64(b, dims[i]);
    put32(b, type);
    put64(b, offset);
}
/* Zeros up to a multiple of 32, then n bytes of tensor data. */
static void put_data(bytes *b, size_t n)
{
    static const unsigned char zeros[1024];
    put(b, zeros, tdm_align_up(b->n, 32) - b->n + n);
}

static void expect(const bytes *b, const char *what)
{
    tdm_error err = {0};
    tdm_gguf *g;
    unsigned char *copy = malloc(b->n + 1);
    memcpy(copy, b->at, b->n);
    const tdm_status st = tdm_gguf_parse(&g, copy, b->n, "test", &err);
    if (!what) {
        if (st != TDM_OK) fail_msg("%s", err.what);
        tdm_gguf_close(g);
    } else {
        if (st != TDM_ERR_INPUT || !strstr(err.what, what))
            fail_msg("\"%s\", expected something with \"%s\"", err.what, what);
        assert_null(g);
    }
    free(copy);
}

static void broken_heads_are_refused(void **state)
{
    bytes b = {.n = 0};
    (void)state;
    expect(&b, "ends inside");
    put(&b, "GGUX", 4);
    expect(&b, "start with GGUF");
    put_head(&b, 2, 0, 0);
    expect(&b, "version 2");
    put_head(&b, 0x03000000, 0, 0);
    expect(&b, "version 50331648");
    put_head(&b, 3, UINT64_MAX, 0);
    expect(&b, "tensors in");
    put_head(&b, 3, 0, UINT64_MAX / 2);
    expect(&b, "metadata entries in");
    put_head(&b, 3, 0, 0);
    expect(&b, NULL);
}

static void broken_metadata_is_refused(void **state)
{
    static const uint32_t alignments[] = {0, 3, 48, 1u << 31};
    bytes b;
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(alignments); i++) {
        put_head(&b, 3, 0, 1);
        put_u32(&b, "general.alignment", alignments[i]);
        expect(&b, "general.alignment");
    }
    put_head(&b, 3, 0, 2);
    put_u32(&b, "key", 1);
    put_u32(&b, "key", 2);
    expect(&b, "twice");
    put_head(&b, 3, 0, 1);
    put64(&b, UINT64_MAX); /* length of the key */
    put_data(&b, 64);
    expect(&b, "a text of");
    put_head(&b, 3, 0, 1);
    put_str(&b, "key");
    put32(&b, 8);
    put64(&b, 1000);
    put_data(&b, 64);
    expect(&b, "a text of 1000");
    put_head(&b, 3, 0, 1);
    put_str(&b, "key");
    put32(&b, 13);
    put_data(&b, 64);
    expect(&b, "unknown type 13");
    put_head(&b, 3, 0, 1);
    put_str(&b, "key");
    put32(&b, 7);
    put(&b, "\2", 1);
    expect(&b, "truth value");
}

static void put_array(bytes *b, uint32_t item, uint64_t count)
{
    put_head(b, 3, 0, 1);
    put_str(b, "key");
    put32(b, 9);
    put32(b, item);
    put64(b, count);
}

static void broken_arrays_are_refused(void **state)
{
    bytes b;
    (void)state;
    put_array(&b, 9, 1); /* an array of arrays */
    put_data(&b, 64);
    expect(&b, "array of type 9");
    put_array(&b, 99, 1);
    expect(&b, "array of type 99");
    put_array(&b, 10, UINT64_MAX / 8 + 1); /* 8 * count wraps to 0 */
    put_data(&b, 64);
    expect(&b, "elements in");
    put_array(&b, 8, UINT64_MAX / 4);
    put_data(&b, 64);
    expect(&b, "texts in");
    put_array(&b, 8, 2);
    put_str(&b, "onetwothree");
    expect(&b, "ends inside");
    put_array(&b, 8, 0);
    expect(&b, NULL);
}

static void put_one(bytes *b, const char *name, uint32_t rank, const uint64_t *dims, uint32_t type, uint64_t offset,
                    size_t data)
{
    put_head(b, 3, 1, 0);
    put_tensor(b, name, rank, dims, type, offset);
    put_data(b, data);
}

static void broken_tensors_are_refused(void **state)
{
    static const uint64_t two[] = {32, 2}, ones[] = {1, 1, 1, 1, 1}, none[] = {0}, huge[] = {32, UINT64_C(1) << 58, 32},
                          negative[] = {UINT64_MAX}, odd[] = {33};
    char longest[65] = {0};
    bytes b;
    (void)state;
    memset(longest, 'n', 64);
    put_one(&b, "a", 2, two, 0, 0, 256);
    expect(&b, NULL);
    put_one(&b, "a", 2, two, 0, 0, 255);
    expect(&b, "ends at");
    put_one(&b, "a", 2, two, 0, 32, 256);
    expect(&b, "ends at");
    put_one(&b, "a", 2, two, 0, UINT64_MAX - 31, 256);
    expect(&b, "ends at");
    put_one(&b, "a", 2, two, 0, 4, 288);
    expect(&b, "aligned");
    put_one(&b, "a", 5, ones, 0, 0, 256);
    expect(&b, "dimensions");
    put_one(&b, "a", 0, ones, 0, 0, 256);
    expect(&b, "dimensions");
    put_one(&b, "a", 1, none, 0, 0, 256);
    expect(&b, "dimension of 0");
    put_one(&b, "a", 1, negative, 0, 0, 256);
    expect(&b, "dimension of");
    put_one(&b, "a", 3, huge, 0, 0, 256);
    expect(&b, "does not fit");
    put_one(&b, "a", 3, huge, 8, 0, 256);
    expect(&b, "does not fit");
    put_one(&b, "a", 1, odd, 2, 0, 256); /* Q4_0 has blocks of 32 */
    expect(&b, "does not fit");
    put_one(&b, "a", 2, two, 4, 0, 256);
    expect(&b, "unknown type 4");
    put_one(&b, "a", 2, two, 9999, 0, 256);
    expect(&b, "unknown type 9999");
    put_one(&b, "", 2, two, 0, 0, 256);
    expect(&b, "proper name");
    put_one(&b, longest, 2, two, 0, 0, 256);
    expect(&b, "a text of 64");
    for (uint64_t offset = 0; offset <= 256; offset += 256) {
        put_head(&b, 3, 2, 0);
        put_tensor(&b, "a", 2, two, 0, 0);
        put_tensor(&b, offset ? "a" : "b", 2, two, 0, offset);
        put_data(&b, 512);
        expect(&b, offset ? "twice" : "overlap");
    }
}

static void damaged_files_are_errors_or_still_valid(void **state)
{
    unsigned long n;
    unsigned char *file = (unsigned char *)test_file_get("tests/golden/data/files/qwen3.gguf", &n);
    tdm_gguf *g;
    (void)state;
    for (unsigned long cut = 0; cut < n; cut += cut < 4000 ? 1 : 97) {
        tdm_error err = {0};
        unsigned char *part = malloc(cut + 1);
        memcpy(part, file, cut);
        assert_int_not_equal(tdm_gguf_parse(&g, part, cut, "cut", &err), TDM_OK);
        assert_string_not_equal(err.what, "");
        free(part);
    }
    for (unsigned long bit = 0; bit < 8 * 4000; bit++) {
        tdm_error err = {0};
        file[bit / 8] ^= (unsigned char)(1 << bit % 8);
        if (tdm_gguf_parse(&g, file, n, "flipped", &err) == TDM_OK)
            tdm_gguf_close(g);
        else
            assert_string_not_equal(err.what, "");
        file[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    free(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broken_heads_are_refused),
        cmocka_unit_test(broken_metadata_is_refused),
        cmocka_unit_test(broken_arrays_are_refused),
        cmocka_unit_test(broken_tensors_are_refused),
        cmocka_unit_test(damaged_files_are_errors_or_still_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
