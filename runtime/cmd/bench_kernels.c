/* tandem bench kernels: each linear of a layer, the head and attention, at the batches of decode and of training, one JSON line each. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cmd/bench_internal.h"

enum { LARGEST = 512 };
static const int64_t batches[] = {1, 8, 64, LARGEST};

/* In the backend's memory, one block. */
typedef struct bench_buffers {
    void *block;
    size_t bytes;
    uint16_t *x, *dy;     /* [LARGEST, widest or V] bf16 */
    uint8_t *codes;
    float *scales, *y, *dx; /* [LARGEST, widest or V] */
} bench_buffers;

/* With base NULL only counts. */
static size_t lay(bench_buffers *u, int64_t wide, char *base)
{
    const size_t n = (size_t)(LARGEST * wide);
    size_t at = 0;
#define TAKE(field, count)                                                                                                           \
    do {                                                                                                                             \
        u->field = base ? (void *)(base + at) : NULL;                                                                                \
        at += tdm_align_up((count) * sizeof *u->field, 256);                                                                         \
    } while (0)
    TAKE(x, n);
    TAKE(dy, n);
    TAKE(codes, n);
    TAKE(scales, n / 64 + LARGEST);
    TAKE(y, n);
    TAKE(dx, n);
#undef TAKE
    return at;
}

static tdm_status open_buffers(tdm_bench *b, bench_buffers *u, int64_t wide, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_backend *be = b->session.be;
    const size_t n = (size_t)(LARGEST * wide);
    uint16_t *noise = malloc(n * sizeof *noise); /* owned here */
    u->bytes = lay(u, wide, NULL);
    if (!noise) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the buffers");
    for (size_t i = 0; i < n; i++) noise[i] = (uint16_t)(0x3f00 + (i * 2654435761u >> 24) % 128);
    TDM_TRY(st, be->memory_open(&u->block, u->bytes, err), done);
    lay(u, wide, u->block);
    TDM_TRY(st, be->upload(b->session.stream, u->x, noise, n * sizeof *noise, err), done);
    TDM_TRY(st, be->upload(b->session.stream, u->dy, noise, n * sizeof *noise, err), done);
    TDM_TRY(st, be->stream_sync(b->session.stream, err), done);
done:
    free(noise);
    return st;
}

typedef struct timed {
    tdm_bench *b;
    const char *op, *name;
    int64_t t, n, k;
    double flops, bytes;
} timed;

static void print(const timed *m, double s)
{
    const double ceiling = tdm_bench_ceiling_s(m->b, m->flops, m->bytes);
    printf("{\"op\":\"%s\",\"name\":\"%s\",\"T\":%" PRId64 ",\"N\":%" PRId64 ",\"K\":%" PRId64 ",\"us\":%.4g,\"bytes\":%.6g,\"flops\":%.6g,\"gbps\":%.4g,\"gflops\":%.5g,"
           "\"ceiling_gbps\":%.4g,\"ceiling_gflops\":%.5g,\"fraction\":%.3g}\n",
           m->op, m->name, m->t, m->n, m->k, 1e6 * s, m->bytes, m->flops, 1e-9 * m->bytes / s, 1e-9 * m->flops / s, m->b->gbps, m->b->gflops, ceiling / s);
}

typedef tdm_status call_fn(tdm_bench *b, const bench_buffers *u, const tdm_weight *w, int64_t t, tdm_error *err);

static tdm_view view(void *p, tdm_dtype d, int64_t rows, int64_t cols) { return tdm_view_make(p, d, rows, cols); }

static tdm_status call_linear(tdm_bench *b, const bench_buffers *u, const tdm_weight *w, int64_t t, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const int64_t n = w->codes.rows, k = w->codes.cols;
    const tdm_view x = view(u->x, TDM_DTYPE_BF16, t, k), codes = view(u->codes, TDM_DTYPE_E4M3, t, k);
    const bool tensor = w->scheme == TDM_SCHEME_FP8_TENSOR;
    const tdm_view scales = view(u->scales, TDM_DTYPE_F32, tensor ? 1 : t, w->scheme == TDM_SCHEME_FP8_BLOCK ? tdm_ceil_div(k, TDM_FP8_BLOCK) : 1);
    tdm_linear l = {.y = view(u->y, TDM_DTYPE_F32, t, n), .x = tdm_view_const(x), .w = w};
    if (w->act != TDM_ACT_NONE) {
        const tdm_quantize_act q = {.codes = codes, .scale = scales, .x = tdm_view_const(x), .scheme = w->scheme, .act = w->act, .input_scale = w->input_scale, .pow2 = w->pow2};
        TDM_TRY(st, b->session.be->quantize_act(b->session.stream, &q, err), done);
        l.xq = tdm_view_const(codes);
        if (w->act == TDM_ACT_DYNAMIC) l.xs = tdm_view_const(scales);
    }
    TDM_TRY(st, b->session.be->linear(b->session.stream, &l, err), done);
done:
    return st;
}

