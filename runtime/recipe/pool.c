#include "runtime/recipe/pool.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tdm_pool_block {
    struct tdm_pool_block *before;
    max_align_t bytes[];
};

void *tdm_pool_take(tdm_pool *p, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) return NULL;
    struct tdm_pool_block *b = calloc(1, sizeof *b + bytes);
    if (!b) return NULL;
    b->before = p->last;
    p->last = b;
    return b->bytes;
}

char *tdm_pool_text(tdm_pool *p, const char *text, size_t len)
{
    char *copy = tdm_pool_take(p, len + 1);
    if (copy && len) memcpy(copy, text, len);
    return copy;
}

char *tdm_pool_print(tdm_pool *p, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (len < 0) return NULL;
    char *text = tdm_pool_take(p, (size_t)len + 1);
    if (!text) return NULL;
    va_start(args, fmt);
    vsnprintf(text, (size_t)len + 1, fmt, args);
    va_end(args);
    return text;
}

void tdm_pool_free(tdm_pool *p)
{
    while (p->last) {
        struct tdm_pool_block *b = p->last;
        p->last = b->before;
        free(b);
    }
}
