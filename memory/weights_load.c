/* The pieces are cut into bands of rows and these gathered into batches, in the region's order: all threads make the units of a batch,
 * then the pages of the file it came from are dropped. Where the region is a device's, a batch is made in one half of a pinned stage
 * while the other half is on its way. */
#include "memory/weights_load.h"
#include "memory/weights_unit.h"

#include "kernels/parallel.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    ALIGN = 64,
    BATCH = 16 << 20, /* bytes of the file in a batch, and bytes of the region */
    SCALES = 2 << 20, /* bytes of scales in a batch */
    BAND = 256 << 10, /* bytes of the file in a band, and bytes of the region: 100 us or so of work */
    UNITS = 1024,     /* of a batch, or more where one band has more */
};

/* Bytes that lie together in the region and, where there is one, in the stage. */
typedef struct run {
    size_t at;
    unsigned char *from;
    size_t bytes;
} run;

/* Part of a half of the stage, filled from its beginning: codes and vectors in one, scales in another, so that either are few runs. */
typedef struct shelf {
    unsigned char *base;
    size_t bytes, used;
    run *runs; /* owned; [units_most] */
    int64_t count;
} shelf;

/* Rows of a tensor that a batch reads. */
typedef struct part {
    const tdm_tensor *t;
    int64_t row, rows;
} part;

typedef struct loader {
    const tdm_weights_plan *plan;
    const tdm_region *region;
    tdm_error *err;
    int threads;
    tdm_piece *pieces; /* owned; in the order of the region, vectors last */
    int64_t piece_count;
    float *buffer; /* owned; [threads, buffer_floats] */
    int64_t buffer_floats;
    bool staged; /* the region is a device's */
    void *stage; /* owned; pinned; two halves */
    size_t half_bytes;
    int half; /* the one that is being filled */
    int64_t units_most;
    tdm_unit *units; /* owned; [units_most]; of the batch, as what follows */
    part *parts;     /* owned; [units_most] */
    shelf codes, scales;
    int64_t unit_count, part_count;
    size_t source_bytes, bytes;
} loader;

/* ---- What there is to do ----------------------------------------------------------------------------------------------------- */

static void add_piece(loader *l, tdm_piece p)
{
    if (p.t) l->pieces[l->piece_count++] = p;
}

static void list_matrix(loader *l, const tdm_matrix_plan *m)
{
    tdm_weight *w = m->w;
    const tdm_piece_kind kind = m->stored != TDM_SCHEME_BF16   ? TDM_PIECE_CODES
                                : w->scheme != TDM_SCHEME_BF16 ? TDM_PIECE_QUANTIZE
                                                               : TDM_PIECE_BF16;
    add_piece(l, (tdm_piece){.kind = kind,
                             .t = m->weight,
                             .w = w,
                             .rows = w->codes.rows,
                             .cols = w->codes.cols,
                             .at = m->codes_at,
                             .scale_at = m->scale_at,
                             .pow2 = l->plan->options->pow2_weights});
    add_piece(l, (tdm_piece){
                     .kind = TDM_PIECE_SCALES, .t = m->scale, .w = w, .rows = 1, .cols = w->scale.rows * w->scale.cols, .at = m->scale_at});
    add_piece(l, (tdm_piece){.kind = TDM_PIECE_INPUT_SCALE, .t = m->input_scale, .w = w, .field = &w->input_scale, .rows = 1, .cols = 1});
    add_piece(l, (tdm_piece){.kind = TDM_PIECE_BF16, .t = m->bias, .w = w, .rows = 1, .cols = w->bias.cols, .at = m->bias_at});
}

static void list_pieces(loader *l)
{
    const tdm_weights_plan *p = l->plan;
    for (int64_t i = 0; i < p->matrix_count; i++) list_matrix(l, &p->matrices[i]);
    for (int64_t i = 0; i < 2 * p->w->config.layers; i++) {
        tdm_layer_weights *layer = &p->w->layers[i / 2];
        add_piece(l, (tdm_piece){.kind = TDM_PIECE_INPUT_SCALE, .t = p->kv_scale[i], .field = i % 2 ? &layer->v_scale : &layer->k_scale, .rows = 1, .cols = 1});
    }
    for (int64_t i = 0; i < p->vector_count; i++) {
        const tdm_vector_plan *v = &p->vectors[i];
        const tdm_piece_kind kind = v->v->dtype == TDM_DTYPE_F32 ? TDM_PIECE_F32 : TDM_PIECE_BF16;
        add_piece(l, (tdm_piece){.kind = kind, .t = v->t, .rows = 1, .cols = v->v->cols, .at = v->at, .one = v->one});
    }
}

