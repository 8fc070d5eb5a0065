/* A matrix passes through a buffer of 128 rows of f32, which is also the height of an FP8 block: read, checked, rounded
 * or quantized, and the pages of the file it came from dropped. */
#include "memory/weights_load.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = TDM_FP8_BLOCK };

typedef struct loader {
    const tdm_weights_plan *p;
    const tdm_region *region;
    float *buffer;        /* owned; the largest band or vector */
    unsigned char *stage; /* owned; NULL where the region is the host's: the largest band, vector or matrix of scales on its way there */
    tdm_error *err;
} loader;

/* Where the host writes what shall lie at `at`: there, or in the stage, from where `land` sends it. One piece at a time. */
static unsigned char *place(const loader *l, size_t at) { return l->stage ? l->stage : (unsigned char *)l->region->base + at; }

static tdm_status land(const loader *l, size_t at, size_t bytes)
{
    if (!l->stage) return TDM_OK;
    return l->region->be->upload(l->region->s, (unsigned char *)l->region->base + at, l->stage, bytes, l->err);
}

static uint32_t float_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* Exponent all ones; written without a branch so that it costs little beside the reading. */
static bool all_finite(const float *x, int64_t n)
{
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) bad |= ((float_bits(x[i]) & 0x7f800000u) + 0x00800000u) & 0x80000000u;
    return bad == 0;
}

static tdm_status not_finite(const tdm_tensor *t, int64_t first_row, const float *x, int64_t n, tdm_error *err)
{
    char where[512];
    int64_t i = 0;
    while (i < n - 1 && isfinite(x[i])) i++;
    tdm_tensor_where(t, where, sizeof where);
    return TDM_FAIL(err, TDM_ERR_INPUT, where, "download or convert the model again",
                    "the value at row %" PRId64 ", column %" PRId64 " is %g", first_row + i / tdm_tensor_cols(t),
                    i % tdm_tensor_cols(t), (double)x[i]);
}

static tdm_status read_rows(const loader *l, const tdm_tensor *t, int64_t first, int64_t count)
{
    const int64_t n = count * tdm_tensor_cols(t);
    tdm_tensor_read(t, first, count, l->buffer);
    tdm_tensor_drop(t, first, count);
    if (!all_finite(l->buffer, n)) return not_finite(t, first, l->buffer, n, l->err);
    return TDM_OK;
}

/* tdm_f32_to_bf16 for finite values: without the case of NaN the loop becomes vector code. */
static void round_bf16(uint16_t *restrict out, const float *restrict x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const uint32_t u = float_bits(x[i]);
        out[i] = (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
}

/* A finite f32 above the largest BF16 rounds to infinity; such a value would be as bad as one in the file. */
static tdm_status store_bf16(const loader *l, const tdm_tensor *t, int64_t first, uint16_t *out, int64_t n)
{
    char where[512];
    bool overflow = false;
    round_bf16(out, l->buffer, n);
    for (int64_t i = 0; i < n; i++) overflow |= (out[i] & 0x7f80u) == 0x7f80u;
    if (!overflow) return TDM_OK;
    tdm_tensor_where(t, where, sizeof where);
    return TDM_FAIL(l->err, TDM_ERR_INPUT, where, "is the file damaged?",
                    "a value from row %" PRId64 " on does not fit BF16", first);
}

static tdm_status zero_tail(const loader *l, size_t at, size_t bytes) /* the hash covers the gaps too */
{
    const size_t tail = tdm_align_up(bytes, 64) - bytes;
    memset(place(l, at + bytes), 0, tail);
    return land(l, at + bytes, tail);
}

static tdm_status load_vector(const loader *l, const tdm_tensor *t, size_t at, int64_t cols)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, read_rows(l, t, 0, 1), done);
    TDM_TRY(st, store_bf16(l, t, 0, (uint16_t *)(void *)place(l, at), cols), done);
    TDM_TRY(st, land(l, at, (size_t)cols * sizeof(uint16_t)), done);
    TDM_TRY(st, zero_tail(l, at, (size_t)cols * sizeof(uint16_t)), done);
done:
    return st;
}

static tdm_status matrix_amax(const loader *l, const tdm_tensor *t, float *amax)
{
    tdm_status st = TDM_OK;
    const int64_t rows = tdm_tensor_rows(t), cols = tdm_tensor_cols(t);
    uint32_t most = 0; /* magnitudes of finite floats are ordered as their bits are */
    for (int64_t r = 0; r < rows; r += ROWS) {
        const int64_t count = tdm_min_i64(ROWS, rows - r);
        TDM_TRY(st, read_rows(l, t, r, count), done);
        for (int64_t i = 0; i < count * cols; i++) {
            const uint32_t magnitude = float_bits(l->buffer[i]) & 0x7fffffffu;
            most = magnitude > most ? magnitude : most;
        }
    }
    memcpy(amax, &most, sizeof *amax);
done:
    return st;
}

static size_t scale_bytes(const tdm_weight *w) { return (size_t)(w->scale.rows * w->scale.cols) * sizeof(float); }

