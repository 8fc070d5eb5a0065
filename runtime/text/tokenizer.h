/* Text to token ids and back, from tokenizer.json (byte-level BPE; BPE with byte fallback) or a GGUF's metadata. Immutable after open, but
 * for what it remembers about words it met, which changes no result; encode and decode may run on any thread. */
#ifndef TANDEM_RUNTIME_TEXT_TOKENIZER_H
#define TANDEM_RUNTIME_TEXT_TOKENIZER_H

#include "memory/model_file.h"

typedef struct tdm_tokenizer tdm_tokenizer;

typedef struct tdm_ids { int32_t *data; int64_t count, room; } tdm_ids;   /* grows with malloc; tdm_ids_free */
typedef struct tdm_text { char *data; size_t len, room; } tdm_text;       /* always NUL-terminated after a write; tdm_text_free */
void tdm_ids_free(tdm_ids *ids);
void tdm_text_free(tdm_text *text);
tdm_status tdm_ids_push(tdm_ids *ids, int32_t id, tdm_error *err);
tdm_status tdm_text_append(tdm_text *text, const char *data, size_t len, tdm_error *err);

/* path: a model folder (tokenizer.json, tokenizer_config.json) or a .gguf; `gguf` saves opening it twice and may be NULL. */
tdm_status tdm_tokenizer_open(tdm_tokenizer **t, const char *path, const tdm_gguf *gguf, tdm_error *err);
void tdm_tokenizer_close(tdm_tokenizer *t);
int32_t tdm_tokenizer_vocab(const tdm_tokenizer *t);
int32_t tdm_tokenizer_bos(const tdm_tokenizer *t); /* -1: none */
int32_t tdm_tokenizer_eos(const tdm_tokenizer *t); /* -1: none */
/* Text of the model's chat template, or NULL; bos/eos/pad/unk token texts for it ("" when none). */
const char *tdm_tokenizer_chat_template(const tdm_tokenizer *t);
const char *tdm_tokenizer_special_text(const tdm_tokenizer *t, const char *which); /* "bos_token", "eos_token", "pad_token", "unk_token" */

/* Appends. add_special: also what the post-processor adds to a plain string. Special tokens written in the text are recognised. */
tdm_status tdm_tokenizer_encode(const tdm_tokenizer *t, const char *text, size_t len, bool add_special, tdm_ids *ids, tdm_error *err);
/* Appends. skip_special leaves special tokens out. Equal to tokenizers' decode: an id without a token, as a model's padded vocabulary
 * has them, is no text. A negative id is an error. */
tdm_status tdm_tokenizer_decode(const tdm_tokenizer *t, const int32_t *ids, int64_t count, bool skip_special, tdm_text *text, tdm_error *err);

#endif
