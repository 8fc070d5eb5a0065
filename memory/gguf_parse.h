/* Inside of a tdm_gguf, shared by the parser and the metadata accessors. */
#ifndef TANDEM_MEMORY_GGUF_PARSE_H
#define TANDEM_MEMORY_GGUF_PARSE_H

#include "memory/file_map.h"
#include "memory/gguf.h"
#include "memory/tensor.h"

typedef enum tdm_gguf_type {
    TDM_GGUF_U8, TDM_GGUF_I8, TDM_GGUF_U16, TDM_GGUF_I16, TDM_GGUF_U32, TDM_GGUF_I32, TDM_GGUF_F32, TDM_GGUF_BOOL,
    TDM_GGUF_STRING, TDM_GGUF_ARRAY, TDM_GGUF_U64, TDM_GGUF_I64, TDM_GGUF_F64, TDM_GGUF_TYPES
} tdm_gguf_type;

/* One metadata entry; nothing is copied. */
typedef struct tdm_gguf_value {
    tdm_str key;
    tdm_gguf_type type, item;  /* item: element type of an array */
    const unsigned char *data; /* the value, or the first element; a string's bytes; unaligned */
    uint64_t count;            /* elements of an array; length of a string */
    uint64_t *offsets;         /* owned; array of strings: where each element's length stands, from data */
} tdm_gguf_value;

struct tdm_gguf {
    tdm_file_map map;       /* empty when the bytes are lent */
    char *where;            /* owned */
    tdm_gguf_value *values; /* owned; sorted by key */
    int64_t value_count;
    tdm_tensor *tensors;    /* owned, with their names */
    int64_t tensor_count;
    uint64_t alignment;
};

/* Bytes of a fixed-width type; 0 for strings and arrays. */
size_t tdm_gguf_type_bytes(tdm_gguf_type t);
const tdm_gguf_value *tdm_gguf_find(const tdm_gguf *g, const char *key); /* NULL: missing */
/* The ggml type numbered `id`: its name, block and what can read it; false: unknown. Source: ggml-org/ggml, include/ggml.h. */
bool tdm_ggml_type(uint32_t id, const char **name, tdm_elem *elem, int64_t *elements, size_t *bytes);

#endif
