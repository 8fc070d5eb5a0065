/* labels: unit
 * The rules of the safetensors format, one damaged header each; then every truncation and many flipped bits of a real
 * file: an error or a file that still obeys the rules, never a crash (run it under ASan). */
#include "memory/fs.h"
#include "memory/safetensors.h"
#include "testing/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static tdm_status parse(const char *header, size_t data_bytes, tdm_error *err)
{
    const size_t n = strlen(header);
    unsigned char *file = calloc(1, 8 + n + data_bytes);
    tdm_safetensors *f;
    for (int i = 0; i < 8; i++) file[i] = (unsigned char)((uint64_t)n >> (8 * i));
    memcpy(file + 8, header, n);
    const tdm_status st = tdm_safetensors_parse(&f, file, 8 + n + data_bytes, "test", err);
    if (st == TDM_OK)
        tdm_safetensors_close(f);
    else
        assert_null(f);
    free(file);
    return st;
}

static void headers_that_break_a_rule_are_refused(void **state)
{
    static const struct {
        const char *header;
        size_t data;
        const char *what;
    } bad[] = {
        {"", 0, "start with"},
        {" {}", 0, "start with"},
        {"{", 0, "header"},
        {"{}x", 0, "header"},
        {"{}", 4, "belong to no tensor"},
        {"{\"a\":1}", 0, "not an object"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4.0]}}", 4, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 4, "past the end"},
        {"{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "unknown dtype"},
        {"{\"a\":{\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "dimension"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":\"1\",\"data_offsets\":[0,4]}}", 4, "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "another number of bytes"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "another number of bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", 0, "overflows"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0, "overflows"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, "8 dimensions"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":0}}", 1, "keys beyond"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_"
         "offsets\":[1,2]}}",
         2, "duplicate"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_"
         "offsets\":[1,2]}}",
         2, "overlap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_"
         "offsets\":[2,3]}}",
         3, "hole"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, "hole"},
        {"{\"__metadata__\":[]}", 0, "__metadata__"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__"},
    };
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(bad); i++) {
        tdm_error err = {0};
        assert_int_equal(parse(bad[i].header, bad[i].data, &err), TDM_ERR_INPUT);
        if (!strstr(err.what, bad[i].what))
            fail_msg("%s: \"%s\", expected something with \"%s\"", bad[i].header, err.what, bad[i].what);
    }
}

static void odd_headers_that_keep_the_rules_are_read(void **state)
{
    static const struct {
        const char *header;
        size_t data;
    } good[] = {
        {"{}", 0},
        {"{}   ", 0},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[0,0]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],"
         "\"data_offsets\":[0,2]}}",
         2},
        {"{\"b\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[2,10]},\"a\":{\"dtype\":\"F4\",\"shape\":[4],"
         "\"data_offsets\":[0,2]}}",
         10},
    };
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(good); i++) {
        tdm_error err = {0};
        if (parse(good[i].header, good[i].data, &err) != TDM_OK) fail_msg("%s: %s", good[i].header, err.what);
    }
}

static void a_header_longer_than_allowed_is_refused(void **state)
{
    const unsigned char file[16] = {0x01, 0xe1, 0xf5, 0x05, 0, 0, 0, 0, '{', '}'}; /* 100,000,001 */
    tdm_error err = {0};
    tdm_safetensors *f;
    (void)state;
    assert_int_equal(tdm_safetensors_parse(&f, file, sizeof file, "test", &err), TDM_ERR_INPUT);
    assert_non_null(strstr(err.what, "100000001"));
}

static const float values[6] = {1, -2, 3, 4, 5, 6};
static const uint8_t codes[3] = {1, 2, 3};
static const tdm_st_entry entries[] = {
    {.name = "codes", .dtype = TDM_ST_E4M3, .rank = 2, .shape = {1, 3}, .data = codes},
    {.name = "scale", .dtype = TDM_ST_F32, .rank = 2, .shape = {2, 3}, .data = values},
    {.name = "empty", .dtype = TDM_ST_BF16, .rank = 1, .shape = {0}, .data = NULL},
};
static const char *const metadata[] = {"format", "pt", "note", "\"quoted\"\n", NULL};

