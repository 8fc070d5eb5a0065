/* Two bodies behind one header. Normally each arena is a jemalloc arena of its own, so a reset is one call whatever the
 * number of objects. Under sanitizers jemalloc is not linked (it would stand between them and the heap): objects come
 * from malloc and a reset frees each, so that a stale pointer is a report and not a guess. TDM_ARENA_JEMALLOC is set by
 * the build. */
#include "memory/arena.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if TDM_ARENA_JEMALLOC
#include <jemalloc/jemalloc.h>
#endif

enum { POISON = 0xdd };

/* What was handed out: kept where a reset must see every object, that is to free or to poison it. */
typedef struct object {
    void *data;
    size_t bytes;
} object;

struct tdm_arena {
    char name[64];
    size_t limit, used, peak;
#if TDM_ARENA_JEMALLOC
    unsigned index;
#endif
    object *objects; /* owned */
    size_t count, room;
};

#if TDM_ARENA_JEMALLOC && defined(NDEBUG)
enum { LISTED = 0 };
#else
enum { LISTED = 1 };
#endif

#if TDM_ARENA_JEMALLOC

static tdm_status heap_open(tdm_arena *a, tdm_error *err)
{
    size_t bytes = sizeof a->index;
    const int rc = mallctl("arenas.create", &a->index, &bytes, NULL, 0);
    if (rc != 0) return TDM_FAIL(err, TDM_ERR_OTHER, a->name, NULL, "cannot create an arena: %s", strerror(rc));
    return TDM_OK;
}

static void heap_command(const tdm_arena *a, const char *what)
{
    char command[64];
    snprintf(command, sizeof command, "arena.%u.%s", a->index, what);
    TDM_ASSERT_EQ(mallctl(command, NULL, NULL, NULL, 0), 0);
}

static void *heap_alloc(tdm_arena *a, size_t bytes, size_t align)
{
    /* No thread cache: it would keep objects of this arena beyond its reset. */
    return mallocx(bytes, MALLOCX_ARENA(a->index) | MALLOCX_TCACHE_NONE | MALLOCX_ALIGN(align) | MALLOCX_ZERO);
}

static void heap_reset(tdm_arena *a)
{
    for (size_t i = 0; i < a->count; i++) memset(a->objects[i].data, POISON, a->objects[i].bytes);
    heap_command(a, "reset");
}

static void heap_close(tdm_arena *a) { heap_command(a, "destroy"); }

#else

static tdm_status heap_open(tdm_arena *a, tdm_error *err)
{
    (void)a;
    (void)err;
    return TDM_OK;
}

static void *heap_alloc(tdm_arena *a, size_t bytes, size_t align)
{
    void *data = NULL;
    (void)a;
    if (posix_memalign(&data, align < sizeof(void *) ? sizeof(void *) : align, bytes) != 0) return NULL;
    return memset(data, 0, bytes);
}

static void heap_reset(tdm_arena *a)
{
    for (size_t i = 0; i < a->count; i++) {
        memset(a->objects[i].data, POISON, a->objects[i].bytes);
        free(a->objects[i].data);
    }
}

static void heap_close(tdm_arena *a) { heap_reset(a); }

#endif

tdm_status tdm_arena_open(tdm_arena **out, const char *name, size_t limit_bytes, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_arena *a = calloc(1, sizeof *a);

    *out = NULL;
    if (!a) return TDM_FAIL(err, TDM_ERR_OTHER, name, NULL, "out of memory");
    snprintf(a->name, sizeof a->name, "%s", name);
    a->limit = limit_bytes;
    TDM_TRY(st, heap_open(a, err), fail);
    *out = a;
    return st;
fail:
    free(a);
    return st;
}

void tdm_arena_close(tdm_arena *a)
{
    if (!a) return;
    heap_close(a);
    free(a->objects);
    free(a);
}

/* Room in the list for one object more. */
static bool list_room(tdm_arena *a)
{
    if (!LISTED || a->count < a->room) return true;
    const size_t room = a->room ? 2 * a->room : 64;
    object *objects = realloc(a->objects, room * sizeof *objects);
    if (!objects) return false;
    a->objects = objects;
    a->room = room;
    return true;
}

void *tdm_arena_alloc(tdm_arena *a, size_t bytes, size_t align)
{
    TDM_ASSERT(align > 0 && (align & (align - 1)) == 0);
    if (bytes == 0) bytes = 1; /* a pointer of its own, as malloc would give */
    if (bytes > SIZE_MAX - align || tdm_align_up(bytes, align) > a->limit - a->used || !list_room(a)) return NULL;
    const size_t taken = tdm_align_up(bytes, align);
    void *data = heap_alloc(a, bytes, align);
    if (!data) return NULL;
    if (LISTED) a->objects[a->count++] = (object){data, bytes};
    a->used += taken;
    if (a->used > a->peak) a->peak = a->used;
    return data;
}

void tdm_arena_reset(tdm_arena *a)
{
    heap_reset(a);
    a->count = 0;
    a->used = 0;
}

size_t tdm_arena_used_bytes(const tdm_arena *a) { return a->used; }
size_t tdm_arena_peak_bytes(const tdm_arena *a) { return a->peak; }
