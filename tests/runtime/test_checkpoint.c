/* Promise 6: a checkpoint is complete or absent, whichever write, sync or rename fails or is the last; damage is named.
 * labels: unit, fault */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/run/checkpoint.h"
#include "testing/scratch.h"

static const char *const files[] = {"adapter/adapter_model.safetensors", "adapter/adapter_config.json", "optimizer.safetensors",
                                    "state.json", "SHA256SUMS"};

/* A checkpoint whose every number follows from its step; 40 and its multiples hold a critic too. */
typedef struct sample {
    float a[6], m[6], v[6];
    tdm_st_entry adapter[1], optimizer[2];
    json_t *config;
    tdm_checkpoint_state state;
    tdm_checkpoint_parts parts;
} sample;

static void sample_init(sample *s, int64_t step)
{
    memset(s, 0, sizeof *s);
    for (int i = 0; i < 6; i++) {
        s->a[i] = (float)step + (float)i;
        s->m[i] = -s->a[i];
        s->v[i] = s->a[i] * s->a[i];
    }
    s->adapter[0] = (tdm_st_entry){"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", TDM_ST_F32, 2, {2, 3}, s->a};
    s->optimizer[0] = (tdm_st_entry){"layers.0.q_proj.A.m", TDM_ST_F32, 2, {2, 3}, s->m};
    s->optimizer[1] = (tdm_st_entry){"layers.0.q_proj.A.v", TDM_ST_F32, 2, {2, 3}, s->v};
    s->config = json_pack("{s:s, s:i}", "peft_type", "LORA", "r", 2);
    s->state = (tdm_checkpoint_state){.step = step, .data_position = step * 8, .seed = UINT64_MAX - 1, .base_hash = 0x123456789abcdef0};
    s->state.recipe = json_pack("{s:{s:f, s:i}, s:[{s:s}]}", "train", "lr", 1e-5, "steps", 100, "reward", "type", "number");
    s->state.counters = json_pack("{s:I}", "optimizer_steps", (json_int_t)step * 2);
    s->state.recipe_hash = tdm_checkpoint_recipe_hash(s->state.recipe);
    s->parts = (tdm_checkpoint_parts){.state = &s->state, .adapter = s->adapter, .adapter_count = 1, .adapter_config = s->config, .optimizer = s->optimizer,
                                       .optimizer_count = 2};
    if (step == 0 || step % 40) return;
    s->parts.critic = s->adapter;
    s->parts.critic_count = 1;
    s->parts.critic_config = s->config;
}

static void sample_fini(sample *s)
{
    json_decref(s->config);
    tdm_checkpoint_state_fini(&s->state);
}

static void write_ok(const char *dir, int64_t step, int64_t keep)
{
    sample s;
    tdm_error err = {0};
    sample_init(&s, step);
    tdm_status st = tdm_checkpoint_write(dir, &s.parts, keep, &err);
    if (st != TDM_OK) tdm_error_print(&err);
    assert_int_equal(st, TDM_OK);
    sample_fini(&s);
}

/* The checkpoint of this step opens, verifies, and holds what was put in. */
static void expect_whole(const char *dir, int64_t step)
{
    sample s;
    tdm_checkpoint c;
    tdm_error err = {0};
    char path[TDM_PATH_BYTES];
    sample_init(&s, step);
    assert_int_equal(tdm_checkpoint_path(path, dir, step, &err), TDM_OK);
    tdm_status st = tdm_checkpoint_open(&c, path, &err);
    if (st != TDM_OK) tdm_error_print(&err);
    assert_int_equal(st, TDM_OK);
    assert_int_equal(c.state.step, step);
    assert_int_equal(c.state.data_position, step * 8);
    assert_true(c.state.seed == s.state.seed);
    assert_true(c.state.base_hash == s.state.base_hash);
    assert_true(c.state.recipe_hash == s.state.recipe_hash);
    assert_true(json_equal(c.state.recipe, s.state.recipe));
    assert_true(json_equal(c.state.counters, s.state.counters));
    assert_int_equal(tdm_safetensors_count(c.optimizer), 2);
    assert_int_equal(tdm_fs_join(path, c.path, "critic/adapter_model.safetensors", &err), TDM_OK);
    assert_true(tdm_fs_is_file(path) == (s.parts.critic != NULL));
    const tdm_st_tensor *v = tdm_safetensors_find(c.optimizer, "layers.0.q_proj.A.v");
    assert_non_null(v);
    assert_int_equal(v->bytes, sizeof s.v);
    assert_memory_equal(v->data, s.v, sizeof s.v);
    tdm_checkpoint_close(&c);
    sample_fini(&s);
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), *deep = test_path(dir, "run/checkpoints");
    assert_int_equal(tdm_checkpoint_newest(deep), -1);
    write_ok(deep, 0, 0);
    write_ok(deep, 20, 0);
    write_ok(deep, 1234567, 0);
    assert_int_equal(tdm_checkpoint_newest(deep), 1234567);
    expect_whole(deep, 0);
    expect_whole(deep, 20);
    expect_whole(deep, 1234567);
    free(deep);
    test_scratch_free(dir);
}

