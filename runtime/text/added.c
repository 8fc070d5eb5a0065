/* Added tokens: found in the text before anything else looks at it (huggingface/tokenizers: src/tokenizer/added_vocabulary.rs). */
#include <stdlib.h>
#include <string.h>

#include "runtime/text/tokenizer_impl.h"

tdm_status tdm_added_add(tdm_tokenizer *t, const char *content, size_t len, tdm_added flags, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_added *a = NULL;
    tdm_token *token = NULL;

    if (len == 0) return TDM_OK; /* the reference ignores an empty token */
    if (len > TDM_ADDED_BYTES_MAX)
        return TDM_FAIL(err, TDM_ERR_INPUT, t->name, NULL, "an added token of %zu bytes, at most %d are supported", len,
                        TDM_ADDED_BYTES_MAX);
    int32_t known = tdm_map_find(t, &t->added_map, content, len);
    if (known >= 0) {
        flags.id = t->added[known].id;
        a = &t->added[known];
    } else {
        flags.id = tdm_map_find(t, &t->strings, content, len);
        if (flags.id < 0) flags.id = t->model_count + t->added_new++; /* as the reference numbers them, whatever the file says */
        if (t->added_count == t->added_room) {
            int32_t room = t->added_room ? t->added_room * 2 : 64;
            tdm_added *grown = realloc(t->added, (size_t)room * sizeof *grown);
            if (!grown) return TDM_FAIL(err, TDM_ERR_OTHER, t->name, NULL, "out of host memory");
            t->added = grown;
            t->added_room = room;
        }
        a = &t->added[t->added_count];
    }
    TDM_TRY(st, tdm_bytes_put(t, content, len, &flags.content, err), done);
    flags.pattern = flags.content;
    TDM_TRY(st, tdm_token_at(t, flags.id, &token, err), done);
    token->text = flags.content;
    token->exists = true;
    if (known < 0) TDM_TRY(st, tdm_map_put(t, &t->added_map, flags.content, t->added_count++, err), done);
    *a = flags;
done:
    return st;
}

static int32_t child_of(const tdm_trie *trie, int32_t node, uint8_t byte)
{
    for (int32_t c = trie->nodes[node].child; c >= 0; c = trie->nodes[c].sibling)
        if (trie->nodes[c].byte == byte) return c;
    return -1;
}

static tdm_status new_node(tdm_trie *trie, uint8_t byte, int32_t *out, tdm_error *err)
{
    if (trie->count == trie->room) {
        int32_t room = trie->room ? trie->room * 2 : 256;
        tdm_trie_node *grown = realloc(trie->nodes, (size_t)room * sizeof *grown);
        if (!grown) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, NULL, "out of host memory");
        trie->nodes = grown;
        trie->room = room;
    }
    trie->nodes[trie->count] = (tdm_trie_node){-1, -1, -1, byte};
    *out = trie->count++;
    return TDM_OK;
}

static tdm_status trie_put(tdm_trie *trie, const char *s, size_t len, int32_t added, tdm_error *err)
{
    tdm_status st = TDM_OK;
    int32_t node = trie->root[(uint8_t)s[0]];
    if (node < 0) {
        TDM_TRY(st, new_node(trie, (uint8_t)s[0], &node, err), done);
        trie->root[(uint8_t)s[0]] = node;
    }
    for (size_t i = 1; i < len; i++) {
        int32_t next = child_of(trie, node, (uint8_t)s[i]);
        if (next < 0) {
            TDM_TRY(st, new_node(trie, (uint8_t)s[i], &next, err), done);
            trie->nodes[next].sibling = trie->nodes[node].child;
            trie->nodes[node].child = next;
        }
        node = next;
    }
    if (trie->nodes[node].added < 0) trie->nodes[node].added = added; /* two tokens may normalize to one text: the first */
done:
    return st;
}

bool tdm_trie_find(const tdm_trie *trie, const char *s, size_t len, size_t from, tdm_hit *hit)
{
    if (trie->count == 0) return false;
    for (size_t at = from; at < len; at++) {
        int32_t node = trie->root[(uint8_t)s[at]];
        bool found = false;
        for (size_t i = at + 1; node >= 0; i++) {
            if (trie->nodes[node].added >= 0) {
                *hit = (tdm_hit){at, i, trie->nodes[node].added};
                found = true;
            }
            if (i >= len) break;
            node = child_of(trie, node, (uint8_t)s[i]);
        }
        if (found) return true;
    }
    return false;
}

/* The text a normalized token is searched by, and, since 0.23, what it decodes to. */
static tdm_status normalize_pattern(tdm_tokenizer *t, tdm_added *a, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_encoder e = {.t = t, .err = err};
    tdm_span copy;
    char *content = tdm_copy(tdm_span_ptr(t, a->content), a->content.len, err); /* t->bytes moves when it grows */
    if (!content) return TDM_ERR_OTHER;
    const char *s = content;
    size_t len = a->content.len;
    TDM_TRY(st, tdm_normalize(&e, &s, &len), done);
    if (len == a->content.len && memcmp(s, content, len) == 0) goto done;
    TDM_TRY(st, tdm_bytes_put(t, s, len, &copy, err), done);
    a->pattern = copy;
    t->tokens[a->id].text = copy;
done:
    tdm_encoder_fini(&e);
    free(content);
    return st;
}

tdm_status tdm_added_finish(tdm_tokenizer *t, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int i = 0; i < 256; i++) t->plain.root[i] = t->normalized.root[i] = -1;
    for (int32_t k = 0; k < 2 * t->added_count; k++) { /* of two with one pattern, the one that is not special is found */
        const int32_t i = k % t->added_count;
        tdm_added *a = &t->added[i];
        if (a->special != (k >= t->added_count)) continue;
        if (a->normalized && t->norm_count) TDM_TRY(st, normalize_pattern(t, a, err), done);
        if (a->pattern.len == 0) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, t->name, "set its \"normalized\" to false", "the normalizer leaves nothing of the added token \"%.*s\"",
                          (int)(a->content.len < 64 ? a->content.len : 64), tdm_span_ptr(t, a->content));
            goto done;
        }
        TDM_TRY(st, trie_put(a->normalized ? &t->normalized : &t->plain, tdm_span_ptr(t, a->pattern), a->pattern.len, i, err), done);
    }
    for (int32_t id = 0; id < t->vocab; id++) { /* special is a matter of the text: the reference asks by string */
        tdm_span text = t->tokens[id].text;
        int32_t a = t->tokens[id].exists ? tdm_map_find(t, &t->added_map, tdm_span_ptr(t, text), text.len) : -1;
        t->tokens[id].special = a >= 0 && t->added[a].special;
    }
done:
    return st;
}
