/* state.json: whatever parses is written and parsed again to the same. */
#include <stdlib.h>
#include <string.h>

#include "runtime/run/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Most inputs fail at the recipe's hash, so it is tried apart too. */
static void hash_any(const char *text, size_t size)
{
    json_t *o = json_loadb(text, size, 0, NULL);
    if (o) (void)tdm_checkpoint_recipe_hash(o);
    json_decref(o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tdm_checkpoint_state s, again;
    tdm_error err = {0};
    hash_any((const char *)data, size);
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
