#include "memory/gguf_write.h"
#include "memory/fs.h"
#include "memory/gguf_parse.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 32, Q8_BLOCK = 32, Q8_BYTES = 34, BUFFER = 4 << 20 };

/* ---- Metadata: little-endian, as the machines we run on are ------------------------------------------------------------------ */

static void put(tdm_gguf_head *h, const void *data, size_t bytes)
{
    if (h->failed) return;
    if (h->used + bytes > h->room) {
        const size_t room = 2 * (h->used + bytes) + 4096;
        unsigned char *more = realloc(h->data, room);
        h->failed = !more;
        if (!more) return;
        h->data = more;
        h->room = room;
    }
    if (bytes) memcpy(h->data + h->used, data, bytes);
    h->used += bytes;
}

static void put_text(tdm_gguf_head *h, const char *text, size_t len)
{
    const uint64_t n = len;
    put(h, &n, sizeof n);
    put(h, text, len);
}

static void put_key(tdm_gguf_head *h, const char *key, uint32_t type)
{
    put_text(h, key, strlen(key));
    put(h, &type, sizeof type);
    h->count++;
}

void tdm_gguf_put_str(tdm_gguf_head *h, const char *key, const char *text, size_t len)
{
    put_key(h, key, TDM_GGUF_STRING);
    put_text(h, text, len);
}

void tdm_gguf_put_u32(tdm_gguf_head *h, const char *key, uint32_t v)
{
    put_key(h, key, TDM_GGUF_U32);
    put(h, &v, sizeof v);
}

void tdm_gguf_put_f32(tdm_gguf_head *h, const char *key, float v)
{
    put_key(h, key, TDM_GGUF_F32);
    put(h, &v, sizeof v);
}

void tdm_gguf_put_bool(tdm_gguf_head *h, const char *key, bool v)
{
    const unsigned char byte = v;
    put_key(h, key, TDM_GGUF_BOOL);
    put(h, &byte, 1);
}

static void put_array(tdm_gguf_head *h, const char *key, uint32_t item, int64_t count)
{
    const uint64_t n = (uint64_t)count;
    put_key(h, key, TDM_GGUF_ARRAY);
    put(h, &item, sizeof item);
    put(h, &n, sizeof n);
}

void tdm_gguf_put_strs(tdm_gguf_head *h, const char *key, int64_t count) { put_array(h, key, TDM_GGUF_STRING, count); }
void tdm_gguf_put_i32s(tdm_gguf_head *h, const char *key, int64_t count) { put_array(h, key, TDM_GGUF_I32, count); }
void tdm_gguf_add_str(tdm_gguf_head *h, const char *text, size_t len) { put_text(h, text, len); }
void tdm_gguf_add_i32(tdm_gguf_head *h, int32_t v) { put(h, &v, sizeof v); }

void tdm_gguf_head_free(tdm_gguf_head *h)
{
    free(h->data);
    *h = (tdm_gguf_head){0};
}

/* ---- Values ------------------------------------------------------------------------------------------------------------------ */

/* Round to nearest even; beyond f16's range infinity. */
static uint16_t to_f16(float x)
{
    uint32_t u, sign;
    memcpy(&u, &x, sizeof u);
    sign = (u >> 16) & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and more */
    if (u < 0x38800000u) {                                   /* subnormal: 2^-24 is the last place */
        float magnitude;
        memcpy(&magnitude, &u, sizeof magnitude);
        return (uint16_t)(sign | (uint32_t)nearbyintf(magnitude * 0x1p24f));
    }
    return (uint16_t)(sign | ((u - 0x38000000u + 0xfffu + ((u >> 13) & 1u)) >> 13));
}

static size_t row_bytes(const tdm_gguf_entry *e)
{
    switch (e->type) {
    case TDM_GGUF_OUT_F32: return (size_t)e->cols * 4;
    case TDM_GGUF_OUT_F16: return (size_t)e->cols * 2;
    case TDM_GGUF_OUT_Q8_0: return (size_t)(e->cols / Q8_BLOCK) * Q8_BYTES;
    }
    return 0;
}

static void encode_q8_0(const float *x, int64_t n, unsigned char *out)
{
    for (int64_t b = 0; b < n / Q8_BLOCK; b++, x += Q8_BLOCK, out += Q8_BYTES) {
        float most = 0;
        for (int i = 0; i < Q8_BLOCK; i++) most = fmaxf(most, fabsf(x[i]));
        const float d = most / 127.0f, inverse = d > 0 ? 1.0f / d : 0.0f;
        const uint16_t scale = to_f16(d);
        memcpy(out, &scale, sizeof scale);
        for (int i = 0; i < Q8_BLOCK; i++) out[2 + i] = (unsigned char)(int8_t)roundf(x[i] * inverse);
    }
}

