/* Inside BPE. Private to bpe.c and bpe_long.c. */
#ifndef TANDEM_RUNTIME_TEXT_BPE_H
#define TANDEM_RUNTIME_TEXT_BPE_H

#include "runtime/text/tokenizer_impl.h"

enum { TDM_BPE_SHORT = 40 }; /* symbols up to which scanning wins over a heap */

const tdm_merge *tdm_bpe_merge(const tdm_bpe *b, int32_t left, int32_t right); /* NULL: they do not merge */
const tdm_map *tdm_bpe_words(const tdm_tokenizer *t);
/* Merges e->symbols[0, *n) in place in O(n log n); *n becomes what is left. */
tdm_status tdm_bpe_merge_long(tdm_encoder *e, int64_t *n);

#endif
