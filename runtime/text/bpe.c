/* Byte-pair encoding: a word's symbols are merged, lowest rank first, leftmost on a tie (huggingface/tokenizers:
 * src/models/bpe/word.rs). Three things make it fast without changing a result:
 *   - a word the merges turn into one token is looked up instead of merged (`whole`, found out when the word is first met);
 *   - between two symbols no merge can ever join, a word is cut in two (`joins`); without a pre-tokenizer, as in Gemma, this
 *     is what keeps segments short;
 *   - short segments are merged by scanning, long ones with a heap (bpe_long.c). */
#include "runtime/text/bpe.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/text/unicode.h"

static inline uint32_t pair_hash(uint64_t pair)
{
    pair *= 0x9e3779b97f4a7c15u;
    pair ^= pair >> 32;
    pair *= 0xd6e8feb86659fd93u;
    return (uint32_t)(pair >> 32);
}

const tdm_merge *tdm_bpe_merge(const tdm_bpe *b, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (uint32_t i = pair_hash(pair) & b->merges_mask;; i = (i + 1) & b->merges_mask) {
        const tdm_merge *m = &b->merges[i];
        if (m->pair == pair) return m;
        if (m->id < 0) return NULL;
    }
}

tdm_status tdm_bpe_reserve(tdm_tokenizer *t, int64_t merges, tdm_error *err)
{
    size_t room = 16;
    if (merges > INT32_MAX / 4) return TDM_FAIL(err, TDM_ERR_INPUT, t->name, NULL, "%lld merges", (long long)merges);
    while (room < (size_t)merges * 2) room *= 2;
    tdm_bpe *b = &t->bpe;
    b->merges = malloc(room * sizeof *b->merges);
    b->joins_mask = (uint32_t)(room * 8 - 1);
    b->joins = calloc(room * 8 / 64, sizeof *b->joins);
    if (!b->merges || !b->joins) return TDM_FAIL(err, TDM_ERR_OTHER, t->name, NULL, "out of host memory");
    b->merges_mask = (uint32_t)(room - 1);
    for (size_t i = 0; i < room; i++) b->merges[i] = (tdm_merge){UINT64_MAX, 0, -1};
    return TDM_OK;
}

void tdm_bpe_add(tdm_tokenizer *t, int32_t left, int32_t right, int32_t id, uint32_t rank)
{
    tdm_bpe *b = &t->bpe;
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint32_t i = pair_hash(pair) & b->merges_mask;
    while (b->merges[i].id >= 0 && b->merges[i].pair != pair) i = (i + 1) & b->merges_mask;
    b->merges[i] = (tdm_merge){pair, rank, id};
}

tdm_status tdm_bpe_merge_texts(tdm_tokenizer *t, const char *const side[2], const size_t len[2], uint32_t rank, tdm_text *joined,
                               tdm_error *err)
{
    tdm_status st = TDM_OK;
    int32_t id[3];
    joined->len = 0;
    for (int i = 0; i < 2; i++) TDM_TRY(st, tdm_text_append(joined, side[i], len[i], err), done);
    for (int i = 0; i < 3; i++) {
        const char *text = i < 2 ? side[i] : joined->data;
        const size_t n = i < 2 ? len[i] : joined->len;
        id[i] = tdm_map_find(t, &t->strings, text, n);
        if (id[i] < 0) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, t->name, "is the file damaged?", "merge %u needs the token \"%.64s\", which is not in the vocabulary",
                          rank, text);
            goto done;
        }
    }
    tdm_bpe_add(t, id[0], id[1], id[2], rank);
done:
    return st;
}

/* Two bits of the filter for a pair of symbols. */
static inline void join_bits(const tdm_bpe *b, int32_t left, int32_t right, uint32_t *one, uint32_t *two)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    pair *= 0x9e3779b97f4a7c15u;
    pair ^= pair >> 31;
    pair *= 0xff51afd7ed558ccdu;
    *one = (uint32_t)pair & b->joins_mask;
    *two = (uint32_t)(pair >> 32) & b->joins_mask;
}

