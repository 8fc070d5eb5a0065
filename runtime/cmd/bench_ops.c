/* A table of operations that times each call of another table. */
#include "runtime/cmd/bench_ops.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPS_MOST = 256, NAME_MOST = 64, TRIALS = 64 };

typedef struct entry {
    char name[NAME_MOST];
    int64_t calls;
    double seconds, flops, bytes;
} entry;

/* One table at a time, as tables have no place for a context. */
static struct {
    const tdm_backend *real;
    tdm_backend table;
    double empty_s;
    entry entry[OPS_MOST];
    int count;
} ops;

static entry *find(const char *name)
{
    for (int i = 0; i < ops.count; i++)
        if (strcmp(ops.entry[i].name, name) == 0) return &ops.entry[i];
    TDM_ASSERT(ops.count < OPS_MOST);
    entry *e = &ops.entry[ops.count++];
    *e = (entry){0};
    snprintf(e->name, sizeof e->name, "%s", name);
    return e;
}

typedef struct timing {
    double start;
} timing;

static tdm_status begin(tdm_stream *s, timing *t, tdm_error *err)
{
    const tdm_status st = ops.real->stream_sync(s, err);
    t->start = tdm_now_s();
    return st;
}

static tdm_status end(tdm_stream *s, const timing *t, const char *name, double flops, double bytes, tdm_error *err)
{
    const tdm_status st = ops.real->stream_sync(s, err);
    const double took = tdm_now_s() - t->start - ops.empty_s;
    entry *e = find(name);
    e->calls++;
    e->seconds += took > 0.0 ? took : 0.0;
    e->flops += flops;
    e->bytes += bytes;
    return st;
}

/* Runs CALL of the real table as NAME, a text of this call. */
#define TIMED(name, flops, bytes, call)                                  \
    do {                                                                 \
        timing timing_;                                                  \
        tdm_status st_ = begin(s, &timing_, err);                        \
        if (st_ == TDM_OK) st_ = ops.real->call;                         \
        return st_ == TDM_OK ? end(s, &timing_, name, flops, bytes, err) : st_; \
    } while (0)

static double size(tdm_cview v) { return v.data ? (double)v.rows * (double)v.cols * (double)tdm_dtype_bytes(v.dtype) : 0.0; }
static double size_of(tdm_view v) { return size(tdm_view_const(v)); }
static double size_of_weight(const tdm_weight *w) { return size(w->codes) + size(w->scale) + size(w->bias); }

static tdm_status quantize_act(tdm_stream *s, const tdm_quantize_act *a, tdm_error *err)
{
    TIMED("quantize_act", 0.0, size(a->x) + size_of(a->codes), quantize_act(s, a, err));
}

static tdm_status linear(tdm_stream *s, const tdm_linear *a, tdm_error *err)
{
    char name[NAME_MOST];
    const tdm_cview w = a->w->codes;
    const double t = (double)a->x.rows, rank = (double)a->lora_a.rows;
    snprintf(name, sizeof name, "linear %" PRId64 "x%" PRId64 "%s", w.rows, w.cols, a->lora_a.data ? " + adapter" : "");
    TIMED(name, 2.0 * t * ((double)w.rows * (double)w.cols + rank * (double)(w.rows + w.cols)),
          size_of_weight(a->w) + size(a->x) + size(a->xq) + size_of(a->y) + size(a->lora_a) + size(a->lora_b), linear(s, a, err));
}

/* All under one name, that of the shapes they have together. */
static tdm_status linear_group(tdm_stream *s, const tdm_linear *list, int count, tdm_error *err)
{
    char name[NAME_MOST];
    double flops = 0.0, bytes = size(list->x) + size(list->xq);
    int64_t rows = 0;
    bool adapter = false;
    if (count == 1) return linear(s, list, err);
    for (int i = 0; i < count; i++) {
        const tdm_linear *a = &list[i];
        const tdm_cview w = a->w->codes;
        rows += w.rows;
        adapter = adapter || a->lora_a.data;
        flops += 2.0 * (double)a->x.rows * ((double)w.rows * (double)w.cols + (double)a->lora_a.rows * (double)(w.rows + w.cols));
        bytes += size_of_weight(a->w) + size_of(a->y) + size(a->lora_a) + size(a->lora_b);
    }
    snprintf(name, sizeof name, "%d linears %" PRId64 "x%" PRId64 "%s", count, rows, list->w->codes.cols, adapter ? " + adapter" : "");
    TIMED(name, flops, bytes, linear_group(s, list, count, err));
}

