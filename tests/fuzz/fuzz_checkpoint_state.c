/* state.json: whatever parses is written and parsed again to the same; comparing a recipe with itself finds nothing. */
#include <stdlib.h>
#include <string.h>

#include "runtime/run/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_recipe(const char *text, size_t size)
{
    char key[64];
    json_t *o = json_loadb(text, size, 0, NULL);
    if (!o) return;
    (void)tdm_checkpoint_recipe_hash(o);
    if (tdm_checkpoint_recipe_differs(o, o, NULL, key, sizeof key)) abort();
    json_t *empty = json_object();
    (void)tdm_checkpoint_recipe_differs(o, empty, NULL, key, sizeof key);
    (void)tdm_checkpoint_recipe_differs(empty, o, NULL, key, sizeof key);
    json_decref(empty);
    json_decref(o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tdm_checkpoint_state s, again;
    tdm_error err = {0};
    check_recipe((const char *)data, size);
    if (tdm_checkpoint_state_parse(&s, (const char *)data, size, "state.json", &err) != TDM_OK) {
        if (err.what[0] == 0 || s.recipe || s.counters) abort();
        return 0;
    }
    char *text = tdm_checkpoint_state_format(&s);
    if (!text || tdm_checkpoint_state_parse(&again, text, strlen(text), "state.json", &err) != TDM_OK) abort();
    if (again.step != s.step || again.seed != s.seed || again.base_hash != s.base_hash || again.recipe_hash != s.recipe_hash) abort();
    free(text);
    tdm_checkpoint_state_fini(&again);
    tdm_checkpoint_state_fini(&s);
    return 0;
}
