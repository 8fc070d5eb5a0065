#include "runtime/run/report.h"

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

/* The run's name: the last part of its path. */
static void put_name(tdm_writer *t, const char *run_dir)
{
    char full[TDM_PATH_BYTES];
    char *real = realpath(run_dir, NULL);
    snprintf(full, sizeof full, "%s", real ? real : run_dir);
    free(real);
    const char *slash = strrchr(full, '/');
    const char *name = slash && slash[1] ? slash + 1 : full;
    tdm_writer_json(t, name, strlen(name));
}

static tdm_status put_data(tdm_writer *t, const char *run_dir, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char written[64] = "";
    time_t now = time(NULL);
    struct tm tm;
    if (localtime_r(&now, &tm)) strftime(written, sizeof written, "%Y-%m-%d %H:%M", &tm);
    tdm_writer_puts(t, "{\"name\":");
    put_name(t, run_dir);
    tdm_writer_printf(t, ",\"written\":\"%s\",", written);
    TDM_TRY(st, tdm_report_metrics(t, run_dir, err), done);
    tdm_writer_puts(t, ",\"rollouts\":");
    TDM_TRY(st, tdm_report_rollouts(t, run_dir, err), done);
    tdm_writer_puts(t, ",\"memory\":");
    TDM_TRY(st, put_memory(t, run_dir, err), done);
    tdm_writer_puts(t, ",\"recipe\":");
    TDM_TRY(st, put_recipe(t, run_dir, err), done);
    tdm_writer_puts(t, "}");
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

tdm_status tdm_report_write(const char *run_dir, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_writer json = {0}, page = {0}; /* owned here */
    char path[TDM_PATH_BYTES];
    if (!tdm_fs_is_dir(run_dir)) return TDM_FAIL(err, TDM_ERR_INPUT, run_dir, "name a run folder", "is not a folder");
    TDM_TRY(st, tdm_fs_join(path, run_dir, "report.html", err), done);
    TDM_TRY(st, put_data(&json, run_dir, err), done);
    TDM_TRY(st, tdm_writer_check(&json, path, err), done);
    put_page(&page, &json);
    TDM_TRY(st, tdm_writer_check(&page, path, err), done);
    TDM_TRY(st, tdm_fs_write(path, page.data, page.len, err), done);
done:
    tdm_writer_free(&json);
    tdm_writer_free(&page);
    return st;
}

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