static tdm_status linear_backward(tdm_stream *s, const tdm_linear_backward *a, tdm_error *err)
{
    char name[NAME_MOST];
    const tdm_cview w = a->w->codes;
    const double t = (double)a->dy.rows, rank = (double)a->lora_a.rows, product = a->dx.data ? (double)w.rows * (double)w.cols : 0.0;
    snprintf(name, sizeof name, "linear_backward %" PRId64 "x%" PRId64 "%s", w.rows, w.cols, a->lora_a.data ? " + adapter" : "");
    TIMED(name, 2.0 * t * (product + 2.0 * rank * (double)(w.rows + w.cols)), size_of_weight(a->w) + size(a->dy) + size(a->x) + size_of(a->dx),
          linear_backward(s, a, err));
}

static tdm_status rms_norm(tdm_stream *s, tdm_view y, tdm_view rstd, tdm_cview x, tdm_cview w, float eps, const tdm_quantize_act *q, tdm_error *err)
{
    TIMED("rms_norm", 0.0, size(x) + size_of(y) + (q ? size_of(q->codes) : 0.0), rms_norm(s, y, rstd, x, w, eps, q, err));
}

static tdm_status rms_norm_backward(tdm_stream *s, tdm_view dx, tdm_cview dy, tdm_cview x, tdm_cview w, tdm_cview rstd, tdm_error *err)
{
    TIMED("rms_norm_backward", 0.0, 2.0 * size_of(dx) + size(dy) + size(x), rms_norm_backward(s, dx, dy, x, w, rstd, err));
}

static tdm_status rms_norm_add(tdm_stream *s, tdm_view y, tdm_view rstd, tdm_cview r, tdm_cview x, tdm_cview w, float eps, tdm_error *err)
{
    TIMED("rms_norm_add", 0.0, size(x) + size(r) + size_of(y), rms_norm_add(s, y, rstd, r, x, w, eps, err));
}

static tdm_status rms_norm_add_backward(tdm_stream *s, tdm_view dx, tdm_cview dy, tdm_cview x, tdm_cview w, tdm_cview rstd, tdm_error *err)
{
    TIMED("rms_norm_add_backward", 0.0, size_of(dx) + size(dy) + size(x), rms_norm_add_backward(s, dx, dy, x, w, rstd, err));
}

static tdm_status rope(tdm_stream *s, const tdm_rope *a, tdm_error *err)
{
    TIMED("rope", 0.0, 2.0 * size_of(a->x) + size_of(a->pre), rope(s, a, err));
}

static tdm_status rope_kv(tdm_stream *s, const tdm_rope_kv *a, tdm_error *err)
{
    TIMED("rope_kv", 0.0, 2.0 * (size_of(a->q.x) + size_of(a->k.x)) + size_of(a->q.pre) + size_of(a->k.pre) + size(a->write.k) + 2.0 * size(a->write.v),
          rope_kv(s, a, err));
}

static tdm_status rope_backward(tdm_stream *s, const tdm_rope_backward *a, tdm_error *err)
{
    TIMED("rope_backward", 0.0, 2.0 * size_of(a->dx) + size(a->pre), rope_backward(s, a, err));
}

static tdm_status kv_write(tdm_stream *s, const tdm_kv_write *a, tdm_error *err)
{
    TIMED("kv_write", 0.0, 2.0 * (size(a->k) + size(a->v)), kv_write(s, a, err));
}

static tdm_status kv_copy(tdm_stream *s, const tdm_kv_pages *kv, int64_t dst, int64_t src, tdm_error *err)
{
    TIMED("kv_copy", 0.0, 2.0 * (double)ops.real->kv_page_bytes(kv->dtype, kv->kv_heads, kv->head_dim), kv_copy(s, kv, dst, src, err));
}

