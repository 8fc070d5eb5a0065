/* The file layer: a write is complete or absent whatever operation fails, limits hold, removal stays inside.  labels: unit, fault */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memory/fs.h"
#include "testing/scratch.h"

static void reads_back_what_was_written(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *path = test_path(dir, "a");
    tdm_error err = {0};
    static const size_t sizes[] = {0, 1, 4095, 4096, 4097, 100000};
    for (size_t i = 0; i < TDM_COUNT(sizes); i++) {
        char *data = malloc(sizes[i] + 1), *back = NULL;
        size_t bytes = 0;
        for (size_t j = 0; j < sizes[i]; j++) data[j] = (char)(j * 7 + i);
        assert_int_equal(tdm_fs_write(path, data, sizes[i], &err), TDM_OK);
        assert_int_equal(tdm_fs_read(path, sizes[i], &back, &bytes, &err), TDM_OK);
        assert_int_equal(bytes, sizes[i]);
        assert_memory_equal(back, data, bytes);
        assert_int_equal(back[bytes], 0);
        free(back);
        if (sizes[i] > 0) {
            tdm_error e = {0};
            assert_int_equal(tdm_fs_read(path, sizes[i] - 1, &back, &bytes, &e), TDM_ERR_INPUT);
            assert_string_equal(e.where, path);
        }
        free(data);
    }
    free(path);
    test_scratch_free(dir);
}

static void a_missing_file_and_a_folder_are_named(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *path = test_path(dir, "none");
    char *data = NULL;
    size_t bytes = 0;
    tdm_error err = {0};
    assert_int_equal(tdm_fs_read(path, 100, &data, &bytes, &err), TDM_ERR_INPUT);
    assert_string_equal(err.where, path);
    err = (tdm_error){0};
    assert_int_equal(tdm_fs_read(dir, 100, &data, &bytes, &err), TDM_ERR_INPUT);
    assert_string_equal(err.what, "is a folder");
    free(path);
    test_scratch_free(dir);
}

static void a_failed_write_leaves_the_old_file(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *path = test_path(dir, "a");
    tdm_error ok = {0};
    for (int dead = 0; dead < 2; dead++) {
        for (int n = 0;; n++) {
            assert_int_equal(tdm_fs_write(path, "the old text", 12, &ok), TDM_OK);
            tdm_error err = {0};
            tdm_fault_arm(TDM_FAULT_ANY, n, dead);
            tdm_status st = tdm_fs_write(path, "the new text, longer", 20, &err);
            int64_t fired = tdm_fault_disarm();
            char *text = test_file_get(path, NULL);
            if (fired == 0) {
                assert_int_equal(n, 4); /* write, sync, rename, sync of the folder */
                assert_int_equal(st, TDM_OK);
                assert_string_equal(text, "the new text, longer");
                free(text);
                break;
            }
            assert_int_not_equal(st, TDM_OK);
            assert_string_not_equal(err.what, "");
            assert_string_equal(text, n < 3 ? "the old text" : "the new text, longer");
            free(text);
            tdm_names names;
            assert_int_equal(tdm_fs_list(dir, &names, &ok), TDM_OK);
            if (!dead) assert_int_equal(names.count, 1); /* the temporary one went */
            tdm_names_free(&names);
        }
    }
    free(path);
    test_scratch_free(dir);
}

static void a_tree_is_made_listed_and_removed(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *top = test_path(dir, "x"), *deep = test_path(dir, "x//y/z/"), *file = test_path(dir, "x/y/f");
    char *link = test_path(dir, "x/link"), *outside = test_path(dir, "outside"), *kept = test_path(dir, "outside/kept");
    tdm_error err = {0};
    assert_int_equal(tdm_fs_mkdirs(deep, &err), TDM_OK);
    assert_int_equal(tdm_fs_mkdirs(deep, &err), TDM_OK);
    assert_int_equal(tdm_fs_mkdirs(outside, &err), TDM_OK);
    test_file_put(file, "f");
    test_file_put(kept, "k");
    assert_int_equal(symlink(outside, link), 0);

    tdm_names names;
    assert_int_equal(tdm_fs_list(top, &names, &err), TDM_OK);
    assert_int_equal(names.count, 2);
    assert_string_equal(names.names[0], "link");
    assert_string_equal(names.names[1], "y");
    tdm_names_free(&names);

    assert_int_equal(tdm_fs_mkdirs(file, &err), TDM_ERR_OTHER); /* a file is in the way */
    assert_string_equal(err.where, file);
    err = (tdm_error){0};
    assert_int_equal(tdm_fs_remove_tree(top, &err), TDM_OK);
    assert_false(tdm_fs_is_dir(top));
    assert_true(tdm_fs_is_file(kept)); /* the link went, not what it showed */
    assert_int_equal(tdm_fs_remove_tree(top, &err), TDM_OK);
    free(top), free(deep), free(file), free(link), free(outside), free(kept);
    test_scratch_free(dir);
}

static void a_folder_of_many_files_lists_all(void **state)
{
    (void)state;
    char *dir = test_scratch_new();
    for (int i = 0; i < 100; i++) {
        char name[32];
        snprintf(name, sizeof name, "f%03d", i);
        char *p = test_path(dir, name);
        test_file_put(p, "");
        free(p);
    }
    tdm_names names;
    tdm_error err = {0};
    assert_int_equal(tdm_fs_list(dir, &names, &err), TDM_OK);
    assert_int_equal(names.count, 100);
    assert_string_equal(names.names[0], "f000");
    assert_string_equal(names.names[99], "f099");
    tdm_names_free(&names);
    test_scratch_free(dir);
}

static void a_path_that_is_too_long_is_refused(void **state)
{
    (void)state;
    char dir[TDM_PATH_BYTES + 10], out[TDM_PATH_BYTES];
    memset(dir, 'a', sizeof dir - 1);
    dir[sizeof dir - 1] = 0;
    tdm_error err = {0};
    assert_int_equal(tdm_fs_join(out, dir, "b", &err), TDM_ERR_OTHER);
    err = (tdm_error){0};
    assert_int_equal(tdm_fs_join(out, "a/", "b", &err), TDM_OK);
    assert_string_equal(out, "a/b");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_back_what_was_written),        cmocka_unit_test(a_missing_file_and_a_folder_are_named),
        cmocka_unit_test(a_failed_write_leaves_the_old_file), cmocka_unit_test(a_tree_is_made_listed_and_removed),
        cmocka_unit_test(a_folder_of_many_files_lists_all),   cmocka_unit_test(a_path_that_is_too_long_is_refused),
    };
    return cmocka_run_group_tests_name("fs", tests, NULL, NULL);
}
