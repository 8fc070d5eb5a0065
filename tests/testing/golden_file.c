#include "testing/golden_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 2048, NAME = 48 };

typedef struct record {
    char name[NAME + 1];
    tdm_cview view;
} record;

struct test_goldens {
    record records[MOST];
    size_t n;
};

test_goldens *test_goldens_open(const char *path)
{
    test_goldens *g = calloc(1, sizeof *g);
    FILE *f = fopen(path, "rb");
    if (!g || !f) fail_msg("cannot open the goldens %s (run from the root of the repository)", path);
    record *r = g->records;
    while (fread(r->name, NAME, 1, f) == 1) {
        uint32_t head[3];
        if (fread(head, sizeof head, 1, f) != 1 || head[0] > TDM_DTYPE_U8 || ++g->n == MOST) fail_msg("%s: bad record %s", path, r->name);
        const size_t bytes = (size_t)head[1] * head[2] * tdm_dtype_bytes((tdm_dtype)head[0]);
        void *data = malloc(bytes + 1);
        if (!data || fread(data, 1, bytes, f) != bytes) fail_msg("%s: ends inside %s", path, r->name);
        r->view = (tdm_cview){data, (tdm_dtype)head[0], head[1], head[2], head[2]};
        r++;
    }
    fclose(f);
    return g;
}

void test_goldens_close(test_goldens *g)
{
    if (!g) return;
    for (size_t i = 0; i < g->n; i++) free((void *)(uintptr_t)g->records[i].view.data);
    free(g);
}

tdm_cview test_golden(const test_goldens *g, const char *format, ...)
{
    char name[NAME + 1];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    for (size_t i = 0; i < g->n; i++)
        if (strcmp(g->records[i].name, name) == 0) return g->records[i].view;
    fail_msg("no golden is named %s", name);
    return (tdm_cview){0};
}