static void what_was_written_is_read_back_aligned(void **state)
{
    tdm_error err = {0};
    tdm_safetensors *f;
    char *dir = test_scratch_new(), *path = test_path(dir, "a.safetensors");
    (void)state;
    assert_int_equal(tdm_safetensors_write(path, entries, TDM_COUNT(entries), metadata, &err), TDM_OK);
    assert_int_equal(tdm_safetensors_open(&f, path, &err), TDM_OK);
    assert_int_equal(tdm_safetensors_count(f), 3);
    assert_string_equal(tdm_safetensors_metadata(f, "note"), "\"quoted\"\n");
    assert_null(tdm_safetensors_metadata(f, "absent"));
    assert_null(tdm_safetensors_find(f, "absent"));
    const tdm_st_tensor *t = tdm_safetensors_find(f, "scale");
    assert_int_equal(t->rank, 2);
    assert_int_equal(t->shape[1], 3);
    assert_memory_equal(t->data, values, sizeof values);
    assert_int_equal((uintptr_t)t->data % 8, 0);
    t = tdm_safetensors_find(f, "codes");
    assert_int_equal(t->dtype, TDM_ST_E4M3);
    assert_memory_equal(t->data, codes, sizeof codes);
    assert_int_equal(tdm_safetensors_find(f, "empty")->bytes, 0);
    tdm_safetensors_close(f);
    free(path);
    test_scratch_free(dir);
}

static void two_tensors_of_one_name_are_not_written(void **state)
{
    tdm_error err = {0};
    const tdm_st_entry twice[] = {entries[0], entries[0]};
    char *dir = test_scratch_new(), *path = test_path(dir, "a.safetensors");
    (void)state;
    assert_int_not_equal(tdm_safetensors_write(path, twice, 2, NULL, &err), TDM_OK);
    assert_non_null(strstr(err.what, "codes"));
    free(path);
    test_scratch_free(dir);
}

static void a_failed_write_leaves_no_file(void **state)
{
    char *dir = test_scratch_new(), *path = test_path(dir, "a.safetensors");
    (void)state;
    for (int64_t n = 0;; n++) {
        tdm_error err = {0};
        tdm_fault_arm(TDM_FAULT_ANY, n, false);
        const tdm_status st = tdm_safetensors_write(path, entries, TDM_COUNT(entries), metadata, &err);
        if (tdm_fault_disarm() == 0) {
            assert_int_equal(st, TDM_OK);
            break;
        }
        assert_int_not_equal(st, TDM_OK);
        assert_string_not_equal(err.what, "");
        assert_int_not_equal(access(path, F_OK), 0);
    }
    free(path);
    test_scratch_free(dir);
}

static void damaged_files_are_errors_or_still_valid(void **state)
{
    unsigned long n;
    char *file = test_file_get("tests/golden/data/files/fp8_static/model.safetensors", &n);
    tdm_safetensors *f;
    (void)state;
    for (unsigned long cut = 0; cut < n; cut += cut < 4000 ? 1 : 97) {
        tdm_error err = {0};
        char *part = malloc(cut + 1); /* its own block, so that ASan sees a read behind the end */
        memcpy(part, file, cut);
        assert_int_not_equal(tdm_safetensors_parse(&f, part, cut, "cut", &err), TDM_OK);
        assert_string_not_equal(err.what, "");
        free(part);
    }
    for (unsigned long bit = 0; bit < 8 * 4000; bit += 7) {
        tdm_error err = {0};
        file[bit / 8] = (char)(file[bit / 8] ^ (1 << bit % 8));
        if (tdm_safetensors_parse(&f, file, n, "flipped", &err) == TDM_OK)
            tdm_safetensors_close(f);
        else
            assert_string_not_equal(err.what, "");
        file[bit / 8] = (char)(file[bit / 8] ^ (1 << bit % 8));
    }
    free(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_that_break_a_rule_are_refused),
        cmocka_unit_test(odd_headers_that_keep_the_rules_are_read),
        cmocka_unit_test(a_header_longer_than_allowed_is_refused),
        cmocka_unit_test(what_was_written_is_read_back_aligned),
        cmocka_unit_test(two_tensors_of_one_name_are_not_written),
        cmocka_unit_test(a_failed_write_leaves_no_file),
        cmocka_unit_test(damaged_files_are_errors_or_still_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
