/* Environments: what a rollout's turns are handed to, in worker processes (docs/environments.md). Each sample has its own episode, named by
 * (step, prompt, sample), which lives in one worker from its first turn to its last.
 *
 *   created   tdm_environment_open: workers started     released  tdm_environment_close
 *   borrows   the recipe, until close; an episode's row until the next begin
 *   threads   one at a time; workers run side by side, and while they do the caller may compute
 *
 * A worker that dies, hangs past timeout_s or answers with something else is started anew, and the episodes it held are told their earlier
 * turns again, the answers to which are known. Of a call that failed for several samples each is asked by itself, so what fails is one
 * sample, and by on_error an error that names it, or a warning. */
#ifndef TANDEM_RUNTIME_ENVIRONMENT_ENVIRONMENT_H
#define TANDEM_RUNTIME_ENVIRONMENT_ENVIRONMENT_H

#include <jansson.h>

#include "runtime/recipe/recipe.h"

typedef struct tdm_environment tdm_environment;

typedef struct tdm_episode {
    int64_t step, prompt, sample; /* step 0: an evaluation */
    uint64_t seed;                /* of the recipe; the episode's own is made of it and of its name */
    const json_t *row;            /* the dataset's row: what reset is called with */
} tdm_episode;

typedef struct tdm_turn_reply {
    const char *observation;      /* NULL: none, and the episode ends */
    size_t observation_len;
    double *reward;               /* [rewards of type environment], in the recipe's order; NaN: none this turn */
    bool done;
    const char *error;            /* this sample's alone; NULL: none */
} tdm_turn_reply;

typedef struct tdm_environment_figures {
    double busy_s;                /* seconds in which some call was under way */
    int64_t calls, errors;        /* errors: samples that failed */
} tdm_environment_figures;

/* samples: at once, at most. */
tdm_status tdm_environment_open(tdm_environment **e, const tdm_recipe *r, int64_t samples, tdm_error *err);
void tdm_environment_close(tdm_environment *e); /* NULL: nothing */
int64_t tdm_environment_rewards(const tdm_recipe *r); /* how many rewards are of type environment */

/* Forgets all episodes and figures; what is under way is broken off. */
void tdm_environment_begin(tdm_environment *e);
/* Asks sample i for its next turn; the first begins its episode. messages (taken): the conversation so far, the turn as its last. */
void tdm_environment_ask(tdm_environment *e, int64_t i, const tdm_episode *episode, json_t *messages, bool truncated, bool last);
/* Sends and receives what is ready, or waits wait_s for something; hands over the answers there are, in no particular order. reply is lent
 * for the call; failed: by on_error the episode ends here. */
typedef tdm_status tdm_environment_reply_fn(void *ctx, int64_t i, const tdm_turn_reply *reply, bool failed, tdm_error *err);
tdm_status tdm_environment_run(tdm_environment *e, double wait_s, tdm_environment_reply_fn *take, void *ctx, tdm_error *err);
tdm_environment_figures tdm_environment_figures_of(const tdm_environment *e); /* since begin */

/* One reply line to a request for n samples, for the parts above and the fuzzer. names [names_count]: of the rewards there are. out[i].reward
 * [names_count] is the caller's; texts are borrowed from *root, which the caller releases. TDM_ERR_INPUT says what is wrong. */
tdm_status tdm_environment_reply_parse(const char *line, size_t len, const char *where, int64_t request, const char *const *names, int64_t names_count,
                                       int64_t n, tdm_turn_reply *out, json_t **root, tdm_error *err);

#endif
