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
    unsigned char *region;
    float *buffer; /* owned; the largest band or vector */
    tdm_error *err;
} loader;

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

static void zero_tail(const loader *l, size_t at, size_t bytes) /* the hash covers the gaps too */
{
    memset(l->region + at + bytes, 0, tdm_align_up(bytes, 64) - bytes);
}

static tdm_status load_vector(const loader *l, const tdm_tensor *t, size_t at, int64_t cols)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, read_rows(l, t, 0, 1), done);
    TDM_TRY(st, store_bf16(l, t, 0, (uint16_t *)(void *)(l->region + at), cols), done);
    zero_tail(l, at, (size_t)cols * sizeof(uint16_t));
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

/* A float matrix, rounded to BF16 or quantized. */
static tdm_status load_float(const loader *l, const tdm_matrix_plan *m)
{
    tdm_status st = TDM_OK;
    const tdm_weight *w = m->w;
    const int64_t n = w->codes.rows, k = w->codes.cols;
    unsigned char *codes = l->region + m->codes_at;
    float *scale = (float *)(void *)(l->region + m->scale_at), amax = 0;
    if (w->scheme == TDM_SCHEME_FP8_TENSOR) TDM_TRY(st, matrix_amax(l, m->weight, &amax), done);
    for (int64_t r = 0; r < n; r += ROWS) {
        const int64_t count = tdm_min_i64(ROWS, n - r);
        TDM_TRY(st, read_rows(l, m->weight, r, count), done);
        if (w->scheme == TDM_SCHEME_BF16) {
            TDM_TRY(st, store_bf16(l, m->weight, r, (uint16_t *)(void *)codes + r * k, count * k), done);
            continue;
        }
        float *at = scale;
        if (w->scheme == TDM_SCHEME_FP8_CHANNEL) at += r;
        if (w->scheme == TDM_SCHEME_FP8_BLOCK) at += r / TDM_FP8_BLOCK * w->scale.cols;
        tdm_quantize_weight(codes + r * k, at, l->buffer, count, k, w->scheme, w->pow2, amax);
    }
done:
    return st;
}

static tdm_status load_codes(const loader *l, const tdm_matrix_plan *m)
{
    const int64_t n = m->w->codes.rows, k = m->w->codes.cols;
    unsigned char *out = l->region + m->codes_at;
    char where[512];
    for (int64_t r = 0; r < n; r++) {
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
        memcpy(out + r * k, row, bytes);
        if (r % ROWS == ROWS - 1) tdm_tensor_drop(m->weight, r + 1 - ROWS, ROWS);
    }
    return TDM_OK;
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
    float *scale = (float *)(void *)(l->region + m->scale_at);
    const int64_t stored = m->stored == TDM_SCHEME_FP8_TENSOR ? 1 : m->w->scale.rows * m->w->scale.cols;
    TDM_TRY(st, load_codes(l, m), done);
    tdm_tensor_read(m->scale, 0, tdm_tensor_rows(m->scale), scale);
    TDM_TRY(st, check_scales(l, m->scale, scale, stored, true), done); /* 0 is an all-zero row to some writers */
    for (int64_t i = stored; i < m->w->scale.rows * m->w->scale.cols; i++) scale[i] = scale[0];
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
    zero_tail(l, m->codes_at, (size_t)codes->rows * (size_t)codes->cols * tdm_dtype_bytes(codes->dtype));
    if (scale->data) zero_tail(l, m->scale_at, (size_t)scale->rows * (size_t)scale->cols * sizeof(float));
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

tdm_status tdm_weights_load(const tdm_weights_plan *p, unsigned char *region, tdm_error *err)
{
    tdm_status st = TDM_OK;
    loader l = {.p = p, .region = region, .err = err};
    const size_t bytes = (size_t)buffer_floats(p) * sizeof *l.buffer;

    l.buffer = malloc(bytes);
    if (!l.buffer)
        return TDM_FAIL(err, TDM_ERR_OTHER, tdm_model_file_path(p->file), NULL,
                        "out of memory: %zu bytes to stream weights through", bytes);
    TDM_TRY(st, check_tied_copy(&l), done);
    for (int64_t i = 0; i < p->matrix_count; i++) TDM_TRY(st, load_matrix(&l, &p->matrices[i]), done);
    for (int64_t i = 0; i < p->vector_count; i++)
        TDM_TRY(st, load_vector(&l, p->vectors[i].t, p->vectors[i].at, p->vectors[i].v->cols), done);
    /* A page fault maps some pages around the one that was touched, so neighbours of dropped rows came back. */
    for (int64_t i = 0; i < p->matrix_count; i++)
        tdm_tensor_drop(p->matrices[i].weight, 0, tdm_tensor_rows(p->matrices[i].weight));
done:
    free(l.buffer);
    return st;
}
