/* What environment needs, and where it has no use. */
#include "runtime/recipe/schema.h"

#include <stdio.h>
#include <string.h>

#define REFUSE(key, hint, ...) TDM_FAIL(err, TDM_ERR_RECIPE, tdm_recipe_where(r, (key), (char[TDM_RECIPE_WHERE]){0}), (hint), __VA_ARGS__)

/* The first key of the section whose value is not the default; the resolved recipe gives every key a value, so that one was given says nothing. */
static const char *first_set(const tdm_recipe *r)
{
    const tdm_recipe_environment *e = &r->environment;
    return e->python[0]                          ? "environment.python"
           : e->command.count                    ? "environment.command"
           : strcmp(e->interpreter, "python3")   ? "environment.interpreter"
           : e->max_turns != 8                   ? "environment.max_turns"
           : e->max_observation_tokens != 256    ? "environment.max_observation_tokens"
           : e->render != TDM_RENDER_TOOL        ? "environment.render"
           : e->timeout_s != 60.0                ? "environment.timeout_s"
           : e->workers != 1                     ? "environment.workers"
           : e->on_error != TDM_ENVIRONMENT_STOP ? "environment.on_error"
                                                 : NULL;
}

static tdm_status check_python(const tdm_recipe *r, tdm_error *err)
{
    const tdm_recipe_environment *e = &r->environment;
    const char *colon = strrchr(e->python, ':');
    if (!e->python[0]) return TDM_OK;
    if (e->command.count) return REFUSE("environment.command", "keep one of them", "environment has both python and command");
    if (!colon || colon == e->python || !colon[1]) return REFUSE("environment.python", "write file.py:Class", "environment.python names no class");
    if (!e->interpreter[0]) return REFUSE("environment.interpreter", "write python3", "environment.interpreter is empty");
    return TDM_OK;
}

tdm_status tdm_recipe_settle_environment(const tdm_recipe *r, tdm_error *err)
{
    const char *set = first_set(r);
    if (!set) return TDM_OK;
    if (tdm_algorithm_supervised(r->train.algorithm))
        return REFUSE(set, "remove it, or use train.algorithm: grpo", "%s answers completions that are sampled, and train.algorithm: %s samples none", set,
                      tdm_algorithm_names[r->train.algorithm]);
    if (r->rollout.replay[0]) return REFUSE(set, "remove it; a replay's \"mask\" says what was observed",
                      "%s answers completions that are sampled, and a replay has its own turns", set);
    if (!tdm_recipe_has_environment(r))
        return REFUSE(set, "give environment.python or environment.command", "%s is of an environment, and there is none", set);
    if (r->environment.max_observation_tokens != 256 && r->environment.max_observation_tokens >= r->rollout.max_new_tokens) /* the default is a bound */
        return REFUSE("environment.max_observation_tokens", "use a smaller one, or raise rollout.max_new_tokens",
                      "environment.max_observation_tokens is %lld, and a completion has %lld tokens, observations among them",
                      (long long)r->environment.max_observation_tokens, (long long)r->rollout.max_new_tokens);
    return check_python(r, err);
}