static inline bool may_join(const tdm_bpe *b, int32_t left, int32_t right)
{
    uint32_t one, two;
    join_bits(b, left, right, &one, &two);
    return (b->joins[one / 64] >> one % 64 & 1) && (b->joins[two / 64] >> two % 64 & 1);
}

static void add_join(tdm_bpe *b, int32_t left, int32_t right)
{
    uint32_t one, two;
    if (left < 0 || right < 0) return;
    join_bits(b, left, right, &one, &two);
    b->joins[one / 64] |= (uint64_t)1 << one % 64;
    b->joins[two / 64] |= (uint64_t)1 << two % 64;
}

/* May stand in a word without being one of its characters: an unknown or byte token. */
static bool stands_in(const tdm_tokenizer *t, int32_t id)
{
    const tdm_span text = t->tokens[id].text;
    if (id == t->bpe.unk) return true;
    if (!t->bpe.byte_fallback || text.len != 6 || memcmp(tdm_span_ptr(t, text), "<0x", 3) != 0) return false;
    for (int i = 0; i < 256; i++)
        if (t->bpe.bytes[i] == id) return true;
    return false;
}

/* Every pair of neighbouring base symbols that some merge puts together: the last of its left side, the first of its right. */
static void fill_joins(tdm_tokenizer *t)
{
    tdm_bpe *b = &t->bpe;
    for (size_t i = 0; i <= b->merges_mask; i++) {
        if (b->merges[i].id < 0) continue;
        int32_t left = (int32_t)(b->merges[i].pair >> 32), right = (int32_t)(uint32_t)b->merges[i].pair;
        tdm_span l = t->tokens[left].text, r = t->tokens[right].text;
        size_t n;
        if (l.len == 0 || r.len == 0) continue;
        if (stands_in(t, left) || stands_in(t, right)) { /* its text does not tell what it joins: never cut */
            memset(b->joins, 0xff, ((size_t)b->joins_mask + 1) / 8);
            return;
        }
        uint32_t last = tdm_utf8_last(tdm_span_ptr(t, l), l.len, &n), first = tdm_utf8_get(tdm_span_ptr(t, r), &n);
        if (b->raw) {
            int last_byte = tdm_char_byte(last), first_byte = tdm_char_byte(first);
            if (last_byte < 0 || first_byte < 0) continue; /* no word holds such a token */
            last = (uint32_t)last_byte;
            first = (uint32_t)first_byte;
        }
        add_join(b, b->chars[last] - 1, b->chars[first] - 1);
    }
}

/* The bytes a byte-level token stands for; false when it holds other characters, which no word can. */
static bool raw_key(const tdm_tokenizer *t, tdm_span text, char *out, uint32_t *len)
{
    *len = 0;
    for (size_t at = 0, n; at < text.len; at += n) {
        int byte = tdm_char_byte(tdm_utf8_get(tdm_span_ptr(t, text) + at, &n));
        if (byte < 0) return false;
        out[(*len)++] = (char)byte;
    }
    return true;
}

/* words and chars from strings: one pass over the model's vocabulary. */
static tdm_status fill_words(tdm_tokenizer *t, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_bpe *b = &t->bpe;
    char *key = NULL;
    uint32_t longest = 0;
    for (uint32_t i = 0; t->strings.slots && i <= t->strings.mask; i++)
        if (t->strings.slots[i].id >= 0 && t->strings.slots[i].key.len > longest) longest = t->strings.slots[i].key.len;
    key = malloc((size_t)longest + 1);
    b->chars = calloc(b->raw ? 256 : 0x110000, sizeof *b->chars);
    if (!key || !b->chars) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, t->name, NULL, "out of host memory");
        goto done;
    }
    b->longest = longest;
    for (uint32_t i = 0; t->strings.slots && i <= t->strings.mask; i++) {
        tdm_slot s = t->strings.slots[i];
        size_t n = 0;
        if (s.id < 0 || s.key.len == 0) continue;
        if (b->raw) {
            uint32_t len;
            if (!raw_key(t, s.key, key, &len)) continue;
            tdm_span span;
            TDM_TRY(st, tdm_bytes_put(t, key, len, &span, err), done);
            TDM_TRY(st, tdm_map_put(t, &b->words, span, s.id, err), done);
            if (len == 1) b->chars[(uint8_t)key[0]] = s.id + 1;
        } else {
            uint32_t c = tdm_utf8_get(tdm_span_ptr(t, s.key), &n);
            if (n == s.key.len) b->chars[c] = s.id + 1;
        }
    }