/* ---- Sizes ------------------------------------------------------------------------------------------------------------------- */

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

/* Biases are rows too. */
static size_t longest_row(const tdm_model_config *c) { return (size_t)tdm_proj_widest(c); }

/* The smallest band of a piece must fit: 128 rows of codes, a row of BF16, the scales of an FP8 file by row or by block. */
static size_t codes_bytes(size_t longest)
{
    const size_t blocks = longest / TDM_FP8_BLOCK + 1;
    return most(BATCH, most(longest * TDM_FP8_BLOCK, blocks * blocks * sizeof(float)) + ALIGN);
}

static size_t half_bytes(size_t longest) { return tdm_align_up(codes_bytes(longest), ALIGN) + SCALES + tdm_align_up(longest, ALIGN); }

static size_t units_most(size_t longest) { return most(UNITS, longest / TDM_FP8_BLOCK + 1); }
static size_t table_bytes(size_t longest) { return units_most(longest) * (sizeof(tdm_unit) + sizeof(part) + 2 * sizeof(run)); }

size_t tdm_weights_loading_bytes(const tdm_model_config *c, int threads, bool device)
{
    const size_t longest = longest_row(c),
                 buffers = (size_t)tdm_threads(threads) * (size_t)tdm_unit_floats((int64_t)longest) * sizeof(float);
    return buffers + table_bytes(longest) + BATCH + (device ? 2 * half_bytes(longest) : 0); /* BATCH: pages of the file */
}

/* Rows of a band, but for a piece's last. */
static int64_t band_rows(const tdm_piece *p)
{
    const size_t row = most(tdm_piece_source_bytes(p), tdm_piece_row_bytes(p));
    if (tdm_piece_grain(p) > 1) return tdm_piece_grain(p); /* its columns are cut instead */
    return tdm_max_i64(1, (int64_t)(BAND / most(row, 1)));
}

/* ---- A batch ----------------------------------------------------------------------------------------------------------------- */

static void start_batch(loader *l)
{
    unsigned char *base = l->staged ? (unsigned char *)l->stage + (size_t)l->half * l->half_bytes : NULL;
    const size_t codes = tdm_align_up(codes_bytes(longest_row(&l->plan->w->config)), ALIGN);
    l->codes = (shelf){.base = base, .bytes = codes, .runs = l->codes.runs};
    l->scales = (shelf){.base = base ? base + codes : NULL, .bytes = l->half_bytes - codes, .runs = l->scales.runs};
    l->unit_count = l->part_count = 0;
    l->source_bytes = l->bytes = 0;
}

/* Where the host writes the `bytes` that shall lie at `at`: there, or on the shelf, behind what lies before them in the region if that is
 * where the shelf ends. The piece's last bytes are followed by zeros up to a multiple of 64, for the hash covers the gaps too. */
static unsigned char *place(loader *l, shelf *s, size_t at, size_t bytes, bool last)
{
    const size_t whole = last ? tdm_align_up(at + bytes, ALIGN) - at : bytes;
    unsigned char *to = (unsigned char *)l->region->base + at;
    if (l->staged) {
        run *r = s->count > 0 ? &s->runs[s->count - 1] : NULL;
        if (!r || r->at + r->bytes != at) {
            s->used = tdm_align_up(s->used, ALIGN);
            r = &s->runs[s->count++];
            *r = (run){.at = at, .from = s->base + s->used};
        }
        to = r->from + r->bytes;
        r->bytes += whole;
        s->used += whole;
        TDM_ASSERT(s->used <= s->bytes);
    }
    memset(to + bytes, 0, whole - bytes);
    return to;
}

