/* Merging a long segment: a heap of candidate merges ordered by (rank, position), a list of live symbols. An entry whose symbols
 * changed since it was pushed is skipped when it comes up. */
#include "runtime/text/bpe.h"

#include <stdlib.h>

typedef struct entry { uint64_t key; int32_t left, right, id; } entry; /* key = rank << 32 | position */

typedef struct work {
    int32_t *prev, *next; /* [n] neighbours by position, -1 at the ends */
    entry *heap;          /* [3 n]: one push per initial pair and at most two per merge */
    int64_t count;
} work;

static void heap_push(work *w, entry e)
{
    int64_t i = w->count++;
    while (i > 0) {
        int64_t up = (i - 1) / 4;
        if (w->heap[up].key <= e.key) break;
        w->heap[i] = w->heap[up];
        i = up;
    }
    w->heap[i] = e;
}

static entry heap_pop(work *w)
{
    entry top = w->heap[0], last = w->heap[--w->count];
    int64_t i = 0;
    for (;;) {
        int64_t first = 4 * i + 1, best = first;
        if (first >= w->count) break;
        for (int64_t c = first + 1; c < first + 4 && c < w->count; c++)
            if (w->heap[c].key < w->heap[best].key) best = c;
        if (w->heap[best].key >= last.key) break;
        w->heap[i] = w->heap[best];
        i = best;
    }
    w->heap[i] = last;
    return top;
}

static void offer(work *w, const tdm_bpe *b, const int32_t *sym, int32_t at)
{
    int32_t right = w->next[at];
    if (right < 0) return;
    const tdm_merge *m = tdm_bpe_merge(b, sym[at], sym[right]);
    if (m) heap_push(w, (entry){(uint64_t)m->rank << 32 | (uint32_t)at, sym[at], sym[right], m->id});
}

tdm_status tdm_bpe_merge_long(tdm_encoder *e, int64_t *count)
{
    int64_t n = *count;
    int32_t *sym = e->symbols;
    const tdm_bpe *b = &e->t->bpe;
    if (n > INT32_MAX / 4) return TDM_FAIL(e->err, TDM_ERR_INPUT, NULL, "split the text", "a word of %lld symbols", (long long)n);
    size_t need = (size_t)n * (3 * sizeof(entry) + 2 * sizeof(int32_t));
    if (need > e->long_words_bytes) {
        free(e->long_words);
        e->long_words = malloc(need);
        e->long_words_bytes = e->long_words ? need : 0;
        if (!e->long_words) return TDM_FAIL(e->err, TDM_ERR_OTHER, NULL, NULL, "out of host memory");
    }
    work w = {.heap = e->long_words};
    w.prev = (int32_t *)(w.heap + 3 * n);
    w.next = w.prev + n;
    for (int32_t i = 0; i < n; i++) {
        w.prev[i] = i - 1;
        w.next[i] = i + 1 < n ? i + 1 : -1;
    }
    for (int32_t i = 0; i < n; i++) offer(&w, b, sym, i);
    while (w.count > 0) {
        entry top = heap_pop(&w);
        int32_t at = (int32_t)(uint32_t)top.key, right = w.next[at];
        if (right < 0 || sym[at] != top.left || sym[right] != top.right) continue;
        sym[at] = top.id;
        sym[right] = -1; /* gone: no entry names -1 */
        w.next[at] = w.next[right];
        if (w.next[at] >= 0) w.prev[w.next[at]] = at;
        if (w.prev[at] >= 0) offer(&w, b, sym, w.prev[at]);
        offer(&w, b, sym, at);
    }
    *count = 0;
    for (int64_t i = 0; i < n; i++)
        if (sym[i] >= 0) sym[(*count)++] = sym[i];
    return TDM_OK;
}
