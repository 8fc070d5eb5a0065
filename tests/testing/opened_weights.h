/* The weights of a model folder or file, opened for a test. Header-only, beside tiny_model.h. */
#ifndef TANDEM_TESTS_OPENED_WEIGHTS_H
#define TANDEM_TESTS_OPENED_WEIGHTS_H

#include "testing/tiny_model.h"

typedef struct opened {
    tdm_model_file *file;
    tdm_weights *weights;
    void *region;
} opened;

static inline void open_weights(opened *o, const char *path, const tdm_weights_options *options)
{
    size_t bytes;
    memset(o, 0, sizeof *o);
    TINY_OK(tdm_model_file_open(&o->file, path, err));
    TINY_OK(tdm_weights_bytes(o->file, options, &bytes, err));
    o->region = aligned_alloc(64, tdm_align_up(bytes, 64));
    TINY_OK(tdm_weights_open(&o->weights, o->file, options, &(tdm_region){o->region, bytes, NULL, NULL}, err));
}

static inline void close_weights(opened *o)
{
    tdm_weights_close(o->weights);
    tdm_model_file_close(o->file);
    free(o->region);
}

#endif