static bool fits(const loader *l, const tdm_piece *p, int64_t rows, int64_t across)
{
    const size_t codes = (size_t)rows * tdm_piece_row_bytes(p) + 2 * ALIGN,
                 scales = (size_t)tdm_piece_scales(p, rows) * sizeof(float) + 2 * ALIGN;
    if (l->part_count == 0) return true;
    if (l->unit_count + across > l->units_most || l->source_bytes + (size_t)rows * tdm_piece_source_bytes(p) > BATCH) return false;
    if (!l->staged) return l->bytes + codes <= BATCH;
    return l->codes.used + codes <= l->codes.bytes && l->scales.used + scales <= l->scales.bytes;
}

static void add_part(loader *l, const tdm_tensor *t, int64_t row, int64_t rows)
{
    part *before = l->part_count > 0 ? &l->parts[l->part_count - 1] : NULL;
    if (before && before->t == t && before->row + before->rows == row) before->rows += rows;
    else l->parts[l->part_count++] = (part){t, row, rows};
}

static float *place_scales(loader *l, const tdm_piece *p, int64_t row, int64_t rows)
{
    const int64_t first = tdm_piece_scales(p, row), count = tdm_piece_scales(p, row + rows) - first;
    if (count == 0) return NULL;
    float *scale = (float *)(void *)place(l, &l->scales, p->scale_at + (size_t)first * sizeof(float), (size_t)count * sizeof(float),
                                          row + rows == p->rows || p->w->scheme == TDM_SCHEME_FP8_TENSOR);
    if (p->w->scheme == TDM_SCHEME_FP8_TENSOR) *scale = tdm_fp8_scale(p->amax, p->pow2);
    return scale;
}

/* Rows [row, row + rows) of a piece, as one unit or several side by side: only codes are cut so, whose columns are bytes. */
static void add_band(loader *l, const tdm_piece *p, int64_t row, int64_t rows)
{
    const size_t row_bytes = tdm_piece_row_bytes(p), bytes = (size_t)rows * row_bytes;
    const int64_t wide = tdm_piece_unit_cols(p);
    unsigned char *out = p->kind == TDM_PIECE_INPUT_SCALE
                             ? (unsigned char *)p->field
                             : place(l, &l->codes, p->at + (size_t)row * row_bytes, bytes, row + rows == p->rows);
    float *scale = place_scales(l, p, row, rows);
    for (int64_t c = 0; c < p->cols; c += wide)
        l->units[l->unit_count++] = (tdm_unit){.p = p,
                                               .row = row,
                                               .rows = rows,
                                               .col = c,
                                               .cols = tdm_min_i64(wide, p->cols - c),
                                               .out = out + c,
                                               .scale = scale ? scale + c / TDM_FP8_BLOCK : NULL};
    add_part(l, p->t, row, rows);
    l->source_bytes += (size_t)rows * tdm_piece_source_bytes(p);
    l->bytes += bytes;
}

typedef struct batch_job {
    const loader *l;
    atomic_llong bad; /* the first unit that could not be made */
} batch_job;

static float *buffer_of(const loader *l, int thread) { return l->buffer + thread * l->buffer_floats; }

static void make_units(void *ctx, int64_t first, int64_t last, int thread)
{
    batch_job *job = ctx;
    for (int64_t i = first; i < last; i++) {
        if (tdm_unit_make(&job->l->units[i], buffer_of(job->l, thread))) continue;
        long long before = atomic_load_explicit(&job->bad, memory_order_relaxed);
        while (i < before && !atomic_compare_exchange_weak_explicit(&job->bad, &before, i, memory_order_relaxed, memory_order_relaxed))
            continue;
    }
}

static tdm_status send(const loader *l, const shelf *s)
{
    tdm_status st = TDM_OK;
    for (int64_t i = 0; i < s->count; i++) {
        const run *r = &s->runs[i];
        TDM_TRY(st, l->region->be->upload(l->region->s, (unsigned char *)l->region->base + r->at, r->from, r->bytes, l->err), done);
    }
done:
    return st;
}