static void the_newest_is_old_or_new_whichever_operation_fails(void **state)
{
    (void)state;
    for (int dead = 0; dead < 2; dead++) {
        int n = 0;
        for (;; n++) {
            char *dir = test_scratch_new();
            sample s;
            tdm_error err = {0};
            write_ok(dir, 20, 1);
            sample_init(&s, 40);
            tdm_fault_arm(TDM_FAULT_ANY, n, dead);
            tdm_status st = tdm_checkpoint_write(dir, &s.parts, 1, &err);
            int64_t fired = tdm_fault_disarm();
            int64_t newest = tdm_checkpoint_newest(dir);
            assert_true(newest == 20 || newest == 40);
            expect_whole(dir, newest);
            if (fired == 0) {
                assert_int_equal(st, TDM_OK);
                assert_int_equal(newest, 40);
            } else {
                assert_int_not_equal(st, TDM_OK);
                assert_string_not_equal(err.what, "");
                assert_string_not_equal(err.where, "");
                write_ok(dir, 60, 1); /* the next one succeeds over whatever was left */
                expect_whole(dir, 60);
            }
            tdm_names names; /* nothing is left over, and keep: 1 holds */
            assert_int_equal(tdm_fs_list(dir, &names, &err), TDM_OK);
            assert_int_equal(names.count, 1);
            tdm_names_free(&names);
            sample_fini(&s);
            test_scratch_free(dir);
            if (fired == 0) break;
        }
        assert_true(n >= 15); /* the loop met all writes, syncs and renames */
    }
}

static void a_step_that_is_there_is_never_missing_while_it_is_replaced(void **state)
{
    (void)state;
    for (int n = 0;; n++) {
        char *dir = test_scratch_new();
        sample s;
        tdm_error err = {0};
        write_ok(dir, 20, 0);
        sample_init(&s, 20);
        tdm_fault_arm(TDM_FAULT_ANY, n, true);
        tdm_status st = tdm_checkpoint_write(dir, &s.parts, 0, &err);
        int64_t fired = tdm_fault_disarm();
        expect_whole(dir, 20);
        if (fired == 0) assert_int_equal(st, TDM_OK);
        sample_fini(&s);
        test_scratch_free(dir);
        if (fired == 0) break;
    }
}

/* ---- what was durable when ---- */

enum { MAX_DIRTY = 64 };
typedef struct watch {
    char dirty[MAX_DIRTY][TDM_PATH_BYTES]; /* files and folders changed and not synced since */
    int count, renames;
    bool rename_was_clean, removed_while_dirty;
} watch;

static void mark(watch *w, const char *path)
{
    for (int i = 0; i < w->count; i++)
        if (strcmp(w->dirty[i], path) == 0) return;
    assert_true(w->count < MAX_DIRTY);
    snprintf(w->dirty[w->count++], TDM_PATH_BYTES, "%s", path);
}

static void clean(watch *w, const char *path)
{
    for (int i = 0; i < w->count; i++)
        if (strcmp(w->dirty[i], path) == 0) memcpy(w->dirty[i], w->dirty[--w->count], TDM_PATH_BYTES);
}