done:
    free(key);
    return st;
}

const tdm_map *tdm_bpe_words(const tdm_tokenizer *t) { return t->bpe.raw ? &t->bpe.words : &t->strings; }

/* Whether the merges make `id` of its own text. Threads that find it out at the same time find the same. */
static inline bool is_whole(const tdm_bpe *b, int32_t id)
{
    return atomic_load_explicit(&b->whole[id], memory_order_relaxed) == TDM_WHOLE_YES;
}

static inline void learn_whole(const tdm_bpe *b, int32_t id, bool whole)
{
    atomic_store_explicit(&b->whole[id], whole ? TDM_WHOLE_YES : TDM_WHOLE_NO, memory_order_relaxed);
}

tdm_status tdm_bpe_finish(tdm_tokenizer *t, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_bpe *b = &t->bpe;
    char code[8] = "<0x00>";
    if (!b->merges) TDM_TRY(st, tdm_bpe_reserve(t, 0, err), done);
    for (int i = 0; i < 256; i++) {
        code[3] = "0123456789ABCDEF"[i >> 4];
        code[4] = "0123456789ABCDEF"[i & 15];
        b->bytes[i] = tdm_map_find(t, &t->strings, code, 6);
    }
    TDM_TRY(st, fill_words(t, err), done);
    fill_joins(t);
    b->whole = calloc((size_t)t->vocab + 1, sizeof *b->whole);
    if (!b->whole) st = TDM_FAIL(err, TDM_ERR_OTHER, t->name, NULL, "out of host memory");
done:
    return st;
}

void tdm_bpe_fini(tdm_bpe *b)
{
    free(b->words.slots);
    free(b->merges);
    free(b->joins);
    free(b->chars);
    free(b->whole);
}

/* Merges sym[0..n) in place by scanning for the lowest rank; n is small, so this beats keeping a queue. */
static int64_t merge_short(const tdm_bpe *b, int32_t *sym, int64_t n)
{
    uint32_t rank[TDM_BPE_SHORT];
    int32_t id[TDM_BPE_SHORT];
    for (int64_t i = 0; i + 1 < n; i++) {
        const tdm_merge *m = tdm_bpe_merge(b, sym[i], sym[i + 1]);
        rank[i] = m ? m->rank : UINT32_MAX;
        id[i] = m ? m->id : -1;
    }
    while (n > 1) {
        int64_t best = 0;
        for (int64_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == UINT32_MAX) break;
        sym[best] = id[best];
        n--;
        for (int64_t i = best + 1; i < n; i++) {
            sym[i] = sym[i + 1];
            rank[i - 1] = rank[i];
            id[i - 1] = id[i];
        }
        /* the pairs before and after the new symbol; the shift above moved the later ones one down */
        for (int64_t i = tdm_max_i64(best - 1, 0); i <= best && i + 1 < n; i++) {
            const tdm_merge *m = tdm_bpe_merge(b, sym[i], sym[i + 1]);
            rank[i] = m ? m->rank : UINT32_MAX;
            id[i] = m ? m->id : -1;
        }
    }
    return n;
}

/* The part of a word between two cuts. clean: its symbols are exactly the characters of text[start, end). */
typedef struct segment { int64_t n; size_t start, end; bool clean; } segment;

static tdm_status flush(tdm_encoder *e, const char *text, size_t word_len, segment *g)
{
    tdm_status st = TDM_OK;
    const tdm_bpe *b = &e->t->bpe;
    int64_t n = g->n;
    size_t len = g->end - g->start;
    int32_t id = -1;
    g->n = 0;
    if (n > 1 && g->clean && len <= b->longest && len < word_len) { /* the word itself was looked up already */
        id = tdm_map_find(e->t, tdm_bpe_words(e->t), text + g->start, len);
        if (id >= 0 && is_whole(b, id)) return tdm_ids_push(e->ids, id, e->err);
    }
    if (n > TDM_BPE_SHORT) TDM_TRY(st, tdm_bpe_merge_long(e, &n), done);
    else if (n > 1) n = merge_short(b, e->symbols, n);
    if (id >= 0) learn_whole(b, id, n == 1 && e->symbols[0] == id);
    for (int64_t i = 0; i < n; i++) TDM_TRY(st, tdm_ids_push(e->ids, e->symbols[i], e->err), done);
done:
    return st;
}