/* Makes what was gathered and sends it off. */
static tdm_status finish_batch(loader *l)
{
    tdm_status st = TDM_OK;
    batch_job job = {.l = l};
    atomic_init(&job.bad, l->unit_count);
    tdm_parallel(l->threads, l->unit_count, 1, make_units, &job);
    for (int64_t i = 0; i < l->part_count; i++) tdm_tensor_drop(l->parts[i].t, l->parts[i].row, l->parts[i].rows);
    const long long bad = atomic_load(&job.bad);
    if (bad < l->unit_count) return tdm_unit_explain(&l->units[bad], l->buffer, l->err);
    if (l->staged) {
        TDM_TRY(st, l->region->be->stream_sync(l->region->s, l->err), done); /* the other half has arrived */
        TDM_TRY(st, send(l, &l->codes), done);
        TDM_TRY(st, send(l, &l->scales), done);
        l->half ^= 1;
    }
    start_batch(l);
done:
    return st;
}

/* ---- Whole matrices ---------------------------------------------------------------------------------------------------------- */

typedef struct rows_job {
    const loader *l;
    const tdm_piece *p;
    const tdm_tensor *other; /* of the comparison */
    int64_t row, rows, step; /* row + i * step is where item i begins */
    atomic_uint amax;        /* bits of the largest magnitude */
    atomic_bool differs;
} rows_job;

/* Runs fn over a piece's rows, a batch's worth at a time, and drops what was read. */
static void over_rows(rows_job *job, tdm_parallel_fn *fn)
{
    const int64_t all = job->p->rows, source = (int64_t)most(tdm_piece_source_bytes(job->p), 1), batch = tdm_max_i64(1, BATCH / source);
    job->step = tdm_max_i64(1, BAND / source);
    for (job->row = 0; job->row < all; job->row += batch) {
        job->rows = tdm_min_i64(batch, all - job->row);
        tdm_parallel(job->l->threads, tdm_ceil_div(job->rows, job->step), 1, fn, job);
        tdm_tensor_drop(job->p->t, job->row, job->rows);
        if (job->other) tdm_tensor_drop(job->other, job->row, job->rows);
    }
}

static void amax_of_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    rows_job *job = ctx;
    const int64_t row = first * job->step, rows = tdm_min_i64(last * job->step, job->rows) - row;
    const float amax =
        tdm_unit_amax(&(tdm_unit){.p = job->p, .row = job->row + row, .rows = rows, .cols = job->p->cols}, buffer_of(job->l, thread));
    unsigned bits, before = atomic_load_explicit(&job->amax, memory_order_relaxed);
    memcpy(&bits, &amax, sizeof bits);
    while (bits > before && !atomic_compare_exchange_weak_explicit(&job->amax, &before, bits, memory_order_relaxed, memory_order_relaxed))
        continue;
}

/* Needed before the first row can be quantized. A value that is not finite is found when its row is. */
static void find_amax(const loader *l, tdm_piece *p)
{
    rows_job job = {.l = l, .p = p};
    atomic_init(&job.amax, 0);
    over_rows(&job, amax_of_rows);
    const unsigned bits = atomic_load(&job.amax);
    memcpy(&p->amax, &bits, sizeof p->amax);
}

static void compare_rows(void *ctx, int64_t first, int64_t last, int thread)
{
    rows_job *job = ctx;
    const int64_t end = tdm_min_i64(last * job->step, job->rows);
    (void)thread;
    for (int64_t r = first * job->step; r < end; r++) {
        size_t bytes;
        const unsigned char *row = tdm_tensor_row(job->other, job->row + r, &bytes);
        if (memcmp(row, tdm_tensor_row(job->p->t, job->row + r, &bytes), bytes) != 0)
            atomic_store_explicit(&job->differs, true, memory_order_relaxed);
    }
}

