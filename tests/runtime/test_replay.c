/* labels: unit
 *
 * Recorded rollouts: what is read, and the line that names what is wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/data/replay.h"

static tdm_status read_text(tdm_replay *r, const char *text, tdm_error *err)
{
    char path[64];
    const int fd = memfd_create("replay", MFD_CLOEXEC);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    *err = (tdm_error){0};
    const tdm_status st = tdm_replay_open(r, path, 10, err);
    close(fd);
    return st;
}

#define ROW(ids, logprobs, reward) "{\"prompt_ids\":[1],\"completion_ids\":" ids ",\"logprobs\":" logprobs ",\"reward\":" reward ",\"group\":0}\n"

static void groups_and_numbers_arrive(void **state)
{
    (void)state;
    tdm_replay r;
    tdm_error err;
    assert_int_equal(read_text(&r, ROW("[2,3]", "[-0.5,-1]", "1.5") ROW("[4]", "[0]", "null"), &err), TDM_OK);
    assert_int_equal(r.rows, 2);
    assert_int_equal(r.groups, 1);
    assert_int_equal(r.longest_completion, 2);
    assert_true(r.row[0].reward == 1.5 && isnan(r.row[1].reward) && r.row[0].logprob[1] == -1.0f);
    tdm_replay_close(&r);
}

#define MASKED(mask) "{\"prompt_ids\":[1],\"completion_ids\":[2,3],\"mask\":" mask ",\"reward\":0,\"group\":0}\n"

static void masks_arrive_where_they_are(void **state)
{
    (void)state;
    tdm_replay r;
    tdm_error err;
    assert_int_equal(read_text(&r, MASKED("[0,1]") MASKED("null"), &err), TDM_OK);
    assert_true(r.masked && !r.row[0].mask[0] && r.row[0].mask[1] && !r.row[1].mask);
    tdm_replay_close(&r);
    assert_int_equal(read_text(&r, MASKED("null"), &err), TDM_OK);
    assert_false(r.masked);
    tdm_replay_close(&r);
}

static const struct { const char *text, *what; } broken[] = {
    {MASKED("[1]"), "\"mask\" has 1 numbers, the completion 2 ids"},
    {MASKED("[1,2]"), "mask[1] is neither 0 nor 1"},
    {MASKED("[true,1]"), "mask[0] is neither 0 nor 1"},
    {MASKED("[0,0]"), "\"mask\" leaves nothing to learn from"},
    {ROW("[2]", "[-1e73]", "0"), "logprobs[0] is no log-probability"}, /* became minus infinity as a float, and the run's loss with it */
    {ROW("[2]", "[0.5]", "0"), "logprobs[0] is no log-probability"},
    {ROW("[2]", "[]", "0"), "\"logprobs\" has 0 numbers, the completion 1 ids"},
    {ROW("[10]", "[-1]", "0"), "completion_ids[0] is not an id below 10"},
    {ROW("[]", "[]", "0"), "\"completion_ids\" is missing or empty"},
    {ROW("[2]", "[-1]", "\"1\""), "\"reward\" is missing or no number"},
    {ROW("[2]", "[-1]", "0") ROW("[2]", "null", "0"), "\"logprobs\" stand on some lines only"},
};

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(broken); i++) {
        tdm_replay r;
        tdm_error err;
        assert_int_equal(read_text(&r, broken[i].text, &err), TDM_ERR_INPUT);
        assert_string_equal(err.what, broken[i].what);
        tdm_replay_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(groups_and_numbers_arrive), cmocka_unit_test(masks_arrive_where_they_are), cmocka_unit_test(what_is_wrong_is_named)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
