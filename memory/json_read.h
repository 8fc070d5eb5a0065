/* Reading JSON configuration files with errors that name file and key. */
#ifndef TANDEM_MEMORY_JSON_READ_H
#define TANDEM_MEMORY_JSON_READ_H

#include "kernels/base.h"

#include <jansson.h>

/* An object; duplicate keys are an error. The caller owns *out (json_decref). `where` names the text in errors. */
tdm_status tdm_json_parse(json_t **out, const char *text, size_t bytes, const char *where, tdm_error *err);
tdm_status tdm_json_open(json_t **out, const char *path, tdm_error *err);

/* Value of a key, NULL when it is missing or null. */
const json_t *tdm_json_get(const json_t *object, const char *key);

/* Typed fields of `object`. Missing or null: *out stays what it was, unless `required`. Wrong type or outside [min, max]: an error. */
typedef struct tdm_json_fields {
    const json_t *object;
    const char *where;
    tdm_error *err;
} tdm_json_fields;
tdm_status tdm_json_int(const tdm_json_fields *f, const char *key, bool required, int64_t min, int64_t max, int64_t *out);
tdm_status tdm_json_real(const tdm_json_fields *f, const char *key, bool required, double min, double max, double *out);
tdm_status tdm_json_bool(const tdm_json_fields *f, const char *key, bool *out);
/* *out borrowed. */
tdm_status tdm_json_str(const tdm_json_fields *f, const char *key, const char **out);

#endif
