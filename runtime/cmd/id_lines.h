/* JSONL of {"ids":[...]}, read whole. */
#ifndef TANDEM_RUNTIME_CMD_ID_LINES_H
#define TANDEM_RUNTIME_CMD_ID_LINES_H

#include "kernels/base.h"

typedef struct tdm_id_line {
    int32_t *ids;
    int64_t count, number; /* number: line in the file, from 1 */
} tdm_id_line;

typedef struct tdm_id_lines {
    tdm_id_line *line;
    int64_t count, room, longest, tokens;
} tdm_id_lines;

/* path "-": stdin. Empty lines are skipped; anything else that is not such an object is an error that names the line. */
tdm_status tdm_id_lines_read(tdm_id_lines *in, const char *path, tdm_error *err);
void tdm_id_lines_free(tdm_id_lines *in);
/* One float a token of every line: *rows [count] pointers, one allocation (free). */
tdm_status tdm_id_lines_rows(const tdm_id_lines *in, float ***rows, tdm_error *err);

#endif