static tdm_status attention(tdm_stream *s, const tdm_attention *a, tdm_error *err)
{
    TIMED(a->batch->q_most == 1 ? "attention of single rows" : "attention", 0.0, 0.0, attention(s, a, err));
}

static tdm_status attention_backward(tdm_stream *s, const tdm_attention_backward *a, tdm_error *err)
{
    TIMED("attention_backward", 0.0, 0.0, attention_backward(s, a, err));
}

static tdm_status swiglu(tdm_stream *s, tdm_glu act, tdm_view y, tdm_cview gate, tdm_cview up, const tdm_quantize_act *q, tdm_error *err)
{
    TIMED("swiglu", 0.0, size(gate) + size(up) + size_of(y) + (q ? size_of(q->codes) : 0.0), swiglu(s, act, y, gate, up, q, err));
}

static tdm_status swiglu_backward(tdm_stream *s, tdm_glu act, tdm_view dgate, tdm_view dup, tdm_cview dy, tdm_cview gate, tdm_cview up,
                                  tdm_error *err)
{
    TIMED("swiglu_backward", 0.0, size(dy) + size(gate) + size(up) + size_of(dgate) + size_of(dup), swiglu_backward(s, act, dgate, dup, dy, gate, up, err));
}

static tdm_status embed(tdm_stream *s, tdm_view y, const tdm_weight *table, const int32_t *id, float scale, tdm_error *err)
{
    TIMED("embed", 0.0, 1.5 * size_of(y), embed(s, y, table, id, scale, err));
}

static tdm_status gather_rows(tdm_stream *s, tdm_view y, tdm_cview x, const int32_t *row, tdm_error *err)
{
    TIMED("gather_rows", 0.0, 2.0 * size_of(y), gather_rows(s, y, x, row, err));
}

static tdm_status scatter_rows(tdm_stream *s, tdm_view y, tdm_cview x, const int32_t *row, tdm_error *err)
{
    TIMED("scatter_rows", 0.0, 2.0 * size(x), scatter_rows(s, y, x, row, err));
}

static tdm_status zero(tdm_stream *s, tdm_view y, tdm_error *err) { TIMED("zero", 0.0, size_of(y), zero(s, y, err)); }
static tdm_status convert(tdm_stream *s, tdm_view y, tdm_cview x, tdm_error *err) { TIMED("convert", 0.0, size_of(y) + size(x), convert(s, y, x, err)); }

static tdm_status dropout(tdm_stream *s, tdm_view y, tdm_cview x, float p, uint64_t seed, uint32_t site, const uint32_t *token, tdm_error *err)
{
    TIMED("dropout", 0.0, size_of(y) + size(x), dropout(s, y, x, p, seed, site, token, err));
}

static tdm_status dropout_backward(tdm_stream *s, tdm_view dx, tdm_cview dy, float p, uint64_t seed, uint32_t site, const uint32_t *token, tdm_error *err)
{
    TIMED("dropout_backward", 0.0, 2.0 * size_of(dx) + size(dy), dropout_backward(s, dx, dy, p, seed, site, token, err));
}

static tdm_status sample(tdm_stream *s, const tdm_sample *a, tdm_error *err) { TIMED("sample", 0.0, size_of(a->logits), sample(s, a, err)); }
static tdm_status logprob(tdm_stream *s, const tdm_logprob *a, tdm_error *err) { TIMED("logprob", 0.0, 2.0 * size_of(a->logits), logprob(s, a, err)); }

static tdm_status logprob_backward(tdm_stream *s, const tdm_logprob_backward *a, tdm_error *err)
{
    TIMED("logprob_backward", 0.0, size_of(a->dlogits) + size(a->p), logprob_backward(s, a, err));
}

static tdm_status adamw(tdm_stream *s, const tdm_adamw *a, tdm_error *err) { TIMED("adamw", 0.0, 30.0 * (double)a->n, adamw(s, a, err)); }
static tdm_status sgd(tdm_stream *s, const tdm_sgd *a, tdm_error *err) { TIMED("sgd", 0.0, 14.0 * (double)a->n, sgd(s, a, err)); }