static tdm_status call_backward(tdm_bench *b, const bench_buffers *u, const tdm_weight *w, int64_t t, tdm_error *err)
{
    const tdm_linear_backward l = {.dx = view(u->dx, TDM_DTYPE_F32, t, w->codes.cols), .dy = tdm_view_const(view(u->dy, TDM_DTYPE_BF16, t, w->codes.rows)), .w = w};
    return b->session.be->linear_backward(b->session.stream, &l, err);
}

/* The best of repeats that together take a while: a kernel's speed, not the machine's mood. A device is given several calls before it
 * is waited for, so that its launches are not what is timed. */
static tdm_status best_of(tdm_bench *b, const bench_buffers *u, const tdm_weight *w, int64_t t, call_fn *call, double *best, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_backend *be = b->session.be;
    const int calls = be->device ? 20 : 1;
    double spent = 0.0;
    *best = 1e30;
    for (int r = 0; r < 50 && (r < 3 || spent < 0.2); r++) {
        const double start = tdm_now_s();
        for (int i = 0; i < calls; i++) TDM_TRY(st, call(b, u, w, t, err), done);
        TDM_TRY(st, be->stream_sync(b->session.stream, err), done);
        const double s = (tdm_now_s() - start) / calls;
        spent += s * calls;
        if (s < *best) *best = s;
    }
done:
    return st;
}

static tdm_status measure(tdm_bench *b, const bench_buffers *u, const char *name, const tdm_weight *w, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const int64_t n = w->codes.rows, k = w->codes.cols;
    const double weight_bytes = (double)n * (double)k * (double)tdm_dtype_bytes(w->codes.dtype);
    for (size_t i = 0; i < TDM_COUNT(batches); i++) {
        const int64_t t = batches[i];
        double s;
        timed m = {.b = b, .op = "linear", .name = name, .t = t, .n = n, .k = k, .flops = 2.0 * (double)t * (double)n * (double)k,
                   .bytes = weight_bytes + (double)t * (double)(2 * k + 4 * n)};
        TDM_TRY(st, best_of(b, u, w, t, call_linear, &s, err), done);
        print(&m, s);
        if (t < 64) continue;
        m.op = "linear_backward";
        TDM_TRY(st, best_of(b, u, w, t, call_backward, &s, err), done);
        print(&m, s);
    }
done:
    return st;
}

tdm_status tdm_bench_kernels(tdm_bench *b, tdm_session_spec *spec, tdm_error *err)
{
    tdm_status st = TDM_OK;
    bench_buffers u = {0};
    spec->train = spec->forward_only = true;
    spec->trainer = (tdm_trainer_spec){.micro_tokens = LARGEST, .sequences = 1, .context = 2, .head_rows = LARGEST};
    TDM_TRY(st, tdm_session_plan(&b->session, spec, err), done);
    TDM_TRY(st, tdm_session_load(&b->session, err), done);
    const tdm_model_config *c = b->session.config;
    const int64_t wide = tdm_max_i64(tdm_proj_widest(c), c->vocab);
    TDM_TRY(st, open_buffers(b, &u, wide, err), done);
    TDM_TRY(st, b->session.be->probe(b->session.stream, tdm_slab_at(&b->session.slab, &b->session.plan, b->session.item_weights),
                                     b->session.plan.item[b->session.item_weights].bytes, &b->gflops, &b->gbps, err), done);
    for (int p = 0; p < TDM_PROJ_COUNT; p++) {
        const char *path = tdm_proj_path(c, (tdm_proj)p);
        if (path) TDM_TRY(st, measure(b, &u, strchr(path, '.') + 1, tdm_layer_matrix(tdm_weights_layer(b->session.weights, 0), (tdm_proj)p, 0), err), done);
    }
    TDM_TRY(st, measure(b, &u, "lm_head", tdm_weights_head(b->session.weights), err), done);
done:
    if (u.block) b->session.be->memory_close(u.block, u.bytes);
    return st;
}