/* One more symbol for the text [at, at + len); cuts first where nothing can join it to the one before. */
static tdm_status push_symbol(tdm_encoder *e, const char *text, size_t word_len, segment *g, int32_t id, size_t at, size_t len, bool exact)
{
    tdm_status st = TDM_OK;
    if (g->n > 0 && !may_join(&e->t->bpe, e->symbols[g->n - 1], id)) TDM_TRY(st, flush(e, text, word_len, g), done);
    if (g->n == e->symbols_room) {
        int64_t room = e->symbols_room ? e->symbols_room * 2 : 256;
        int32_t *grown = realloc(e->symbols, (size_t)room * sizeof *grown);
        if (!grown) return TDM_FAIL(e->err, TDM_ERR_OTHER, NULL, NULL, "out of host memory");
        e->symbols = grown;
        e->symbols_room = room;
    }
    if (g->n == 0) *g = (segment){0, at, at, true};
    e->symbols[g->n++] = id;
    g->end = at + len;
    if (!exact) g->clean = false;
done:
    return st;
}

/* All bytes of a character as byte tokens; false when one has none. */
static tdm_status push_bytes(tdm_encoder *e, const char *text, size_t word_len, segment *g, uint32_t c, size_t at, size_t len, bool *done)
{
    char utf8[4];
    size_t n = tdm_utf8_write(utf8, c);
    *done = false;
    for (size_t i = 0; i < n; i++)
        if (e->t->bpe.bytes[(uint8_t)utf8[i]] < 0) return TDM_OK;
    *done = true;
    for (size_t i = 0; i < n; i++) {
        tdm_status st = push_symbol(e, text, word_len, g, e->t->bpe.bytes[(uint8_t)utf8[i]], at, len, false);
        if (st != TDM_OK) return st;
    }
    return TDM_OK;
}

tdm_status tdm_bpe_word(tdm_encoder *e, const char *s, size_t len)
{
    tdm_status st = TDM_OK;
    const tdm_bpe *b = &e->t->bpe;
    segment g = {0};
    bool unk = false; /* an unknown token waits: it goes out before the next known character, as in the reference */
    const int64_t before = e->ids->count;
    int32_t word = -1;

    if (len <= b->longest) {
        word = tdm_map_find(e->t, tdm_bpe_words(e->t), s, len);
        if (word >= 0 && (b->ignore_merges || is_whole(b, word))) return tdm_ids_push(e->ids, word, e->err);
    }
    for (size_t at = 0, n = 1; at < len; at += n) {
        uint32_t c = b->raw ? (uint8_t)s[at] : tdm_utf8_get(s + at, &n);
        int32_t id = b->chars[c] - 1;
        if (id >= 0) {
            if (unk) TDM_TRY(st, push_symbol(e, s, len, &g, b->unk, at, 0, false), done);
            unk = false;
            TDM_TRY(st, push_symbol(e, s, len, &g, id, at, n, true), done);
            continue;
        }
        bool bytes = false;
        if (b->byte_fallback)
            TDM_TRY(st, push_bytes(e, s, len, &g, b->raw ? tdm_byte_char((uint8_t)c) : c, at, n, &bytes), done);
        if (bytes) continue;
        g.clean = false; /* a dropped character leaves a gap in the text of the segment */
        if (b->unk < 0) continue;
        if (unk && !b->fuse_unk) TDM_TRY(st, push_symbol(e, s, len, &g, b->unk, at, n, false), done);
        unk = true;
    }
    if (unk) TDM_TRY(st, push_symbol(e, s, len, &g, b->unk, len, 0, false), done);
    TDM_TRY(st, flush(e, s, len, &g), done);
    if (word >= 0) learn_whole(b, word, e->ids->count == before + 1 && e->ids->data[before] == word);
done:
    return st;
}
