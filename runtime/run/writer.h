/* A growing piece of text, and JSON written into it. For the run's output files: JSON strings come out as valid UTF-8 whatever
 * bytes go in (a completion may end inside a character: the bad bytes become U+FFFD), and numbers with "%.9g", which carries
 * an f32 exactly; whole numbers below 2^53 are written in full.
 *   created  as {0}      released  tdm_writer_free      keeps its memory across tdm_writer_clear
 *   errors   out of memory is remembered in `failed`; the one who writes the text out checks it once (tdm_writer_check) */
#ifndef TANDEM_RUNTIME_RUN_WRITER_H
#define TANDEM_RUNTIME_RUN_WRITER_H

#include "kernels/base.h"

typedef struct tdm_writer {
    char *data; /* terminated once anything was put */
    size_t len, room;
    bool failed;
} tdm_writer;

void tdm_writer_free(tdm_writer *t);
void tdm_writer_clear(tdm_writer *t);
void tdm_writer_put(tdm_writer *t, const char *data, size_t len);
void tdm_writer_puts(tdm_writer *t, const char *s);
void tdm_writer_printf(tdm_writer *t, const char *fmt, ...) TDM_PRINTF(2, 3);
void tdm_writer_number(tdm_writer *t, double v);                          /* finite */
void tdm_writer_json(tdm_writer *t, const char *s, size_t len);           /* "..." */
tdm_status tdm_writer_check(const tdm_writer *t, const char *where, tdm_error *err);

#endif
