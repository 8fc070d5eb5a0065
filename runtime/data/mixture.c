#include "runtime/data/mixture.h"

#include <stdlib.h>

#include "kernels/philox.h"

typedef struct part {
    tdm_dataset *data;
    double up_to;   /* of the weights' sum, this one's included */
    int64_t taken;  /* draws of this part below `next` */
} part;

struct tdm_mixture {
    part *part; /* [count] */
    int64_t count, next;
    uint64_t seed;
    bool shuffle;
};

tdm_status tdm_mixture_open(tdm_mixture **out, const char *const *paths, const double *weights, int64_t count, uint64_t seed, bool shuffle, tdm_error *err)
{
    tdm_status st = TDM_OK;
    double sum = 0.0;
    tdm_mixture *m = calloc(1, sizeof *m);
    *out = NULL;
    if (m) m->part = calloc((size_t)count, sizeof *m->part);
    if (!m || !m->part) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, paths[0], "free host memory", "out of memory for the data");
        goto done;
    }
    m->seed = seed;
    m->shuffle = shuffle;
    for (m->count = 0; m->count < count; m->count++) {
        TDM_TRY(st, tdm_dataset_open(&m->part[m->count].data, paths[m->count], err), done);
        m->part[m->count].up_to = sum += weights[m->count];
    }
done:
    if (st != TDM_OK) tdm_mixture_close(m);
    else *out = m;
    return st;
}

void tdm_mixture_close(tdm_mixture *m)
{
    if (!m) return;
    for (int64_t p = 0; p < m->count; p++) tdm_dataset_close(m->part[p].data);
    free(m->part);
    free(m);
}

int64_t tdm_mixture_rows(const tdm_mixture *m)
{
    int64_t rows = 0;
    for (int64_t p = 0; p < m->count; p++) rows += tdm_dataset_rows(m->part[p].data);
    return rows;
}

const tdm_dataset *tdm_mixture_part(const tdm_mixture *m, int64_t p) { return m->part[p].data; }

static int64_t chosen(const tdm_mixture *m, int64_t i)
{
    if (m->count == 1) return 0;
    const tdm_philox4 r = tdm_philox(m->seed, (uint32_t)i, (uint32_t)((uint64_t)i >> 32), 0, 0x6d697874u /* "mixt": apart from rows and sampling */);
    const double at = (double)r.v[0] / 4294967296.0 * m->part[m->count - 1].up_to;
    int64_t p = 0;
    while (p + 1 < m->count && at >= m->part[p].up_to) p++;
    return p;
}

void tdm_mixture_draw(tdm_mixture *m, int64_t i, int64_t *of, int64_t *row)
{
    if (i < m->next) {
        for (int64_t p = 0; p < m->count; p++) m->part[p].taken = 0;
        m->next = 0;
    }
    for (; m->next < i; m->next++) m->part[chosen(m, m->next)].taken++;
    const int64_t p = *of = chosen(m, i);
    /* each part has its own order, also where two are of one length */
    *row = tdm_dataset_draw(m->part[p].data, m->seed + (uint64_t)p * 0x9E3779B97F4A7C15ull, m->shuffle, m->part[p].taken);
}
