/* A growing piece of text, and JSON written into it. For the run's output files: JSON strings come out as valid UTF-8 whatever
 * bytes go in (a completion may end inside a character: the bad bytes become U+FFFD), and numbers with "%.9g", which carries
 * an f32 exactly; whole numbers below 2^53 are written in full.
 *   created  as {0}      released  tdm_text_free      keeps its memory across tdm_text_clear
 *   errors   out of memory is remembered in `failed`; the one who writes the text out checks it once (tdm_text_check) */
#ifndef TANDEM_RUNTIME_RUN_TEXT_H
#define TANDEM_RUNTIME_RUN_TEXT_H

#include "kernels/base.h"

typedef struct tdm_text {
    char *data; /* terminated once anything was put */
    size_t len, room;
    bool failed;
} tdm_text;

void tdm_text_free(tdm_text *t);
void tdm_text_clear(tdm_text *t);
void tdm_text_put(tdm_text *t, const char *data, size_t len);
void tdm_text_puts(tdm_text *t, const char *s);
void tdm_text_printf(tdm_text *t, const char *fmt, ...) TDM_PRINTF(2, 3);
void tdm_text_number(tdm_text *t, double v);                          /* finite */
void tdm_text_json(tdm_text *t, const char *s, size_t len);           /* "..." */
/* The same, and '<', '>', '&' become \u003c...: safe inside a <script> element. */
void tdm_text_json_html(tdm_text *t, const char *s, size_t len);
tdm_status tdm_text_check(const tdm_text *t, const char *where, tdm_error *err);

#endif
