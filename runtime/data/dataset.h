/* Rows of a JSONL file: offsets are indexed when opened, rows are parsed when asked for.
 *   created   tdm_dataset_open    released  tdm_dataset_close
 *   threads   one at a time
 * Errors name file:line. */
#ifndef TANDEM_RUNTIME_DATA_DATASET_H
#define TANDEM_RUNTIME_DATA_DATASET_H

#include <jansson.h>

#include "kernels/base.h"

typedef struct tdm_dataset tdm_dataset;

/* Empty lines do not count. A file without rows is an error. */
tdm_status tdm_dataset_open(tdm_dataset **d, const char *path, tdm_error *err);
void tdm_dataset_close(tdm_dataset *d); /* NULL: nothing */
int64_t tdm_dataset_rows(const tdm_dataset *d);
/* "train.jsonl:12" of a row, into buf. */
const char *tdm_dataset_where(const tdm_dataset *d, int64_t row, char buf[512]);
/* Row as an object; a new reference. */
tdm_status tdm_dataset_row(const tdm_dataset *d, int64_t row, json_t **object, tdm_error *err);
/* The row of draw number i, from 0, over all epochs: a pure function of (seed, i), so that a resume needs only a counter. Without
 * shuffle rows come in file order, again and again; with it each epoch is a permutation of its own (Philox, keyed by seed and epoch). */
int64_t tdm_dataset_draw(const tdm_dataset *d, uint64_t seed, bool shuffle, int64_t i);

/* "{column}" in a template becomes the row's value (a string as it is, other values as JSON); "{{" and "}}" are braces. A column the
 * row does not have is an error that lists those it has. *text is malloc'd. where: the row's, for errors. */
tdm_status tdm_template_fill(const char *template_text, const json_t *row, const char *where, char **text, size_t *len, tdm_error *err);

/* The messages a row asks with: [system?, user: prompt filled in] when `prompt` is not ""; else the row's "messages" (up to the last
 * user message), or its "prompt" (a list of messages, or a text), or its "question". New reference. */
tdm_status tdm_row_messages(const json_t *row, const char *system, const char *prompt, const char *where, json_t **messages, tdm_error *err);

#endif
