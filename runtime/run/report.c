#include "runtime/run/report.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/run/report_data.h"

/* report/page.html, .css and .js, compiled in; each ends with a 0. */
extern const unsigned char tdm_report_page_html[], tdm_report_page_css[], tdm_report_page_js[];

enum { MAX_RECIPE_BYTES = 1 << 20, MAX_MEMORY_BYTES = 1 << 20 };

/* A file of the run folder, NULL when it is not there. */
static tdm_status read_optional(const char *run_dir, const char *name, size_t limit, char **text, size_t *bytes, tdm_error *err)
{
    char path[TDM_PATH_BYTES];
    *text = NULL;
    *bytes = 0;
    tdm_status st = tdm_fs_join(path, run_dir, name, err);
    if (st != TDM_OK || !tdm_fs_is_file(path)) return st;
    return tdm_fs_read(path, limit, text, bytes, err);
}

static tdm_status put_recipe(tdm_writer *t, const char *run_dir, tdm_error *err)
{
    char *text;
    size_t bytes;
    tdm_status st = read_optional(run_dir, "recipe.yaml", MAX_RECIPE_BYTES, &text, &bytes, err);
    if (st != TDM_OK) return st;
    if (text) tdm_writer_json(t, text, bytes);
    else tdm_writer_puts(t, "null");
    free(text);
    return TDM_OK;
}

/* A broken memory.json costs its picture, not the report. */
static tdm_status put_memory(tdm_writer *t, const char *run_dir, tdm_error *err)
{
    char *text;
    size_t bytes;
    tdm_status st = read_optional(run_dir, "memory.json", MAX_MEMORY_BYTES, &text, &bytes, err);
    if (st != TDM_OK) return st;
    json_t *o = text ? json_loadb(text, bytes, 0, NULL) : NULL;
    char *again = json_is_object(o) ? json_dumps(o, JSON_COMPACT) : NULL;
    tdm_writer_puts(t, again ? again : "null");
    free(again);
    json_decref(o);
    free(text);
    return TDM_OK;
}

/* The last `parts` parts of a path, all of it when it has fewer. */
static const char *tail_of(const char *path, int parts)
{
    const char *at = path + strlen(path);
    for (; at > path; at--)
        if (at[-1] == '/' && at[0] && --parts == 0) break;
    return at;
}

static bool names_differ(char *const *real, int64_t count, int parts)
{
    for (int64_t i = 0; i < count; i++)
        for (int64_t k = 0; k < i; k++)
            if (strcmp(tail_of(real[i], parts), tail_of(real[k], parts)) == 0) return false;
    return true;
}

/* The runs of a page: where they lie, and how many parts of their paths tell them apart. */
typedef struct page_runs {
    const char *const *dirs;
    int64_t count;
    char *real[TDM_REPORT_RUNS]; /* owned */
    int parts;
} page_runs;

static tdm_status open_runs(page_runs *p, const char *const *dirs, int64_t count, tdm_error *err)
{
    char path[TDM_PATH_BYTES];
    *p = (page_runs){.dirs = dirs, .count = count, .parts = 1};
    TDM_ASSERT(count >= 1 && count <= TDM_REPORT_RUNS);
    for (int64_t i = 0; i < count; i++) {
        if (!tdm_fs_is_dir(dirs[i])) return TDM_FAIL(err, TDM_ERR_INPUT, dirs[i], "give the folder that grpo_train wrote", "no run folder");
        tdm_status st = i ? tdm_fs_join(path, dirs[i], "metrics.jsonl", err) : TDM_OK;
        if (st != TDM_OK) return st;
        if (i && !tdm_fs_is_file(path)) /* the page of a first run may be about its memory alone; of the others only curves are shown */
            return TDM_FAIL(err, TDM_ERR_INPUT, dirs[i], "give the folder that grpo_train wrote", "no metrics.jsonl in the folder");
        if (!(p->real[i] = realpath(dirs[i], NULL))) return TDM_FAIL(err, TDM_ERR_INPUT, dirs[i], "is it readable?", "cannot open the folder: %s", strerror(errno));
        for (int64_t k = 0; k < i; k++)
            if (strcmp(p->real[k], p->real[i]) == 0) return TDM_FAIL(err, TDM_ERR_RECIPE, dirs[i], "give each run once", "the run is given twice");
    }
    while (!names_differ(p->real, count, p->parts)) p->parts++;
    return TDM_OK;
}

static void close_runs(page_runs *p)
{
    for (int64_t i = 0; i < p->count; i++) free(p->real[i]);
}

/* Members that every run of a page has. */
static tdm_status put_run(tdm_writer *t, const page_runs *p, int64_t i, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const char *name = tail_of(p->real[i], p->parts);
    tdm_writer_puts(t, "\"name\":");
    tdm_writer_json(t, name, strlen(name));
    tdm_writer_puts(t, ",");
    TDM_TRY(st, tdm_report_metrics(t, p->dirs[i], err), done);
    tdm_writer_puts(t, ",\"recipe\":");
    TDM_TRY(st, put_recipe(t, p->dirs[i], err), done);
done:
    return st;
}

