/* Growing buffers of ids and bytes. */
#include <stdlib.h>
#include <string.h>

#include "runtime/text/tokenizer_impl.h"

void tdm_ids_free(tdm_ids *ids)
{
    free(ids->data);
    *ids = (tdm_ids){0};
}

void tdm_text_free(tdm_text *text)
{
    free(text->data);
    *text = (tdm_text){0};
}

tdm_status tdm_ids_push(tdm_ids *ids, int32_t id, tdm_error *err)
{
    if (ids->count == ids->room) {
        int64_t room = ids->room ? ids->room * 2 : 64;
        int32_t *grown = realloc(ids->data, (size_t)room * sizeof *grown);
        if (!grown) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for %lld ids", (long long)room);
        ids->data = grown;
        ids->room = room;
    }
    ids->data[ids->count++] = id;
    return TDM_OK;
}

tdm_status tdm_text_append(tdm_text *text, const char *data, size_t len, tdm_error *err)
{
    if (text->room - text->len <= len) { /* one more for the NUL */
        if (len > SIZE_MAX / 4 - text->len) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, NULL, "a text of %zu bytes", len);
        size_t room = text->room * 2 > text->len + len + 1 ? text->room * 2 : text->len + len + 1;
        if (room < 64) room = 64;
        char *grown = realloc(text->data, room);
        if (!grown) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for a text of %zu bytes", room);
        text->data = grown;
        text->room = room;
    }
    if (len) memcpy(text->data + text->len, data, len);
    text->len += len;
    text->data[text->len] = 0;
    return TDM_OK;
}

char *tdm_copy(const char *s, size_t len, tdm_error *err)
{
    char *copy = malloc(len + 1);
    if (!copy) {
        TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for a text of %zu bytes", len);
        return NULL;
    }
    if (len) memcpy(copy, s, len);
    copy[len] = 0;
    return copy;
}
