/* metrics.jsonl, a zero byte, a rollout file, a zero byte, memory.json: a page is written whatever they hold, its data is JSON, and no
 * '<' of theirs stands in it. */
#include "fuzz_files.h"
#include "runtime/run/report.h"
#include "runtime/run/report_data.h"

#include <jansson.h>

static void leave(void)
{
    static const char *const names[] = {"metrics.jsonl", "rollouts/step-000001.jsonl", "rollouts", "memory.json", "recipe.yaml", "report.html", ""};
    fuzz_folder_remove(names, 7);
}

static void check(const tdm_writer *t)
{
    json_t *o = json_loadb(t->data, t->len, JSON_ALLOW_NUL, NULL);
    if (t->failed || !o) abort();
    json_decref(o);
}

/* '<' in the page: those of the page itself, whatever the run's files hold. */
static int64_t marks_of_page(void)
{
    char path[256], *text = NULL;
    size_t bytes = 0;
    int64_t marks = 0;
    tdm_error err = {0};
    snprintf(path, sizeof path, "%s/report.html", fuzz_folder());
    if (tdm_report_write(fuzz_folder(), &err) != TDM_OK || tdm_fs_read(path, 1 << 28, &text, &bytes, &err) != TDM_OK) abort();
    for (size_t i = 0; i < bytes; i++) marks += text[i] == '<';
    free(text);
    return marks;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int64_t marks;
    fuzz_piece rest = {(const char *)data, size}, metrics = fuzz_next(&rest), rollouts = fuzz_next(&rest);
    tdm_error err = {0};
    tdm_writer t = {0};
    if (!marks) {
        char path[256];
        snprintf(path, sizeof path, "%s/rollouts", fuzz_folder());
        mkdir(path, 0700);
        atexit(leave);
        marks = marks_of_page();
    }
    fuzz_put("metrics.jsonl", metrics);
    fuzz_put("rollouts/step-000001.jsonl", rollouts);
    fuzz_put("memory.json", rest);
    fuzz_put("recipe.yaml", rest);
    tdm_writer_puts(&t, "{");
    if (tdm_report_metrics(&t, fuzz_folder(), &err) != TDM_OK) abort();
    tdm_writer_puts(&t, "}");
    check(&t);
    tdm_writer_clear(&t);
    if (tdm_report_rollouts(&t, fuzz_folder(), &err) != TDM_OK) abort();
    check(&t);
    tdm_writer_free(&t);
    if (marks_of_page() != marks) abort();
    return 0;
}