static void mark_parent(watch *w, const char *path)
{
    char dir[TDM_PATH_BYTES];
    snprintf(dir, sizeof dir, "%s", path);
    for (size_t n = strlen(dir); n > 1 && dir[n - 1] == '/'; n--) dir[n - 1] = 0;
    *strrchr(dir, '/') = 0;
    mark(w, dir);
}

static void on_event(void *user, tdm_fs_event event, const char *path, const char *to)
{
    watch *w = user;
    switch (event) {
    case TDM_FS_WRITE: mark(w, path), mark_parent(w, path); break;
    case TDM_FS_MKDIR: mark_parent(w, path); break;
    case TDM_FS_SYNC:
    case TDM_FS_SYNC_DIR: clean(w, path); break;
    case TDM_FS_RENAME:
        if (!strstr(to, ".old")) { /* the checkpoint takes its name: everything below it must be on the disk */
            size_t n = strlen(path);
            w->renames++;
            w->rename_was_clean = true;
            for (int i = 0; i < w->count; i++)
                if (strncmp(w->dirty[i], path, n) == 0 && (w->dirty[i][n] == '/' || w->dirty[i][n] == 0)) w->rename_was_clean = false;
        }
        mark_parent(w, to);
        break;
    case TDM_FS_REMOVE:
        if (w->renames > 0 && strstr(path, "step-000020") && w->count > 1) w->removed_while_dirty = true; /* 1: the prune's own rename */
        break;
    }
}

static void everything_is_synced_before_the_name_and_the_name_before_pruning(void **state)
{
    (void)state;
    char *dir = test_scratch_new();
    static watch w;
    sample s;
    tdm_error err = {0};
    write_ok(dir, 20, 1);
    memset(&w, 0, sizeof w);
    sample_init(&s, 40);
    tdm_fs_observe(on_event, &w);
    tdm_status st = tdm_checkpoint_write(dir, &s.parts, 1, &err);
    tdm_fs_observe(NULL, NULL);
    assert_int_equal(st, TDM_OK);
    assert_int_equal(w.renames, 1);
    assert_true(w.rename_was_clean);
    assert_false(w.removed_while_dirty);
    sample_fini(&s);
    test_scratch_free(dir);
}

static void expect_best(const char *dir, const char *step)
{
    char path[TDM_PATH_BYTES], to[64] = {0};
    snprintf(path, sizeof path, "%s/best", dir);
    const ssize_t n = readlink(path, to, sizeof to - 1);
    if (step ? n < 0 || strcmp(to, step) != 0 : n >= 0) fail_msg("best leads to %s, should to %s", n < 0 ? "nothing" : to, step ? step : "nothing");
}

static void write_best(const char *dir, int64_t step, int64_t best)
{
    sample s;
    tdm_error err = {0};
    sample_init(&s, step);
    s.parts.best = best;
    assert_int_equal(tdm_checkpoint_write(dir, &s.parts, 1, &err), TDM_OK);
    sample_fini(&s);
}

static void the_best_one_stays_and_is_linked(void **state)
{
    (void)state;
    char *dir = test_scratch_new(), path[TDM_PATH_BYTES];
    tdm_error err = {0};
    write_best(dir, 10, 10);
    write_best(dir, 20, 10);
    write_best(dir, 30, 10);
    expect_best(dir, "step-000010");
    expect_whole(dir, 10);
    expect_whole(dir, 30);
    assert_int_equal(tdm_checkpoint_path(path, dir, 20, &err), TDM_OK);
    assert_false(tdm_fs_is_dir(path));
    write_best(dir, 40, 40);
    expect_best(dir, "step-000040");
    assert_int_equal(tdm_checkpoint_path(path, dir, 10, &err), TDM_OK);
    assert_false(tdm_fs_is_dir(path));
    assert_int_equal(tdm_checkpoint_newest(dir), 40);
    assert_int_equal(tdm_checkpoint_link_best(dir, 10, &err), TDM_OK); /* not there */
    expect_best(dir, NULL);
    test_scratch_free(dir);
}

