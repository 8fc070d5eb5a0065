#include "runtime/data/dataset.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"

struct tdm_dataset {
    FILE *file;
    char *path;
    int64_t *offset, *line; /* [rows] */
    int64_t rows, room;
};

static tdm_status add_row(tdm_dataset *d, int64_t offset, int64_t line, tdm_error *err)
{
    if (d->rows == d->room) {
        const int64_t room = d->room ? 2 * d->room : 1024;
        int64_t *o = realloc(d->offset, (size_t)room * sizeof *o), *l = o ? realloc(d->line, (size_t)room * sizeof *l) : NULL;
        if (o) d->offset = o;
        if (l) d->line = l;
        if (!o || !l) return TDM_FAIL(err, TDM_ERR_OTHER, d->path, "free host memory", "out of memory for the data's index");
        d->room = room;
    }
    d->offset[d->rows] = offset;
    d->line[d->rows++] = line;
    return TDM_OK;
}

tdm_status tdm_dataset_open(tdm_dataset **out, const char *path, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char *text = NULL;
    size_t room = 0;
    ssize_t len;
    tdm_dataset *d = calloc(1, sizeof *d);
    *out = NULL;
    if (d) d->path = strdup(path);
    if (!d || !d->path) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, path, "free host memory", "out of memory for the data");
        goto done;
    }
    d->file = fopen(path, "re");
    if (!d->file) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, path, "is the path right?", "cannot open the data: %s", strerror(errno));
        goto done;
    }
    int64_t offset = 0;
    for (int64_t line = 1; (len = getline(&text, &room, d->file)) >= 0; line++, offset += len)
        if (strspn(text, " \t\r\n") != (size_t)len) TDM_TRY(st, add_row(d, offset, line, err), done);
    if (ferror(d->file)) st = TDM_FAIL(err, TDM_ERR_INPUT, path, "is it a file of lines?", "cannot read the data: %s", strerror(errno));
    else if (d->rows == 0) st = TDM_FAIL(err, TDM_ERR_INPUT, path, "one JSON object a line", "the data is empty");
done:
    free(text);
    if (st != TDM_OK) tdm_dataset_close(d);
    else *out = d;
    return st;
}

void tdm_dataset_close(tdm_dataset *d)
{
    if (!d) return;
    if (d->file) fclose(d->file);
    free(d->path);
    free(d->offset);
    free(d->line);
    free(d);
}

int64_t tdm_dataset_rows(const tdm_dataset *d) { return d->rows; }

const char *tdm_dataset_where(const tdm_dataset *d, int64_t row, char buf[512])
{
    snprintf(buf, 512, "%s:%" PRId64, d->path, d->line[row]);
    return buf;
}

tdm_status tdm_dataset_row(const tdm_dataset *d, int64_t row, json_t **object, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char where[512], *text = NULL;
    size_t room = 0;
    ssize_t len = -1;
    json_error_t je;
    *object = NULL;
    tdm_dataset_where(d, row, where);
    if (fseeko(d->file, (off_t)d->offset[row], SEEK_SET) != 0 || (len = getline(&text, &room, d->file)) < 0) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "was the file changed?", "cannot read the row");
        goto done;
    }
    *object = json_loadb(text, (size_t)len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je); /* a completion that is replayed may hold one */
    if (!*object) st = TDM_FAIL(err, TDM_ERR_INPUT, where, "one JSON object a line", "not JSON: %s, column %d", je.text, je.column);
    else if (!json_is_object(*object)) {
        json_decref(*object);
        *object = NULL;
        st = TDM_FAIL(err, TDM_ERR_INPUT, where, "write {\"question\":..., \"answer\":...}", "the row is no JSON object");
    }
done:
    free(text);
    return st;
}

/* A permutation of [0, n) that needs no table: a Feistel network on the next even number of bits, walked until it lands below n.
 * Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains", the cycle-walking and Feistel constructions. */
static int64_t permuted(uint64_t key, uint32_t epoch, int64_t i, int64_t n)
{
    int half = 1;
    while (((int64_t)1 << (2 * half)) < n) half++;
    const uint64_t mask = ((uint64_t)1 << half) - 1;
    uint64_t x = (uint64_t)i;
    do {
        uint64_t left = x >> half, right = x & mask;
        for (uint32_t round = 0; round < 6; round++) {
            const tdm_philox4 r = tdm_philox(key, (uint32_t)right, (uint32_t)(right >> 32), round, epoch ^ 0x64617461u /* "data": apart from sampling */);
            const uint64_t next = left ^ ((r.v[0] | (uint64_t)r.v[1] << 32) & mask);
            left = right;
            right = next;
        }
        x = left << half | right;
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}

int64_t tdm_dataset_draw(const tdm_dataset *d, uint64_t seed, bool shuffle, int64_t i)
{
    const int64_t epoch = i / d->rows, at = i % d->rows;
    return shuffle && d->rows > 1 ? permuted(seed, (uint32_t)epoch, at, d->rows) : at;
}
