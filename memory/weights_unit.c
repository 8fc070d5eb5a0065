/* Values pass through a buffer of f32 that stays in the cache: read, checked, rounded or quantized. */
#include "memory/weights_unit.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum {
    FLOATS = 8192,    /* of whole rows at a time */
    BLOCK_COLS = 512, /* of 128 rows at a time, where scales are of blocks */
};

static uint32_t float_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static bool by_block(const tdm_piece *p) { return p->kind == TDM_PIECE_QUANTIZE && p->w->scheme == TDM_SCHEME_FP8_BLOCK; }

size_t tdm_piece_row_bytes(const tdm_piece *p)
{
    static const size_t bytes[] = {2, sizeof(float), 1, 1, sizeof(float), 0};
    return (size_t)p->cols * bytes[p->kind];
}

size_t tdm_piece_source_bytes(const tdm_piece *p) { return p->t->bytes / (size_t)p->rows; }

int64_t tdm_piece_scales(const tdm_piece *p, int64_t rows)
{
    if (p->kind != TDM_PIECE_QUANTIZE) return 0;
    switch (p->w->scheme) {
    case TDM_SCHEME_FP8_TENSOR: return rows > 0;
    case TDM_SCHEME_FP8_CHANNEL: return rows;
    case TDM_SCHEME_FP8_BLOCK: return tdm_ceil_div(rows, TDM_FP8_BLOCK) * p->w->scale.cols;
    case TDM_SCHEME_BF16: break;
    }
    TDM_ASSERT(!"quantized by one of the schemes");
    return 0;
}

int64_t tdm_piece_grain(const tdm_piece *p) { return by_block(p) ? TDM_FP8_BLOCK : 1; }
int64_t tdm_piece_unit_cols(const tdm_piece *p) { return by_block(p) ? BLOCK_COLS : p->cols; }

int64_t tdm_unit_floats(int64_t longest) { return tdm_max_i64(longest, tdm_max_i64(FLOATS, TDM_FP8_BLOCK * BLOCK_COLS)); }

/* ---- Making ------------------------------------------------------------------------------------------------------------------ */

/* Exponent all ones; written without a branch so that it costs little beside the reading. */
static bool all_finite(const float *x, int64_t n)
{
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) bad |= ((float_bits(x[i]) & 0x7f800000u) + 0x00800000u) & 0x80000000u;
    return bad == 0;
}

/* tdm_f32_to_bf16 of a finite value: without the case of NaN the loop becomes vector code. */
static inline uint16_t round_bf16(float x)
{
    const uint32_t u = float_bits(x);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

/* A finite f32 above the largest BF16 rounds to infinity; such a value would be as bad as one in the file. */
static bool store_bf16(uint16_t *restrict out, const float *restrict x, int64_t n)
{
    uint16_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        out[i] = round_bf16(x[i]);
        bad |= (uint16_t)(((out[i] & 0x7f80u) + 0x0080u) & 0x8000u);
    }
    return bad == 0;
}

static bool store_f32(float *restrict out, const float *restrict x, int64_t n, bool one)
{
    for (int64_t i = 0; i < n; i++) out[i] = one ? 1.0f + tdm_bf16_to_f32(round_bf16(x[i])) : x[i];
    return all_finite(out, n);
}

static void quantize(const tdm_unit *u, const float *x, int64_t row, int64_t rows)
{
    const tdm_weight *w = u->p->w;
    float *scale = w->scheme == TDM_SCHEME_FP8_CHANNEL ? u->scale + row : u->scale;
    tdm_weight_quantize(&(tdm_quantize_weight){.codes = {u->out + row * u->p->cols, TDM_DTYPE_E4M3, rows, u->cols, u->p->cols},
                                               .scale = {scale, TDM_DTYPE_F32, w->scheme == TDM_SCHEME_FP8_CHANNEL ? rows : 1,
                                                         by_block(u->p) ? tdm_ceil_div(u->cols, TDM_FP8_BLOCK) : 1, w->scale.cols},
                                               .x = {x, TDM_DTYPE_F32, rows, u->cols, u->cols},
                                               .scheme = w->scheme,
                                               .pow2 = u->p->pow2,
                                               .tensor_amax = u->p->amax});
}

/* As many rows as the buffer is meant for at a time; a block's all at once. */
static int64_t rows_at_once(const tdm_unit *u) { return by_block(u->p) ? u->rows : tdm_min_i64(u->rows, tdm_max_i64(1, FLOATS / u->cols)); }

static void read_rows(const tdm_unit *u, int64_t row, int64_t rows, float *buffer)
{
    for (int64_t r = 0; r < rows; r++) tdm_tensor_read_part(u->p->t, u->row + row + r, u->col, u->cols, buffer + r * u->cols);
}

static bool make_floats(const tdm_unit *u, float *buffer)
{
    const int64_t step = rows_at_once(u);
    bool good = true;
    for (int64_t r = 0; r < u->rows && good; r += step) {
        const int64_t rows = tdm_min_i64(step, u->rows - r);
        read_rows(u, r, rows, buffer);
        good = all_finite(buffer, rows * u->cols);
        if (u->p->kind == TDM_PIECE_QUANTIZE)
            quantize(u, buffer, r, rows);
        else if (u->p->kind == TDM_PIECE_F32)
            good &= store_f32((float *)(void *)u->out + r * u->p->cols, buffer, rows * u->cols, u->p->one);
        else
            good &= store_bf16((uint16_t *)(void *)u->out + r * u->p->cols, buffer, rows * u->cols);
    }
    return good;
}

