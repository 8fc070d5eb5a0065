/* Any bytes as a chat template, rendered with a conversation; bytes behind a NUL, when they are JSON, are the variables. */
#include <stdlib.h>
#include <string.h>

#include "runtime/text/chat.h"

static const char conversation[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": \" caf\\u00e9 \"},"
    " {\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": {\"x\": 1.5}}}]}],"
    " \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {}}}], \"add_generation_prompt\": true,"
    " \"bos_token\": \"<s>\", \"date\": \"2026-01-31\", \"l\": [3, 1, 2], \"d\": {\"a\": 1}, \"s\": \"Hello\", \"n\": 7, \"f\": 2.5}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tdm_error err = {0};
    tdm_chat *c = NULL;
    tdm_text out = {0};
    char *text = malloc(size + 1);
    if (!text) return 0;
    if (size) memcpy(text, data, size);
    text[size] = 0;
    const size_t used = strlen(text) + 1;
    json_t *vars = used < size ? json_loadb(text + used, size - used, JSON_ALLOW_NUL, NULL) : NULL;
    if (!vars) vars = json_loads(conversation, 0, NULL);
    if (vars && tdm_chat_open(&c, text, "template", &err) == TDM_OK) (void)!tdm_chat_render(c, vars, &out, &err);
    tdm_chat_close(c);
    tdm_text_free(&out);
    json_decref(vars);
    free(text);
    return 0;
}
