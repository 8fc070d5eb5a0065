/* Patterns of normalizers, pre-tokenizers and decoders: a literal text or a regular expression. */
#include <stdlib.h>
#include <string.h>

#include "runtime/text/tokenizer_impl.h"
#include "runtime/text/unicode.h"

const char tdm_gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

tdm_status tdm_pattern_literal(tdm_pattern *p, const char *s, size_t len, const char *name, tdm_error *err)
{
    if (len == 0) return tdm_pattern_regex(p, s, len, name, err); /* matches between any two characters, as the reference has it */
    p->literal = tdm_copy(s, len, err);
    p->literal_len = len;
    return p->literal ? TDM_OK : TDM_ERR_OTHER;
}

tdm_status tdm_pattern_regex(tdm_pattern *p, const char *s, size_t len, const char *name, tdm_error *err)
{
    return tdm_regex_open(&p->regex, s, len, name, err);
}

void tdm_pattern_fini(tdm_pattern *p)
{
    tdm_regex_close(p->regex);
    free(p->literal);
    *p = (tdm_pattern){0};
}

int tdm_pattern_next(const tdm_pattern *p, tdm_matcher *m, const char *s, size_t len, size_t *from, size_t *last, size_t *start,
                     size_t *end, tdm_error *err)
{
    if (!p->regex) {
        const char *hit = *from < len ? memmem(s + *from, len - *from, p->literal, p->literal_len) : NULL;
        if (!hit) return 0;
        *start = (size_t)(hit - s);
        *end = *from = *last = *start + p->literal_len;
        return 1;
    }
    while (*from <= len) {
        int found = tdm_regex_find(p->regex, m, s, len, *from, start, end, err);
        if (found <= 0) return found;
        if (*start != *end || *end != *last) {
            *from = *last = *end;
            return 1;
        }
        size_t n = 1; /* an empty match right after the last one does not count */
        if (*from < len) (void)tdm_utf8_get(s + *from, &n);
        *from += n;
    }
    return 0;
}
