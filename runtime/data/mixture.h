/* Several datasets, drawn from by weight. Draw number i, from 0, is of one part, the k-th draw of that part, and so of one of its rows: a
 * pure function of (seed, i), so that a resume needs only the counter of all draws.
 *   created   tdm_mixture_open    released  tdm_mixture_close
 *   threads   one at a time */
#ifndef TANDEM_RUNTIME_DATA_MIXTURE_H
#define TANDEM_RUNTIME_DATA_MIXTURE_H

#include "runtime/data/dataset.h"

typedef struct tdm_mixture tdm_mixture;

/* paths [count], count >= 1; weights [count], above 0: a part's share of the draws is its weight's of their sum. */
tdm_status tdm_mixture_open(tdm_mixture **m, const char *const *paths, const double *weights, int64_t count, uint64_t seed, bool shuffle, tdm_error *err);
void tdm_mixture_close(tdm_mixture *m); /* NULL: nothing */
int64_t tdm_mixture_rows(const tdm_mixture *m); /* of all parts */
const tdm_dataset *tdm_mixture_part(const tdm_mixture *m, int64_t part);
/* Rising i cost one step each; an i below the last one asked for is counted from the start again. */
void tdm_mixture_draw(tdm_mixture *m, int64_t i, int64_t *of, int64_t *row);

#endif