static void best_leads_to_a_whole_one_whichever_operation_is_the_last(void **state)
{
    (void)state;
    int64_t fired = 1;
    for (int n = 0; fired; n++) {
        char *dir = test_scratch_new(), path[TDM_PATH_BYTES], to[64] = {0};
        sample s;
        tdm_error err = {0};
        write_best(dir, 10, 10);
        write_best(dir, 20, 10);
        sample_init(&s, 30);
        s.parts.best = 30;
        tdm_fault_arm(TDM_FAULT_ANY, n, true);
        const tdm_status st = tdm_checkpoint_write(dir, &s.parts, 1, &err);
        fired = tdm_fault_disarm();
        assert_int_equal(st == TDM_OK, fired == 0);
        snprintf(path, sizeof path, "%s/best", dir);
        assert_true(readlink(path, to, sizeof to - 1) > 0);
        assert_true(strcmp(to, "step-000010") == 0 || strcmp(to, "step-000030") == 0);
        expect_whole(dir, strcmp(to, "step-000010") == 0 ? 10 : 30);
        sample_fini(&s);
        test_scratch_free(dir);
    }
}

/* ---- damage ---- */

static void a_flipped_bit_in_any_file_is_named(void **state)
{
    (void)state;
    char *dir = test_scratch_new();
    char path[TDM_PATH_BYTES];
    tdm_error err = {0};
    write_ok(dir, 20, 0);
    assert_int_equal(tdm_checkpoint_path(path, dir, 20, &err), TDM_OK);
    for (size_t f = 0; f < TDM_COUNT(files); f++) {
        char *file = test_path(path, files[f]);
        unsigned long bytes;
        char *text = test_file_get(file, &bytes);
        for (unsigned long at = 0; at < bytes; at += 1 + bytes / 97) {
            for (int bit = 0; bit < 8; bit += 3) {
                tdm_checkpoint c;
                tdm_error e = {0};
                FILE *h = fopen(file, "r+b");
                assert_non_null(h);
                fseek(h, (long)at, SEEK_SET);
                fputc((unsigned char)text[at] ^ (1 << bit), h);
                fclose(h);
                assert_int_equal(tdm_checkpoint_open(&c, path, &e), TDM_ERR_INPUT);
                if (f + 1 < TDM_COUNT(files)) assert_string_equal(e.where, file); /* a flip in the sums may point at a file */
                assert_string_not_equal(e.hint, "");
                h = fopen(file, "r+b");
                fseek(h, (long)at, SEEK_SET);
                fputc((unsigned char)text[at], h);
                fclose(h);
            }
        }
        /* cut short, and gone */
        tdm_checkpoint c;
        tdm_error e = {0};
        assert_int_equal(truncate(file, (long)bytes - 1), 0);
        assert_int_equal(tdm_checkpoint_open(&c, path, &e), TDM_ERR_INPUT);
        e = (tdm_error){0};
        assert_int_equal(remove(file), 0);
        assert_int_equal(tdm_checkpoint_open(&c, path, &e), TDM_ERR_INPUT);
        assert_string_equal(e.where, file);
        FILE *h = fopen(file, "wb");
        assert_int_equal(fwrite(text, 1, bytes, h), bytes);
        fclose(h);
        free(text);
        free(file);
    }
    expect_whole(dir, 20);
    test_scratch_free(dir);
}

static void sha256sum_agrees(void **state)
{
    (void)state;
    char *dir = test_scratch_new();
    char path[TDM_PATH_BYTES], command[TDM_PATH_BYTES + 80];
    tdm_error err = {0};
    if (system("command -v sha256sum >/dev/null 2>&1") != 0) {
        test_scratch_free(dir);
        skip();
    }
    write_ok(dir, 7, 0);
    assert_int_equal(tdm_checkpoint_path(path, dir, 7, &err), TDM_OK);
    snprintf(command, sizeof command, "cd '%s' && sha256sum --quiet --strict -c SHA256SUMS", path);
    assert_int_equal(system(command), 0);
    test_scratch_free(dir);
}

