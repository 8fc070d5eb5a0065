/* Rewards from a shared object (include/tandem/reward.h). */
#include <dlfcn.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/reward/reward_internal.h"
#include "tandem/reward.h"

struct tdm_plugin {
    const tdm_recipe_reward *w;
    void *library, *self;
    const tandem_reward_plugin *table;
};

tdm_status tdm_plugin_open(tdm_plugin **out, const tdm_recipe_reward *w, const char *where, tdm_error *err)
{
    char text[192] = "";
    tdm_plugin *p = calloc(1, sizeof *p);
    *out = p;
    if (!p) return TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for a plugin");
    p->w = w;
    p->library = dlopen(w->plugin, RTLD_NOW | RTLD_LOCAL);
    if (!p->library) return TDM_FAIL(err, TDM_ERR_INPUT, where, "give a path with a slash, to a shared object of this machine", "cannot load the plugin: %.160s", dlerror());
    p->table = dlsym(p->library, "tandem_reward");
    if (!p->table) return TDM_FAIL(err, TDM_ERR_INPUT, where, "see include/tandem/reward.h", "%s does not export tandem_reward", w->plugin);
    if (p->table->abi != TANDEM_REWARD_ABI || !p->table->score)
        return TDM_FAIL(err, TDM_ERR_INPUT, where, "build it against this version's include/tandem/reward.h", "%s speaks ABI %u, this is %u", w->plugin, p->table->abi, TANDEM_REWARD_ABI);
    if (p->table->open) p->self = p->table->open(text, sizeof text);
    if (p->table->open && !p->self && text[0]) return TDM_FAIL(err, TDM_ERR_INPUT, where, "see the plugin's documentation", "the plugin does not start: %s", text);
    return TDM_OK;
}

void tdm_plugin_close(tdm_plugin *p)
{
    if (!p) return;
    if (p->table && p->table->abi == TANDEM_REWARD_ABI && p->table->close) p->table->close(p->self);
    if (p->library) dlclose(p->library);
    free(p);
}

tdm_status tdm_plugin_score(tdm_plugin *p, const tdm_reward_sample *samples, int64_t n, double *out, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char text[192] = "";
    tandem_reward_sample *s = calloc((size_t)n + 1, sizeof *s);
    if (!s) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for a batch of rewards");
    for (int64_t i = 0; i < n; i++) {
        s[i] = (tandem_reward_sample){.prompt_json = json_dumps(samples[i].prompt, JSON_ENCODE_ANY | JSON_COMPACT), .completion = samples[i].completion,
                                      .completion_len = samples[i].completion_len, .ids = samples[i].ids, .ids_count = samples[i].ids_count,
                                      .row_json = json_dumps(samples[i].row, JSON_COMPACT)};
        if (!s[i].prompt_json || !s[i].row_json) {
            st = TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for a batch of rewards");
            goto done;
        }
        out[i] = NAN;
    }
    if (p->table->score(p->self, s, n, out, text, sizeof text) != 0) {
        st = TDM_FAIL(err, TDM_ERR_INPUT, p->w->plugin, "mend the plugin, or set on_error: zero", "the plugin failed: %s", text[0] ? text : "it gave no reason");
        goto done;
    }
    for (int64_t i = 0; i < n; i++)
        if (isinf(out[i])) {
            st = TDM_FAIL(err, TDM_ERR_INPUT, p->w->plugin, "rewards are finite numbers, or NaN for none", "the reward of sample %" PRId64 " is infinite", i);
            goto done;
        }
done:
    for (int64_t i = 0; i < n; i++) {
        free((char *)(uintptr_t)s[i].prompt_json);
        free((char *)(uintptr_t)s[i].row_json);
    }
    free(s);
    return st;
}
