/* labels: unit
 * What waits comes back as it was, whole or in parts, as often as it is fetched, on every backend; a CPU's file has no name. */
#include "memory/fs.h"
#include "memory/standby.h"
#include "testing/ops_case.h"
#include "testing/scratch.h"

enum { BYTES = (3 << 20) + 640, PART = 1 << 20 };

static void bytes_come_back(void **state)
{
    (void)state;
    char *dir = test_scratch_new();
    OPS_EACH_BACKEND(be) {
        test_stream s = test_stream_open(be, &ops_limits, 2);
        unsigned char *want = malloc(BYTES), *got = malloc(BYTES);
        char *region = test_scratch(&s, BYTES);
        tdm_standby t;
        for (int i = 0; i < BYTES; i++) want[i] = (unsigned char)(i * 31 + i / 509);
        TEST_OK(tdm_standby_open(&t, be, BYTES, dir, err));
        TEST_OK(be->upload(s.s, region, want, BYTES, err));
        TEST_OK(tdm_standby_keep(&t, s.s, region, err));
        for (int round = 0; round < 3; round++) {
            TEST_OK(be->zero(s.s, tdm_view_make(region, TDM_DTYPE_F32, 1, BYTES / 4), err));
            TEST_OK(tdm_standby_fetch(&t, s.s, region + PART, PART, BYTES - PART, err));
            TEST_OK(tdm_standby_fetched(&t, s.s, err));
            TEST_OK(tdm_standby_fetch(&t, s.s, region, 0, PART, err));
            TEST_OK(tdm_standby_fetched(&t, s.s, err));
            TEST_OK(be->download(s.s, got, region, BYTES, err));
            TEST_OK(be->stream_sync(s.s, err));
            assert_memory_equal(got, want, BYTES);
        }
        tdm_names names = {0};
        TEST_OK(tdm_fs_list(dir, &names, err));
        assert_int_equal(names.count, 0);
        tdm_names_free(&names);
        tdm_standby_close(&t);
        test_stream_close(&s);
        free(want);
        free(got);
    }
    tdm_error why = {0};
    tdm_standby t;
    char *missing = test_path(dir, "missing");
    const tdm_backend *cpu;
    assert_int_equal(tdm_backend_open("cpu", NULL, &cpu, &why), TDM_OK);
    assert_int_equal(tdm_standby_open(&t, cpu, BYTES, missing, &why), TDM_ERR_OTHER);
    assert_string_equal(why.where, missing);
    tdm_standby_close(&t);
    free(missing);
    test_scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bytes_come_back)};
    return OPS_TESTS(tests);
}
