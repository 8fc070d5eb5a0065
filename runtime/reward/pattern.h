/* The patterns of rewards: PCRE2 over text that a model wrote, with bounds on what one match may cost.
 *   created   tdm_pattern_open    released  tdm_pattern_close    threads  one at a time */
#ifndef TANDEM_RUNTIME_REWARD_PATTERN_H
#define TANDEM_RUNTIME_REWARD_PATTERN_H

#include "kernels/base.h"

typedef struct tdm_pattern tdm_pattern;

/* whole: it must match all of a text, and the dot matches line ends (the field's format rewards use re.DOTALL). where: the recipe's place. */
tdm_status tdm_pattern_open(tdm_pattern **p, const char *pattern, bool whole, const char *where, tdm_error *err);
void tdm_pattern_close(tdm_pattern *p); /* NULL: nothing */

typedef struct tdm_pattern_hit {
    const char *text;  /* the first group that took part, or the whole match */
    size_t len;
    size_t end;        /* of the whole match, from the text's start */
} tdm_pattern_hit;
/* The first match. A pattern that backtracks past its bounds does not match: no completion may stall a run. */
bool tdm_pattern_find(tdm_pattern *p, const char *text, size_t len, tdm_pattern_hit *hit);

#endif