static void only_the_kept_ones_stay_and_strangers_are_left_alone(void **state)
{
    (void)state;
    char *dir = test_scratch_new();
    char *odd[] = {test_path(dir, "step-20"), test_path(dir, "notes"), test_path(dir, "step-000010")}; /* the last: no manifest */
    tdm_error err = {0};
    for (size_t i = 0; i < TDM_COUNT(odd); i++) assert_int_equal(tdm_fs_mkdirs(odd[i], &err), TDM_OK);
    for (int64_t step = 20; step <= 120; step += 20) write_ok(dir, step, 3);
    assert_int_equal(tdm_checkpoint_newest(dir), 120);
    tdm_names names;
    assert_int_equal(tdm_fs_list(dir, &names, &err), TDM_OK);
    assert_int_equal(names.count, 3 + 3);
    tdm_names_free(&names);
    expect_whole(dir, 80);

    write_ok(dir, 90, 1); /* a run that went back: the new one stays, later ones are not its business */
    expect_whole(dir, 90);
    expect_whole(dir, 120);
    assert_int_equal(tdm_checkpoint_set_aside(dir, 90, &err), TDM_OK);
    assert_int_equal(tdm_checkpoint_newest(dir), 90);
    assert_int_equal(tdm_checkpoint_set_aside(dir, 90, &err), TDM_OK);
    for (size_t i = 0; i < TDM_COUNT(odd); i++) {
        assert_true(tdm_fs_is_dir(odd[i]));
        free(odd[i]);
    }
    test_scratch_free(dir);
}

/* ---- state.json ---- */

static void a_broken_state_is_refused_by_its_key(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *what;
    } cases[] = {
        {"\"format\": 1", "\"format\": 2", "format is 2"},
        {"\"step\": 20", "\"step\": -1", "\"step\""},
        {"\"step\": 20", "\"step\": 1.5", "\"step\""},
        {"\"step\": 20", "\"stop\": 20", "\"step\""},
        {"\"seed\": \"f", "\"seed\": \"g", "\"seed\""},
        {"\"optimizer_steps\": 40", "\"optimizer_steps\": null", "optimizer_steps"},
        {"\"number\"", "\"length\"", "recipe_hash"},
        {"{", "[", "JSON"},
        {"\"step\": 20", "\"step\": 20, \"step\": 21", "JSON"},
    };
    sample s;
    sample_init(&s, 20);
    char *text = tdm_checkpoint_state_format(&s.state);
    assert_non_null(text);
    for (size_t i = 0; i < TDM_COUNT(cases); i++) {
        char changed[4096];
        const char *at = strstr(text, cases[i].from);
        assert_non_null(at);
        snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, cases[i].to, at + strlen(cases[i].from));
        tdm_checkpoint_state back;
        tdm_error err = {0};
        assert_int_equal(tdm_checkpoint_state_parse(&back, changed, strlen(changed), "state.json", &err), TDM_ERR_INPUT);
        assert_non_null(strstr(err.what, cases[i].what));
        assert_null(back.recipe);
    }
    free(text);
    sample_fini(&s);
}

static void a_recipes_hash_is_of_its_meaning(void **state)
{
    (void)state;
    json_t *a = json_loads("{\"x\":1,\"y\":[\"ab\",\"c\"]}", 0, NULL), *b = json_loads("{\"y\":[\"ab\",\"c\"],\"x\":1.0}", 0, NULL);
    json_t *c = json_loads("{\"x\":1,\"y\":[\"a\",\"bc\"]}", 0, NULL);
    assert_true(tdm_checkpoint_recipe_hash(a) == tdm_checkpoint_recipe_hash(b));
    assert_true(tdm_checkpoint_recipe_hash(a) != tdm_checkpoint_recipe_hash(c));
    json_decref(a), json_decref(b), json_decref(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(the_newest_is_old_or_new_whichever_operation_fails),
        cmocka_unit_test(a_step_that_is_there_is_never_missing_while_it_is_replaced),
        cmocka_unit_test(everything_is_synced_before_the_name_and_the_name_before_pruning),
        cmocka_unit_test(the_best_one_stays_and_is_linked),
        cmocka_unit_test(best_leads_to_a_whole_one_whichever_operation_is_the_last),
        cmocka_unit_test(a_flipped_bit_in_any_file_is_named),
        cmocka_unit_test(sha256sum_agrees),
        cmocka_unit_test(only_the_kept_ones_stay_and_strangers_are_left_alone),
        cmocka_unit_test(a_broken_state_is_refused_by_its_key),
        cmocka_unit_test(a_recipes_hash_is_of_its_meaning),
    };
    return cmocka_run_group_tests_name("checkpoint", tests, NULL, NULL);
}
