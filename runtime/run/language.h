/* The text side of a model: tokenizer, chat template, stop strings. */
#ifndef TANDEM_RUNTIME_RUN_LANGUAGE_H
#define TANDEM_RUNTIME_RUN_LANGUAGE_H

#include "infer/sequence.h"
#include "runtime/text/chat.h"
#include "runtime/text/tokenizer.h"

typedef struct tdm_language {
    tdm_tokenizer *tokenizer;
    tdm_chat *chat;               /* NULL: the model has no template */
    char path[512];
    int32_t eos[9];               /* of the config, and the tokenizer's own */
    int eos_count;
} tdm_language;

tdm_status tdm_language_open(tdm_language *l, const tdm_model_file *f, tdm_error *err);
void tdm_language_close(tdm_language *l);
/* Renders the template with vars (an object with "messages" and what else the template reads; the special tokens' texts are added)
 * and encodes it: nothing is added beyond the template's text. */
tdm_status tdm_language_chat_ids(const tdm_language *l, const json_t *vars, tdm_text *text, tdm_ids *ids, tdm_error *err);
/* A completion's text, special tokens left out. */
tdm_status tdm_language_text(const tdm_language *l, const int32_t *ids, int64_t count, tdm_text *text, tdm_error *err);

/* Stop strings, for tdm_request.stop: true when the newest token completed one in the turn at hand. */
typedef struct tdm_stops {
    const tdm_language *l;
    const char *const *strings;   /* NULL-terminated, none empty */
    size_t longest;
    tdm_text tail;                /* scratch */
} tdm_stops;
void tdm_stops_init(tdm_stops *s, const tdm_language *l, const char *const *strings);
void tdm_stops_fini(tdm_stops *s);
bool tdm_stops_hit(void *stops, const tdm_sequence *seq);

#endif