static void encode(const tdm_gguf_entry *e, const float *x, unsigned char *out)
{
    if (e->type == TDM_GGUF_OUT_Q8_0) encode_q8_0(x, e->cols, out);
    else if (e->type == TDM_GGUF_OUT_F32) memcpy(out, x, (size_t)e->cols * sizeof *x);
    else
        for (int64_t i = 0; i < e->cols; i++) {
            const uint16_t v = to_f16(x[i]);
            memcpy(out + 2 * i, &v, sizeof v);
        }
}

/* ---- The file ---------------------------------------------------------------------------------------------------------------- */

static void directory(tdm_gguf_head *h, const tdm_gguf_entry *entries, int64_t count)
{
    uint64_t at = 0;
    for (int64_t i = 0; i < count; i++) {
        const tdm_gguf_entry *e = &entries[i];
        const uint32_t rank = (uint32_t)e->rank, type = (uint32_t)e->type;
        const uint64_t shape[2] = {(uint64_t)e->cols, (uint64_t)e->rows}; /* innermost first */
        put_text(h, e->name, strlen(e->name));
        put(h, &rank, sizeof rank);
        put(h, shape, rank * sizeof *shape);
        put(h, &type, sizeof type);
        put(h, &at, sizeof at);
        at += tdm_align_up((size_t)e->rows * row_bytes(e), ALIGNMENT);
    }
}

/* Zeros up to the next multiple of the alignment. */
static tdm_status pad(tdm_file *file, size_t bytes, tdm_error *err)
{
    static const unsigned char zeros[ALIGNMENT];
    return tdm_file_put(file, zeros, tdm_align_up(bytes, ALIGNMENT) - bytes, err);
}

static tdm_status put_tensor(tdm_file *file, const tdm_gguf_entry *e, int64_t index, tdm_gguf_fill_fn *fill, void *user, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const size_t bytes = row_bytes(e);
    const int64_t most = tdm_max_i64(1, (int64_t)(BUFFER / bytes));
    float *row = malloc((size_t)e->cols * sizeof *row);                                    /* owned here */
    unsigned char *buffer = malloc((size_t)tdm_min_i64(most, e->rows) * bytes); /* owned here */
    TDM_ASSERT(e->type != TDM_GGUF_OUT_Q8_0 || e->cols % Q8_BLOCK == 0);
    if (!row || !buffer) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, file->path, "free host memory", "out of memory writing %s", e->name);
        goto done;
    }
    for (int64_t first = 0; first < e->rows; first += most) {
        const int64_t n = tdm_min_i64(most, e->rows - first);
        for (int64_t r = 0; r < n; r++) {
            TDM_TRY(st, fill(user, index, first + r, row, err), done);
            encode(e, row, buffer + (size_t)r * bytes);
        }
        TDM_TRY(st, tdm_file_put(file, buffer, (size_t)n * bytes, err), done);
    }
    TDM_TRY(st, pad(file, (size_t)e->rows * bytes, err), done);
done:
    free(row);
    free(buffer);
    return st;
}

tdm_status tdm_gguf_write(const char *path, const tdm_gguf_head *h, const tdm_gguf_entry *entries, int64_t count, tdm_gguf_fill_fn *fill, void *user,
                          tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_file file = {.fd = -1};  /* owned here */
    tdm_gguf_head all = {0};     /* owned here */
    bool created = false;
    const uint32_t version = 3;
    const uint64_t tensors = (uint64_t)count;
    put(&all, "GGUF", 4);
    put(&all, &version, sizeof version);
    put(&all, &tensors, sizeof tensors);
    put(&all, &h->count, sizeof h->count);
    put(&all, h->data, h->used);
    directory(&all, entries, count);
    if (h->failed || all.failed) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, path, "free host memory", "out of memory for the metadata");
        goto done;
    }
    TDM_TRY(st, tdm_file_create(&file, path, err), done);
    created = true;
    TDM_TRY(st, tdm_file_put(&file, all.data, all.used, err), done);
    TDM_TRY(st, pad(&file, all.used, err), done);
    for (int64_t i = 0; i < count; i++) TDM_TRY(st, put_tensor(&file, &entries[i], i, fill, user, err), done);
    TDM_TRY(st, tdm_file_sync(&file, err), done);
done:
    if (created) {
        const tdm_status closed = tdm_file_close(&file, err);
        if (st == TDM_OK) st = closed;
        if (st != TDM_OK) (void)tdm_fs_remove_tree(path, NULL);
    }
    tdm_gguf_head_free(&all);
    return st;
}