static bool codes_are_numbers(const unsigned char *code, int64_t n)
{
    unsigned char bad = 0;
    for (int64_t i = 0; i < n; i++) bad |= (unsigned char)(((code[i] & 0x7fu) + 1u) & 0x80u);
    return bad == 0;
}

static bool make_codes(const tdm_unit *u)
{
    bool good = true;
    for (int64_t r = 0; r < u->rows && good; r++) {
        size_t bytes;
        const unsigned char *row = tdm_tensor_row(u->p->t, u->row + r, &bytes);
        TDM_ASSERT_EQ(bytes, u->p->cols);
        good = codes_are_numbers(row, u->p->cols);
        memcpy(u->out + r * u->p->cols, row, bytes);
    }
    return good;
}

static int64_t stored_scales(const tdm_piece *p) { return tdm_tensor_rows(p->t) * tdm_tensor_cols(p->t); }

/* 0 is an all-zero row to some writers; activations are divided by theirs. */
static bool scale_is_good(const tdm_piece *p, float scale)
{
    return isfinite(scale) && (scale > 0 || (p->kind == TDM_PIECE_SCALES && scale >= 0));
}

static bool make_scales(const tdm_unit *u)
{
    float *out = (float *)(void *)u->out;
    const int64_t stored = stored_scales(u->p);
    bool good = true;
    tdm_tensor_read(u->p->t, 0, tdm_tensor_rows(u->p->t), out);
    for (int64_t i = 0; i < stored; i++) good &= scale_is_good(u->p, out[i]);
    for (int64_t i = stored; i < u->p->cols; i++) out[i] = out[0];
    return good;
}

bool tdm_unit_make(const tdm_unit *u, float *buffer)
{
    switch (u->p->kind) {
    case TDM_PIECE_BF16:
    case TDM_PIECE_F32:
    case TDM_PIECE_QUANTIZE: return make_floats(u, buffer);
    case TDM_PIECE_CODES: return make_codes(u);
    case TDM_PIECE_SCALES:
    case TDM_PIECE_INPUT_SCALE: return make_scales(u);
    }
    TDM_ASSERT(!"a kind of piece");
    return false;
}

float tdm_unit_amax(const tdm_unit *u, float *buffer)
{
    const int64_t step = rows_at_once(u);
    uint32_t most = 0; /* magnitudes are ordered as their bits are */
    float amax;
    for (int64_t r = 0; r < u->rows; r += step) {
        const int64_t rows = tdm_min_i64(step, u->rows - r);
        read_rows(u, r, rows, buffer);
        for (int64_t i = 0; i < rows * u->cols; i++) {
            const uint32_t magnitude = float_bits(buffer[i]) & 0x7fffffffu;
            most = magnitude > most ? magnitude : most;
        }
    }
    memcpy(&amax, &most, sizeof amax);
    return amax;
}

/* ---- Explaining -------------------------------------------------------------------------------------------------------------- */

static bool float_is_good(const tdm_piece *p, float x)
{
    return isfinite(x) && (p->kind == TDM_PIECE_QUANTIZE || (round_bf16(x) & 0x7f80u) != 0x7f80u);
}

/* Whole rows, whatever the unit's columns: the first bad value of the band in the file's order. */
static tdm_status explain_floats(const tdm_unit *u, float *row, const char *where, tdm_error *err)
{
    const tdm_piece *p = u->p;
    int64_t r = u->row, c = 0;
    float bad = NAN;
    for (bool found = false; !found && r < u->row + u->rows; r += !found) {
        tdm_tensor_read_part(p->t, r, 0, p->cols, row);
        for (c = 0; c < p->cols && float_is_good(p, row[c]);) c++;
        found = c < p->cols;
        if (found) bad = row[c];
    }
    if (isfinite(bad))
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "is the file damaged?",
                        "the value at row %" PRId64 ", column %" PRId64 " is %g, which does not fit BF16", r, c, (double)bad);
    return TDM_FAIL(err, TDM_ERR_INPUT, where, "download or convert the model again",
                    "the value at row %" PRId64 ", column %" PRId64 " is %g", r, c, (double)bad);
}

static tdm_status explain_codes(const tdm_unit *u, const char *where, tdm_error *err)
{
    int64_t r = 0;
    size_t bytes;
    while (r < u->rows - 1 && codes_are_numbers(tdm_tensor_row(u->p->t, u->row + r, &bytes), u->p->cols)) r++;
    return TDM_FAIL(err, TDM_ERR_INPUT, where, "download or quantize the model again", "an FP8 code in row %" PRId64 " is NaN", u->row + r);
}

static tdm_status explain_scales(const tdm_unit *u, const char *where, tdm_error *err)
{
    const float *scale = (const float *)(const void *)u->out;
    int64_t i = 0;
    while (i < stored_scales(u->p) - 1 && scale_is_good(u->p, scale[i])) i++;
    return TDM_FAIL(err, TDM_ERR_INPUT, where, "download or quantize the model again", "scale %" PRId64 " is %g", i, (double)scale[i]);
}

tdm_status tdm_unit_explain(const tdm_unit *u, float *buffer, tdm_error *err)
{
    char where[512];
    tdm_tensor_where(u->p->t, where, sizeof where);
    if (u->p->kind == TDM_PIECE_CODES) return explain_codes(u, where, err);
    if (u->p->kind == TDM_PIECE_SCALES || u->p->kind == TDM_PIECE_INPUT_SCALE) return explain_scales(u, where, err);
    return explain_floats(u, buffer, where, err);
}
