/* Host memory of one phase or purpose. Things are allocated one by one and released all at once.
 *   created   tdm_arena_open, with a ceiling in bytes     released  tdm_arena_close
 *   bytes     a jemalloc arena of its own; in debug and ASan builds a reset poisons what it releases
 *   threads   one at a time */
#ifndef TANDEM_MEMORY_ARENA_H
#define TANDEM_MEMORY_ARENA_H

#include "kernels/base.h"

typedef struct tdm_arena tdm_arena;

tdm_status tdm_arena_open(tdm_arena **a, const char *name, size_t limit_bytes, tdm_error *err);
void tdm_arena_close(tdm_arena *a);                              /* NULL: nothing */
void *tdm_arena_alloc(tdm_arena *a, size_t bytes, size_t align); /* zeroed; NULL: past the limit or out of memory. align a power of two */
void tdm_arena_reset(tdm_arena *a);                              /* every pointer handed out is now stale */
size_t tdm_arena_used_bytes(const tdm_arena *a);
size_t tdm_arena_peak_bytes(const tdm_arena *a);

#endif
