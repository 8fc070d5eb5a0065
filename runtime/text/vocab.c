/* The vocabulary while it loads: bytes, tokens by id, ids by string. */
#include <stdlib.h>
#include <string.h>

#include "runtime/text/tokenizer_impl.h"
#include "runtime/text/unicode.h"

tdm_status tdm_bytes_put(tdm_tokenizer *t, const char *s, size_t len, tdm_span *out, tdm_error *err)
{
    if (len > UINT32_MAX / 2 - t->bytes.len)
        return TDM_FAIL(err, TDM_ERR_INPUT, t->name, "is this a tokenizer?", "token texts take more than 2 GiB");
    out->at = (uint32_t)t->bytes.len;
    out->len = (uint32_t)len;
    return tdm_text_append(&t->bytes, s, len, err);
}

static inline uint64_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ x >> 29;
}

static uint32_t hash_of(const char *key, size_t len)
{
    uint64_t h = 0x9e3779b97f4a7c15u ^ len, block;
    for (; len >= 8; key += 8, len -= 8) {
        memcpy(&block, key, 8);
        h = mix(h ^ block) * 0x9e3779b97f4a7c15u;
    }
    block = 0;
    for (size_t i = 0; i < len; i++) block |= (uint64_t)(unsigned char)key[i] << 8 * i;
    h = mix((h ^ block) * 0x9e3779b97f4a7c15u);
    return (uint32_t)(h ^ h >> 32);
}

static uint32_t slot_of(const tdm_tokenizer *t, const tdm_map *map, uint32_t hash, const char *key, size_t len)
{
    uint32_t i = hash & map->mask;
    for (; map->slots[i].id >= 0; i = (i + 1) & map->mask) {
        const tdm_slot *s = &map->slots[i];
        if (s->hash == hash && s->key.len == len && memcmp(t->bytes.data + s->key.at, key, len) == 0) break;
    }
    return i;
}

int32_t tdm_map_find(const tdm_tokenizer *t, const tdm_map *map, const char *key, size_t len)
{
    if (!map->slots) return -1;
    return map->slots[slot_of(t, map, hash_of(key, len), key, len)].id;
}

static tdm_status grow(tdm_map *map, tdm_error *err)
{
    tdm_map old = *map;
    uint32_t room = old.slots ? (old.mask + 1) * 2 : 1024;
    tdm_slot *slots = malloc((size_t)room * sizeof *slots);
    if (!slots) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, NULL, "out of host memory");
    for (uint32_t i = 0; i < room; i++) slots[i].id = -1;
    for (uint32_t i = 0; old.slots && i <= old.mask; i++) {
        if (old.slots[i].id < 0) continue;
        uint32_t at = old.slots[i].hash & (room - 1);
        while (slots[at].id >= 0) at = (at + 1) & (room - 1);
        slots[at] = old.slots[i];
    }
    free(old.slots);
    map->slots = slots;
    map->mask = room - 1;
    return TDM_OK;
}

tdm_status tdm_map_put(tdm_tokenizer *t, tdm_map *map, tdm_span key, int32_t id, tdm_error *err)
{
    tdm_status st = TDM_OK;
    if (!map->slots || map->count * 2 > map->mask) TDM_TRY(st, grow(map, err), done);
    const char *text = t->bytes.data + key.at;
    uint32_t hash = hash_of(text, key.len), i = slot_of(t, map, hash, text, key.len);
    if (map->slots[i].id < 0) map->count++;
    map->slots[i] = (tdm_slot){hash, key, id};
done:
    return st;
}

tdm_status tdm_token_at(tdm_tokenizer *t, int64_t id, tdm_token **out, tdm_error *err)
{
    if (id < 0 || id >= TDM_TOKEN_IDS_MAX)
        return TDM_FAIL(err, TDM_ERR_INPUT, t->name, "is this a tokenizer?", "token id %lld is outside 0..%d", (long long)id,
                        TDM_TOKEN_IDS_MAX - 1);
    if (id >= t->tokens_room) {
        int64_t room = tdm_max_i64(id + 1, (int64_t)t->tokens_room * 2);
        tdm_token *grown = realloc(t->tokens, (size_t)room * sizeof *grown);
        if (!grown) return TDM_FAIL(err, TDM_ERR_OTHER, t->name, NULL, "out of host memory");
        memset(grown + t->tokens_room, 0, (size_t)(room - t->tokens_room) * sizeof *grown);
        t->tokens = grown;
        t->tokens_room = (int32_t)room;
    }
    if (id >= t->vocab) t->vocab = (int32_t)id + 1;
    *out = &t->tokens[id];
    return TDM_OK;
}

tdm_status tdm_vocab_add(tdm_tokenizer *t, const char *text, size_t len, int64_t id, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_token *token = NULL;
    tdm_span span;
    if (tdm_utf8_valid(text, len) != len)
        return TDM_FAIL(err, TDM_ERR_INPUT, t->name, "is the file damaged?", "the token with id %lld is not UTF-8", (long long)id);
    TDM_TRY(st, tdm_token_at(t, id, &token, err), done);
    if (token->exists) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, t->name, "is the file damaged?", "two tokens have the id %lld", (long long)id);
        goto done;
    }
    TDM_TRY(st, tdm_bytes_put(t, text, len, &span, err), done);
    token->text = span;
    token->exists = true;
    TDM_TRY(st, tdm_map_put(t, &t->strings, span, (int32_t)id, err), done);
    t->model_count = (int32_t)t->strings.count;
done:
    return st;
}

int32_t tdm_token_id(const tdm_tokenizer *t, const char *text, size_t len)
{
    int32_t added = tdm_map_find(t, &t->added_map, text, len);
    return added >= 0 ? t->added[added].id : tdm_map_find(t, &t->strings, text, len);
}