static tdm_status sum_squares(tdm_stream *s, const float *x, int64_t n, double *out, tdm_error *err)
{
    TIMED("sum_squares", 0.0, 4.0 * (double)n, sum_squares(s, x, n, out, err));
}

static tdm_status upload(tdm_stream *s, void *dst, const void *src, size_t bytes, tdm_error *err)
{
    TIMED("upload", 0.0, (double)bytes, upload(s, dst, src, bytes, err));
}

static tdm_status download(tdm_stream *s, void *dst, const void *src, size_t bytes, tdm_error *err)
{
    TIMED("download", 0.0, (double)bytes, download(s, dst, src, bytes, err));
}

tdm_status tdm_bench_ops_open(const tdm_backend *real, tdm_stream *stream, void *word, const tdm_backend **table, tdm_error *err)
{
    tdm_status st = TDM_OK;
    ops.real = real;
    ops.table = *real;
    tdm_backend *t = &ops.table;
    t->capture_begin = NULL, t->capture_end = NULL, t->graph_launch = NULL, t->graph_close = NULL;
    t->quantize_act = quantize_act, t->linear = linear, t->linear_group = linear_group, t->linear_backward = linear_backward;
    t->rms_norm = rms_norm, t->rms_norm_backward = rms_norm_backward, t->rope = rope, t->rope_backward = rope_backward;
    t->rms_norm_add = rms_norm_add, t->rms_norm_add_backward = rms_norm_add_backward;
    t->rope_kv = rope_kv, t->kv_write = kv_write, t->kv_copy = kv_copy, t->attention = attention, t->attention_backward = attention_backward;
    t->swiglu = swiglu, t->swiglu_backward = swiglu_backward, t->embed = embed, t->gather_rows = gather_rows, t->scatter_rows = scatter_rows;
    t->zero = zero, t->convert = convert, t->dropout = dropout, t->dropout_backward = dropout_backward;
    t->sample = sample, t->logprob = logprob, t->logprob_backward = logprob_backward, t->adamw = adamw, t->sgd = sgd, t->sum_squares = sum_squares;
    if (real->device) t->upload = upload, t->download = download;
    const tdm_view view = tdm_view_make(word, TDM_DTYPE_F32, 1, 1);
    double least = 1.0;
    ops.empty_s = 0.0;
    for (int i = 0; i < TRIALS; i++) {
        timing one;
        TDM_TRY(st, begin(stream, &one, err), done);
        TDM_TRY(st, real->zero(stream, view, err), done);
        TDM_TRY(st, real->stream_sync(stream, err), done);
        const double took = tdm_now_s() - one.start;
        if (took < least) least = took;
    }
    ops.empty_s = least;
    tdm_bench_ops_reset();
    *table = t;
done:
    return st;
}

void tdm_bench_ops_reset(void) { ops.count = 0; }

static int slowest_first(const void *a, const void *b)
{
    const double x = ((const entry *)a)->seconds, y = ((const entry *)b)->seconds;
    return (x < y) - (x > y);
}

void tdm_bench_ops_print(double gflops, double gbps)
{
    double all = 0.0;
    qsort(ops.entry, (size_t)ops.count, sizeof *ops.entry, slowest_first);
    for (int i = 0; i < ops.count; i++) all += ops.entry[i].seconds;
    for (int i = 0; i < ops.count; i++) {
        const entry *e = &ops.entry[i];
        const double compute = e->flops / (1e9 * gflops), memory = e->bytes / (1e9 * gbps), ceiling = compute > memory ? compute : memory;
        printf("{\"op\":\"%s\",\"calls\":%.6g,\"ms\":%.5g,\"share\":%.4f", e->name, (double)e->calls, 1e3 * e->seconds, all > 0.0 ? e->seconds / all : 0.0);
        if (ceiling > 0.0) printf(",\"ceiling_ms\":%.5g,\"fraction\":%.4f", 1e3 * ceiling, e->seconds > 0.0 ? ceiling / e->seconds : 0.0);
        printf("}\n");
    }
    printf("{\"op\":\"all\",\"ms\":%.5g,\"empty_call_us\":%.4g}\n", 1e3 * all, 1e6 * ops.empty_s);
}