static tdm_status put_data(tdm_writer *t, const page_runs *p, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char written[64] = "";
    time_t now = time(NULL);
    struct tm tm;
    if (localtime_r(&now, &tm)) strftime(written, sizeof written, "%Y-%m-%d %H:%M", &tm);
    tdm_writer_printf(t, "{\"written\":\"%s\",", written);
    TDM_TRY(st, put_run(t, p, 0, err), done);
    tdm_writer_puts(t, ",\"rollouts\":");
    TDM_TRY(st, tdm_report_rollouts(t, p->dirs[0], err), done);
    tdm_writer_puts(t, ",\"memory\":");
    TDM_TRY(st, put_memory(t, p->dirs[0], err), done);
    tdm_writer_puts(t, ",\"others\":[");
    for (int64_t i = 1; i < p->count; i++) {
        tdm_writer_puts(t, i > 1 ? ",{" : "{");
        TDM_TRY(st, put_run(t, p, i, err), done);
        tdm_writer_puts(t, "}");
    }
    tdm_writer_puts(t, "]}");
done:
    return st;
}

/* JSON into a <script> element: in JSON these three stand only inside strings, where the escape means the same. With no '<' left,
 * nothing in the data can end the element or open a comment. */
static void put_escaped(tdm_writer *t, const tdm_writer *json)
{
    size_t from = 0;
    for (size_t i = 0; i < json->len; i++) {
        char c = json->data[i];
        if (c != '<' && c != '>' && c != '&') continue;
        tdm_writer_put(t, json->data + from, i - from);
        tdm_writer_printf(t, "\\u%04x", (unsigned)c);
        from = i + 1;
    }
    tdm_writer_put(t, json->data + from, json->len - from);
}

/* The page with its three marks replaced. The marks are looked for in the page alone, never in what was put in. */
static void put_page(tdm_writer *t, const tdm_writer *json)
{
    const char *at = (const char *)tdm_report_page_html;
    static const char *const marks[] = {"@css@", "@data@", "@js@"};
    for (int i = 0; i < 3; i++) {
        const char *mark = strstr(at, marks[i]);
        TDM_ASSERT(mark != NULL);
        tdm_writer_put(t, at, (size_t)(mark - at));
        if (i == 0) tdm_writer_puts(t, (const char *)tdm_report_page_css);
        else if (i == 1) put_escaped(t, json);
        else tdm_writer_puts(t, (const char *)tdm_report_page_js);
        at = mark + strlen(marks[i]);
    }
    tdm_writer_puts(t, at);
}

tdm_status tdm_report_compare(const char *const *run_dirs, int64_t count, const char *path, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_writer json = {0}, page = {0}; /* owned here */
    page_runs runs;                    /* owned here */
    char inside[TDM_PATH_BYTES];
    TDM_TRY(st, open_runs(&runs, run_dirs, count, err), done);
    if (!path) {
        TDM_TRY(st, tdm_fs_join(inside, run_dirs[0], "report.html", err), done);
        path = inside;
    }
    TDM_TRY(st, put_data(&json, &runs, err), done);
    TDM_TRY(st, tdm_writer_check(&json, path, err), done);
    put_page(&page, &json);
    TDM_TRY(st, tdm_writer_check(&page, path, err), done);
    TDM_TRY(st, tdm_fs_write(path, page.data, page.len, err), done);
done:
    close_runs(&runs);
    tdm_writer_free(&json);
    tdm_writer_free(&page);
    return st;
}

tdm_status tdm_report_write(const char *run_dir, tdm_error *err) { return tdm_report_compare(&run_dir, 1, NULL, err); }

/* ---- memory.json ---- */

tdm_status tdm_report_memory_write(const char *run_dir, size_t budget_bytes, const tdm_report_region *regions, int64_t count, tdm_error *err)
{
    tdm_writer t = {0};
    char path[TDM_PATH_BYTES];
    const char *layout = NULL;
    tdm_writer_printf(&t, "{\"budget_bytes\":%zu,\"layouts\":[", budget_bytes);
    for (int64_t i = 0; i < count; i++) {
        const tdm_report_region *r = &regions[i];
        bool opens = !layout || strcmp(layout, r->layout) != 0;
        if (opens) {
            tdm_writer_puts(&t, layout ? "]},{\"name\":" : "{\"name\":");
            tdm_writer_json(&t, r->layout, strlen(r->layout));
            tdm_writer_puts(&t, ",\"regions\":[");
            layout = r->layout;
        }
        tdm_writer_puts(&t, opens ? "{\"name\":" : ",{\"name\":");
        tdm_writer_json(&t, r->name, strlen(r->name));
        tdm_writer_printf(&t, ",\"bytes\":%zu}", r->bytes);
    }
    tdm_writer_puts(&t, layout ? "]}]}\n" : "]}\n");
    tdm_status st = tdm_fs_join(path, run_dir, "memory.json", err);
    if (st == TDM_OK) st = tdm_writer_check(&t, path, err);
    if (st == TDM_OK) st = tdm_fs_write(path, t.data, t.len, err);
    tdm_writer_free(&t);
    return st;
}
