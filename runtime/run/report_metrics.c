/* The curves' data: all steps, or groups of them when there are many. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/run/report_data.h"

enum { MAX_POINTS = 800 };

static double at(const tdm_metrics_table *m, int64_t row, int64_t col) { return m->values[row * m->cols + col]; }

typedef struct span {
    double mean, low, high; /* NaN: no value */
} span;

static span span_of(const tdm_metrics_table *m, int64_t col, int64_t first, int64_t end)
{
    span s = {NAN, NAN, NAN};
    double sum = 0;
    int64_t count = 0;
    for (int64_t r = first; r < end; r++) {
        double v = at(m, r, col);
        if (isnan(v)) continue;
        sum += v;
        s.low = count && s.low < v ? s.low : v;
        s.high = count && s.high > v ? s.high : v;
        count++;
    }
    if (count) s.mean = sum / (double)count;
    return s;
}

static void put_key(tdm_writer *t, bool first, const char *key)
{
    if (!first) tdm_writer_puts(t, ",");
    tdm_writer_json(t, key, strlen(key));
    tdm_writer_puts(t, ":");
}

/* which: 0 mean, 1 least, 2 greatest of each group. */
static void put_points(tdm_writer *t, const tdm_metrics_table *m, int64_t col, int64_t bucket, int which)
{
    tdm_writer_puts(t, "[");
    for (int64_t r = 0; r < m->rows; r += bucket) {
        span s = span_of(m, col, r, tdm_min_i64(r + bucket, m->rows));
        if (r) tdm_writer_puts(t, ",");
        tdm_report_number(t, which == 0 ? s.mean : which == 1 ? s.low : s.high);
    }
    tdm_writer_puts(t, "]");
}

static void put_series(tdm_writer *t, const tdm_metrics_table *m, int64_t bucket)
{
    tdm_writer_printf(t, "\"bucket\":%" PRId64 ",\"steps\":[", bucket);
    for (int64_t r = 0; r < m->rows; r += bucket) tdm_writer_printf(t, "%s%" PRId64, r ? "," : "", m->steps[r]);
    tdm_writer_puts(t, "],\"series\":{");
    for (int64_t c = 0; c < m->cols; c++) {
        put_key(t, c == 0, m->keys[c]);
        tdm_writer_puts(t, "{\"v\":");
        put_points(t, m, c, bucket, 0);
        if (bucket > 1) {
            tdm_writer_puts(t, ",\"lo\":");
            put_points(t, m, c, bucket, 1);
            tdm_writer_puts(t, ",\"hi\":");
            put_points(t, m, c, bucket, 2);
        }
        tdm_writer_puts(t, "}");
    }
    tdm_writer_puts(t, "}");
}

static void put_means(tdm_writer *t, const char *name, const tdm_metrics_table *m, int64_t first, int64_t end)
{
    tdm_writer_printf(t, ",\"%s\":{", name);
    for (int64_t c = 0; c < m->cols; c++) {
        put_key(t, c == 0, m->keys[c]);
        tdm_report_number(t, span_of(m, c, first, end).mean);
    }
    tdm_writer_puts(t, "}");
}

/* Over all steps, whatever the grouping: sums of tokens and seconds, the greatest of what must not be exceeded. */
static void put_totals(tdm_writer *t, const tdm_metrics_table *m)
{
    static const char *const sums[] = {"completion_tokens", "prompt_tokens", "step_s"}, *const tops[] = {"mismatch_max", "memory_peak_bytes"};
    bool first = true;
    tdm_writer_puts(t, ",\"totals\":{");
    for (int64_t c = 0; c < m->cols; c++) {
        span s = span_of(m, c, 0, m->rows);
        for (size_t i = 0; i < TDM_COUNT(sums); i++) {
            if (strcmp(m->keys[c], sums[i]) != 0) continue;
            double sum = 0;
            for (int64_t r = 0; r < m->rows; r++) sum += isnan(at(m, r, c)) ? 0 : at(m, r, c);
            put_key(t, first, sums[i]);
            tdm_report_number(t, sum);
            first = false;
        }
        for (size_t i = 0; i < TDM_COUNT(tops); i++) {
            if (strcmp(m->keys[c], tops[i]) != 0) continue;
            put_key(t, first, tops[i]);
            tdm_report_number(t, s.high);
            first = false;
        }
    }
    tdm_writer_puts(t, "}");
}

tdm_status tdm_report_metrics(tdm_writer *t, const char *run_dir, tdm_error *err)
{
    char path[TDM_PATH_BYTES];
    tdm_metrics_table m = {0};
    tdm_status st = tdm_fs_join(path, run_dir, "metrics.jsonl", err);
    if (st == TDM_OK) st = tdm_metrics_read(&m, path, err);
    if (st != TDM_OK) return st;
    int64_t tenth = tdm_max_i64(1, m.rows / 10), last = tdm_max_i64(0, m.rows - 1);
    put_series(t, &m, tdm_max_i64(1, tdm_ceil_div(m.rows, MAX_POINTS)));
    tdm_writer_printf(t, ",\"rows\":%" PRId64 ",\"skipped\":%" PRId64 ",\"first_step\":%" PRId64 ",\"last_step\":%" PRId64, m.rows, m.skipped,
                    m.rows ? m.steps[0] : 0, m.rows ? m.steps[last] : 0);
    put_means(t, "last", &m, last, m.rows);
    put_means(t, "start", &m, 0, tdm_min_i64(tenth, m.rows));
    put_means(t, "end", &m, tdm_max_i64(0, m.rows - tenth), m.rows);
    put_totals(t, &m);
    tdm_metrics_table_free(&m);
    return TDM_OK;
}
