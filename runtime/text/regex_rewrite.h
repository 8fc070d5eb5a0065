/* Rewrites an Oniguruma (Ruby syntax) pattern as one that means the same to PCRE2 with UTF and UCP. Private to regex.c. */
#ifndef TANDEM_RUNTIME_TEXT_REGEX_REWRITE_H
#define TANDEM_RUNTIME_TEXT_REGEX_REWRITE_H

#include "runtime/text/tokenizer.h"

/* Appends the rewritten pattern. What PCRE2 cannot express is an error that names the construct. */
tdm_status tdm_regex_rewrite(const char *pattern, size_t len, const char *name, tdm_text *out, tdm_error *err);

#endif