/* transformers ties the head only to an equal copy; a different one means that config.json is wrong about it. */
static tdm_status check_tied_copy(const loader *l)
{
    const tdm_tensor *copy = l->plan->tied_copy;
    const tdm_piece *embedding = &l->pieces[0];
    char where[512];
    if (!copy) return TDM_OK;
    bool differs = copy->elem != embedding->t->elem || copy->bytes != embedding->t->bytes;
    if (!differs) {
        rows_job job = {.l = l, .p = embedding, .other = copy};
        atomic_init(&job.differs, false);
        over_rows(&job, compare_rows);
        differs = atomic_load(&job.differs);
    }
    if (!differs) return TDM_OK;
    tdm_tensor_where(copy, where, sizeof where);
    return TDM_FAIL(l->err, TDM_ERR_INPUT, where, "set tie_word_embeddings to false in config.json if the head has weights of its own",
                    "differs from %s, to which the config ties it", embedding->t->stored);
}

/* ---- The whole --------------------------------------------------------------------------------------------------------------- */

static tdm_status load_piece(loader *l, tdm_piece *p)
{
    tdm_status st = TDM_OK;
    const int64_t step = band_rows(p), across = tdm_ceil_div(p->cols, tdm_piece_unit_cols(p));
    if (p->kind == TDM_PIECE_QUANTIZE && p->w->scheme == TDM_SCHEME_FP8_TENSOR) find_amax(l, p);
    for (int64_t row = 0; row < p->rows; row += step) {
        const int64_t rows = tdm_min_i64(step, p->rows - row);
        if (!fits(l, p, rows, across)) TDM_TRY(st, finish_batch(l), done);
        add_band(l, p, row, rows);
    }
done:
    return st;
}

static tdm_status open_loader(loader *l, const tdm_weights_plan *p, const tdm_region *region, tdm_error *err)
{
    const size_t longest = longest_row(&p->w->config);
    *l = (loader){.plan = p,
                  .region = region,
                  .err = err,
                  .threads = p->w->threads,
                  .staged = !tdm_region_is_host(region),
                  .buffer_floats = tdm_unit_floats((int64_t)longest),
                  .half_bytes = half_bytes(longest),
                  .units_most = (int64_t)units_most(longest)};
    l->pieces = calloc((size_t)p->matrix_count * 4 + (size_t)p->vector_count + 2 * (size_t)p->w->config.layers, sizeof *l->pieces);
    l->buffer = malloc((size_t)l->threads * (size_t)l->buffer_floats * sizeof *l->buffer);
    l->units = malloc((size_t)l->units_most * sizeof *l->units);
    l->parts = malloc((size_t)l->units_most * sizeof *l->parts);
    l->codes.runs = malloc((size_t)l->units_most * sizeof *l->codes.runs);
    l->scales.runs = malloc((size_t)l->units_most * sizeof *l->scales.runs);
    if (!l->pieces || !l->buffer || !l->units || !l->parts || !l->codes.runs || !l->scales.runs)
        return TDM_FAIL(err, TDM_ERR_OTHER, tdm_model_file_path(p->file), "lower threads, or free memory",
                        "out of memory to stream weights through");
    return l->staged ? region->be->host_open(&l->stage, 2 * l->half_bytes, err) : TDM_OK;
}

static void close_loader(loader *l)
{
    if (l->stage) l->region->be->host_close(l->stage, 2 * l->half_bytes);
    free(l->scales.runs);
    free(l->codes.runs);
    free(l->parts);
    free(l->units);
    free(l->buffer);
    free(l->pieces);
}

tdm_status tdm_weights_load(const tdm_weights_plan *p, const tdm_region *region, tdm_error *err)
{
    tdm_status st = TDM_OK;
    loader l;

    TDM_TRY(st, open_loader(&l, p, region, err), done);
    list_pieces(&l);
    TDM_TRY(st, check_tied_copy(&l), done);
    start_batch(&l);
    for (int64_t i = 0; i < l.piece_count; i++) TDM_TRY(st, load_piece(&l, &l.pieces[i]), done);
    TDM_TRY(st, finish_batch(&l), done);
    /* A page fault maps some pages around the one that was touched, so neighbours of dropped rows came back. */
    for (int64_t i = 0; i < l.piece_count; i++) tdm_tensor_drop(l.pieces[i].t, 0, tdm_tensor_rows(l.pieces[i].t));
done:
    if (l.stage) {
        const tdm_status sent = region->be->stream_sync(region->s, err); /* also after an error: the stage goes */
        if (st == TDM_OK) st = sent;
    }
    close_loader(&l);
    return st;
}