/* A matrix's scales on the host: its place in the region, or behind the codes of the stage until all of them are known. */
static float *scales_of(const loader *l, const tdm_matrix_plan *m)
{
    unsigned char *p = l->stage ? l->stage + tdm_align_up((size_t)(tdm_min_i64(ROWS, m->w->codes.rows) * m->w->codes.cols), 64) : (unsigned char *)l->region->base + m->scale_at;
    return (float *)(void *)p;
}

static tdm_status land_scales(const loader *l, const tdm_matrix_plan *m)
{
    if (!l->stage) return TDM_OK;
    return l->region->be->upload(l->region->s, (unsigned char *)l->region->base + m->scale_at, scales_of(l, m), scale_bytes(m->w), l->err);
}

static void quantize_band(const loader *l, const tdm_matrix_plan *m, int64_t first, int64_t count, size_t at, float amax)
{
    const tdm_weight *w = m->w;
    float *scale = scales_of(l, m);
    if (w->scheme == TDM_SCHEME_FP8_CHANNEL) scale += first;
    if (w->scheme == TDM_SCHEME_FP8_BLOCK) scale += first / TDM_FP8_BLOCK * w->scale.cols;
    tdm_quantize_weight(place(l, at), scale, l->buffer, count, w->codes.cols, w->scheme, w->pow2, amax);
}

/* A float matrix, rounded to BF16 or quantized. */
static tdm_status load_float(const loader *l, const tdm_matrix_plan *m)
{
    tdm_status st = TDM_OK;
    const tdm_weight *w = m->w;
    const int64_t n = w->codes.rows, k = w->codes.cols;
    const size_t row_bytes = (size_t)k * tdm_dtype_bytes(w->codes.dtype);
    float amax = 0;
    if (w->scheme == TDM_SCHEME_FP8_TENSOR) TDM_TRY(st, matrix_amax(l, m->weight, &amax), done);
    for (int64_t r = 0; r < n; r += ROWS) {
        const int64_t count = tdm_min_i64(ROWS, n - r);
        TDM_TRY(st, read_rows(l, m->weight, r, count), done);
        const size_t at = m->codes_at + (size_t)r * row_bytes;
        if (w->scheme == TDM_SCHEME_BF16) TDM_TRY(st, store_bf16(l, m->weight, r, (uint16_t *)(void *)place(l, at), count * k), done);
        else quantize_band(l, m, r, count, at, amax);
        TDM_TRY(st, land(l, at, (size_t)count * row_bytes), done);
    }
    if (w->scheme != TDM_SCHEME_BF16) TDM_TRY(st, land_scales(l, m), done);
done:
    return st;
}

static tdm_status load_codes(const loader *l, const tdm_matrix_plan *m)
{
    tdm_status st = TDM_OK;
    const int64_t n = m->w->codes.rows, k = m->w->codes.cols;
    char where[512];
    for (int64_t r = 0; r < n; r++) {
        const int64_t first = r / ROWS * ROWS; /* of the band */
        const size_t at = m->codes_at + (size_t)(first * k);
        size_t bytes;
        bool nan = false;
        const unsigned char *restrict row = tdm_tensor_row(m->weight, r, &bytes);
        TDM_ASSERT_EQ(bytes, k);
        for (int64_t i = 0; i < k; i++) nan |= (row[i] & 0x7fu) == 0x7fu;
        if (nan) {
            tdm_tensor_where(m->weight, where, sizeof where);
            return TDM_FAIL(l->err, TDM_ERR_INPUT, where, "download or quantize the model again",
                            "an FP8 code in row %" PRId64 " is NaN", r);
        }
        memcpy(place(l, at) + (r - first) * k, row, bytes);
        if (r + 1 < n && r + 1 < first + ROWS) continue;
        TDM_TRY(st, land(l, at, (size_t)((r + 1 - first) * k)), done);
        tdm_tensor_drop(m->weight, first, r + 1 - first);
    }
done:
    return st;
}

static tdm_status check_scales(const loader *l, const tdm_tensor *t, const float *scale, int64_t n, bool zero_too)
{
    char where[512];
    for (int64_t i = 0; i < n; i++) {
        if (isfinite(scale[i]) && (scale[i] > 0 || (zero_too && scale[i] >= 0))) continue;
        tdm_tensor_where(t, where, sizeof where);
        return TDM_FAIL(l->err, TDM_ERR_INPUT, where, "download or quantize the model again", "scale %" PRId64 " is %g",
                        i, (double)scale[i]);
    }
    return TDM_OK;
}

/* An FP8 matrix as it is: codes and scales copied, one scale spread over the rows where it runs as fp8_channel. */
static tdm_status load_fp8(const loader *l, const tdm_matrix_plan *m)
{
    tdm_status st = TDM_OK;
    float *scale = scales_of(l, m);
    const int64_t stored = m->stored == TDM_SCHEME_FP8_TENSOR ? 1 : m->w->scale.rows * m->w->scale.cols;
    TDM_TRY(st, load_codes(l, m), done);
    tdm_tensor_read(m->scale, 0, tdm_tensor_rows(m->scale), scale);
    TDM_TRY(st, check_scales(l, m->scale, scale, stored, true), done); /* 0 is an all-zero row to some writers */
    for (int64_t i = stored; i < m->w->scale.rows * m->w->scale.cols; i++) scale[i] = scale[0];
    TDM_TRY(st, land_scales(l, m), done);
    if (!m->input_scale) goto done;
    tdm_tensor_read(m->input_scale, 0, 1, &m->w->input_scale);
    TDM_TRY(st, check_scales(l, m->input_scale, &m->w->input_scale, 1, false),
            done); /* activations are divided by it */
done:
    return st;
}

