/* The rewards of a recipe, opened once and scored a batch at a time.
 *
 *   created   tdm_rewards_open: patterns compiled, workers started, plugins loaded     released  tdm_rewards_close
 *   borrows   the recipe, until close
 *   threads   one at a time; workers of all rewards run at the same time
 *
 * A worker that dies, hangs past timeout_s or answers with something else than numbers is TDM_ERR_INPUT naming the reward, its
 * source and the samples; with `on_error: zero` a warning on stderr, and 0 for its samples. Either way the worker is started
 * anew at the next batch. docs/rewards.md describes the protocol and what a function is called with. */
#ifndef TANDEM_RUNTIME_REWARD_REWARD_H
#define TANDEM_RUNTIME_REWARD_REWARD_H

#include <jansson.h>

#include "runtime/recipe/recipe.h"

typedef struct tdm_rewards tdm_rewards;

/* One completion. Everything is the caller's. */
typedef struct tdm_reward_sample {
    const json_t *prompt;     /* a string, or the list of messages; completions go to functions in the same form */
    const char *completion;   /* UTF-8, NUL-terminated; of several turns the last; bytes that are not UTF-8 reach workers as U+FFFD */
    size_t completion_len;
    const int32_t *ids;       /* [ids_count], the completion's tokens */
    int64_t ids_count;
    int64_t observed;         /* of these, what an environment put there; length does not count them */
    const json_t *turns;      /* the completion as messages, for functions; NULL: one of the assistant */
    const double *given;      /* [rewards_count] what the environment gave, where the reward is of its type; NULL: there is none */
    uint64_t skip;            /* bit (1 << i): reward i does not judge this sample */
    const json_t *row;        /* the dataset's row: an object; its columns fill "{answer}" and reach functions by name */
    struct { uint32_t step, prompt, sample; } drawn; /* what the sampler's draws were keyed by; step 0: an evaluation */
} tdm_reward_sample;

tdm_status tdm_rewards_open(tdm_rewards **s, const tdm_recipe *r, tdm_error *err);
/* Who scores for rewards of a kind that a model of this process scores: reward i's scores of samples [n], those that skip it left alone, into out [n].
 * Before the first score. A judge has applied on_error itself, reply by reply. */
typedef tdm_status tdm_reward_scorer(void *ctx, int64_t i, const tdm_reward_sample *samples, int64_t n, double *out, tdm_error *err);
void tdm_rewards_attach(tdm_rewards *s, tdm_reward_kind kind, tdm_reward_scorer *scorer, void *ctx);
void tdm_rewards_close(tdm_rewards *s); /* NULL: nothing. Workers end within two seconds, or are killed */

int64_t tdm_rewards_count(const tdm_rewards *s);
const char *tdm_rewards_name(const tdm_rewards *s, int64_t i);
double tdm_rewards_weight(const tdm_rewards *s, int64_t i);

/* scores [rewards_count, n], row-major by reward, unweighted; NaN: this reward has no opinion on this sample (None, or skip). Rules
 * do not look at what they skip; workers and plugins get whole batches, and what they say of such a sample does not count. */
tdm_status tdm_rewards_score(tdm_rewards *s, const tdm_reward_sample *samples, int64_t n, double *scores, tdm_error *err);
/* total [n]: the weighted sum of what is not NaN, as TRL's nansum; NaN where no reward had an opinion: leave the sample out. */
void tdm_rewards_combine(const tdm_rewards *s, const double *scores, int64_t n, double *total);

/* ---- The parts, for tests, `tandem eval` and the fuzzer ---------------------------------------------------------------------- */

/* The number a solution ends in: after the last "####", else in the last \boxed{}, else the last number in the text. Reads
 * "$1,234.50", "-3", "1e3", "12.5%" (as 12.5), "3/4", "5."; false where there is none. */
bool tdm_reward_number_find(const char *text, size_t len, double *value);

/* One reply line of a worker into out[n] (null: NaN). TDM_ERR_INPUT names what is wrong and, where there is one, the sample
 * (counted from first). label: how errors call the worker. */
tdm_status tdm_reward_reply_parse(const char *line, size_t len, const char *label, int64_t request, int64_t first, int64_t n,
                                  double *out, tdm_error *err);

#endif
