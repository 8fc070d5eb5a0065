/* labels: unit
 * Objects are zeroed and aligned, the ceiling holds to the byte, a reset gives everything back, arenas do not touch one
 * another. */
#include "memory/arena.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static void objects_are_zeroed_and_aligned(void **state)
{
    tdm_error err = {0};
    tdm_arena *a;
    (void)state;
    assert_int_equal(tdm_arena_open(&a, "test", 1 << 24, &err), TDM_OK);
    for (int round = 0; round < 3; round++) {
        for (size_t align = 1; align <= 4096; align *= 2) {
            unsigned char *p = tdm_arena_alloc(a, 1000, align);
            assert_non_null(p);
            assert_int_equal((uintptr_t)p % align, 0);
            for (int i = 0; i < 1000; i++) assert_int_equal(p[i], 0);
            memset(p, 0xff, 1000); /* the next round must not meet it */
        }
        tdm_arena_reset(a);
    }
    tdm_arena_close(a);
}

static void the_ceiling_holds_and_a_reset_gives_back(void **state)
{
    tdm_error err = {0};
    tdm_arena *a;
    (void)state;
    assert_int_equal(tdm_arena_open(&a, "test", 1000, &err), TDM_OK);
    assert_non_null(tdm_arena_alloc(a, 600, 1));
    assert_null(tdm_arena_alloc(a, 401, 1));
    assert_null(tdm_arena_alloc(a, 390, 64)); /* takes 448 */
    assert_null(tdm_arena_alloc(a, SIZE_MAX, 64));
    assert_null(tdm_arena_alloc(a, SIZE_MAX - 63, 64));
    assert_non_null(tdm_arena_alloc(a, 400, 1));
    assert_int_equal(tdm_arena_used_bytes(a), 1000);
    tdm_arena_reset(a);
    assert_int_equal(tdm_arena_used_bytes(a), 0);
    assert_int_equal(tdm_arena_peak_bytes(a), 1000);
    assert_non_null(tdm_arena_alloc(a, 1000, 1));
    tdm_arena_close(a);
    tdm_arena_close(NULL);
}

static void arenas_are_apart(void **state)
{
    tdm_error err = {0};
    tdm_arena *a, *b;
    (void)state;
    assert_int_equal(tdm_arena_open(&a, "a", 1 << 20, &err), TDM_OK);
    assert_int_equal(tdm_arena_open(&b, "b", 1 << 20, &err), TDM_OK);
    char *kept = tdm_arena_alloc(b, 5000, 64);
    memset(kept, 7, 5000);
    for (int i = 0; i < 100; i++) assert_non_null(tdm_arena_alloc(a, 5000, 64));
    tdm_arena_reset(a);
    tdm_arena_close(a);
    for (int i = 0; i < 5000; i++) assert_int_equal(kept[i], 7);
    tdm_arena_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(objects_are_zeroed_and_aligned),
        cmocka_unit_test(the_ceiling_holds_and_a_reset_gives_back),
        cmocka_unit_test(arenas_are_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