static tdm_status load_matrix(const loader *l, const tdm_matrix_plan *m)
{
    tdm_status st = TDM_OK;
    const tdm_cview *codes = &m->w->codes, *scale = &m->w->scale;
    if (m->stored == TDM_SCHEME_BF16)
        TDM_TRY(st, load_float(l, m), done);
    else
        TDM_TRY(st, load_fp8(l, m), done);
    tdm_tensor_drop(m->weight, 0, tdm_tensor_rows(m->weight));
    TDM_TRY(st, zero_tail(l, m->codes_at, (size_t)codes->rows * (size_t)codes->cols * tdm_dtype_bytes(codes->dtype)), done);
    if (scale->data) TDM_TRY(st, zero_tail(l, m->scale_at, scale_bytes(m->w)), done);
    if (m->bias) TDM_TRY(st, load_vector(l, m->bias, m->bias_at, m->w->bias.cols), done);
done:
    return st;
}

/* transformers ties the head only to an equal copy; a different one means that config.json is wrong about it. */
static tdm_status check_tied_copy(const loader *l)
{
    const tdm_tensor *copy = l->p->tied_copy, *embedding = l->p->matrices[0].weight;
    char where[512];
    if (!copy) return TDM_OK;
    bool equal = copy->elem == embedding->elem && copy->bytes == embedding->bytes;
    for (int64_t r = 0; equal && r < tdm_tensor_rows(copy); r++) {
        size_t bytes;
        const unsigned char *row = tdm_tensor_row(copy, r, &bytes);
        equal = memcmp(row, tdm_tensor_row(embedding, r, &bytes), bytes) == 0;
        if (r % ROWS != ROWS - 1) continue;
        tdm_tensor_drop(copy, r + 1 - ROWS, ROWS);
        tdm_tensor_drop(embedding, r + 1 - ROWS, ROWS);
    }
    if (equal) return TDM_OK;
    tdm_tensor_where(copy, where, sizeof where);
    return TDM_FAIL(l->err, TDM_ERR_INPUT, where,
                    "set tie_word_embeddings to false in config.json if the head has weights of its own",
                    "differs from %s, to which the config ties it", embedding->stored);
}

static int64_t buffer_floats(const tdm_weights_plan *p)
{
    int64_t most = 1;
    for (int64_t i = 0; i < p->matrix_count; i++) {
        const tdm_weight *w = p->matrices[i].w;
        most = tdm_max_i64(most, tdm_max_i64(tdm_min_i64(ROWS, w->codes.rows) * w->codes.cols, w->bias.cols));
    }
    for (int64_t i = 0; i < p->vector_count; i++) most = tdm_max_i64(most, p->vectors[i].v->cols);
    return most;
}

/* A band of codes or BF16 and the scales behind it, or a vector. */
static size_t stage_bytes(const tdm_weights_plan *p, int64_t floats)
{
    size_t scales = 0;
    for (int64_t i = 0; i < p->matrix_count; i++)
        if (scale_bytes(p->matrices[i].w) > scales) scales = scale_bytes(p->matrices[i].w);
    return tdm_align_up((size_t)floats * sizeof(uint16_t), 64) + scales;
}

tdm_status tdm_weights_load(const tdm_weights_plan *p, const tdm_region *region, tdm_error *err)
{
    tdm_status st = TDM_OK;
    loader l = {.p = p, .region = region, .err = err};
    const size_t bytes = (size_t)buffer_floats(p) * sizeof *l.buffer;
    const bool staged = !tdm_region_is_host(region);

    l.buffer = malloc(bytes);
    if (staged) l.stage = malloc(stage_bytes(p, buffer_floats(p)));
    if (!l.buffer || (staged && !l.stage)) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, tdm_model_file_path(p->file), NULL, "out of memory: %zu bytes to stream weights through", bytes);
        goto done;
    }
    TDM_TRY(st, check_tied_copy(&l), done);
    for (int64_t i = 0; i < p->matrix_count; i++) TDM_TRY(st, load_matrix(&l, &p->matrices[i]), done);
    for (int64_t i = 0; i < p->vector_count; i++)
        TDM_TRY(st, load_vector(&l, p->vectors[i].t, p->vectors[i].at, p->vectors[i].v->cols), done);
    /* A page fault maps some pages around the one that was touched, so neighbours of dropped rows came back. */
    for (int64_t i = 0; i < p->matrix_count; i++)
        tdm_tensor_drop(p->matrices[i].weight, 0, tdm_tensor_rows(p->matrices[i].weight));
done:
    free(l.stage);
    free(l.buffer);
    return st;
}
