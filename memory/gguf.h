/* GGUF v3: metadata and tensor directory of a llama.cpp model file, mmap'd and validated (sizes checked before any multiplication).
 * Source: ggml-org/ggml, docs/gguf.md. */
#ifndef TANDEM_MEMORY_GGUF_H
#define TANDEM_MEMORY_GGUF_H

#include "kernels/base.h"

typedef struct tdm_gguf tdm_gguf;

typedef struct tdm_str { const char *data; size_t len; } tdm_str; /* borrowed, not terminated */

tdm_status tdm_gguf_open(tdm_gguf **g, const char *path, tdm_error *err);
/* The same from bytes the caller lends until close; `where` names them in errors. */
tdm_status tdm_gguf_parse(tdm_gguf **g, const void *data, size_t bytes, const char *where, tdm_error *err);
void tdm_gguf_close(tdm_gguf *g);

/* Metadata by key; false when the key is missing or has another type (integers of any width convert, f32/f64 too). */
bool tdm_gguf_str(const tdm_gguf *g, const char *key, tdm_str *out);
bool tdm_gguf_int(const tdm_gguf *g, const char *key, int64_t *out);
bool tdm_gguf_float(const tdm_gguf *g, const char *key, double *out);
bool tdm_gguf_bool(const tdm_gguf *g, const char *key, bool *out);
/* Arrays: the count, -1 when missing; elements one by one. Random access is O(1). */
int64_t tdm_gguf_array_count(const tdm_gguf *g, const char *key);
bool tdm_gguf_array_str(const tdm_gguf *g, const char *key, int64_t i, tdm_str *out);
bool tdm_gguf_array_int(const tdm_gguf *g, const char *key, int64_t i, int64_t *out);
bool tdm_gguf_array_float(const tdm_gguf *g, const char *key, int64_t i, double *out);

bool tdm_gguf_has(const tdm_gguf *g, const char *key); /* the key is there, whatever its type */

/* The tensors, under the names the file gives them, outermost dimension first. */
struct tdm_tensor;
int64_t tdm_gguf_tensor_count(const tdm_gguf *g);
const struct tdm_tensor *tdm_gguf_tensor_at(const tdm_gguf *g, int64_t i);

#endif
