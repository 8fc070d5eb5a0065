/* Lists of module names and regular expressions, as quantization configs have them. */
#ifndef TANDEM_MEMORY_MODULE_PATTERNS_H
#define TANDEM_MEMORY_MODULE_PATTERNS_H

#include "kernels/base.h"

#include <jansson.h>

typedef enum tdm_pattern_rule {
    TDM_PATTERN_COMPRESSED, /* exact, or "re:" and a regex matched from the start, or the class name "Linear" */
    TDM_PATTERN_CONVERT     /* a regex from the start to a module boundary, or the end of the name */
} tdm_pattern_rule;

typedef struct tdm_patterns tdm_patterns;

/* list: a JSON array of texts; NULL: an empty list. */
tdm_status tdm_patterns_read(tdm_patterns **p, const json_t *list, tdm_pattern_rule rule, const char *where, tdm_error *err);
void tdm_patterns_free(tdm_patterns *p);
/* *out: one of them matches the module. A regex that takes too long is an error. */
tdm_status tdm_patterns_match(const tdm_patterns *p, const char *module, const char *where, bool *out, tdm_error *err);

/* A person's name for modules, as model.keep_bf16 has them: a part of the module's name, or "re:" and a regex matched from the start. */
tdm_status tdm_module_named(const char *name, const char *module, const char *where, bool *out, tdm_error *err);

#endif
