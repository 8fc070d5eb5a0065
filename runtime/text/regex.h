/* Regular expressions as tokenizer files write them (Oniguruma, Ruby syntax) run by PCRE2: the pattern is rewritten where the
 * two differ, and what cannot be said in PCRE2 is refused by name. Private to runtime/text. */
#ifndef TANDEM_RUNTIME_TEXT_REGEX_H
#define TANDEM_RUNTIME_TEXT_REGEX_H

#include "kernels/base.h"

typedef struct tdm_regex tdm_regex;                       /* immutable: any thread may match with it */
typedef struct tdm_matcher { void *data; } tdm_matcher;   /* one per thread, start as {0}; memory of a match in progress */

/* name: what errors call it. */
tdm_status tdm_regex_open(tdm_regex **re, const char *pattern, size_t len, const char *name, tdm_error *err);
void tdm_regex_close(tdm_regex *re);
/* First match at or after `from` in valid UTF-8. 1 found, 0 none, -1 an error. */
int tdm_regex_find(const tdm_regex *re, tdm_matcher *m, const char *s, size_t len, size_t from, size_t *start, size_t *end,
                   tdm_error *err);
void tdm_matcher_fini(tdm_matcher *m);

#endif
