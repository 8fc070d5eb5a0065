/* Rewards of type model: an adapter with a head, a role on the policy's base, scores whole sequences at their last token.
 *
 * What is scored is what such a model is trained on (job_preference.c; TRL's GRPOTrainer does the same with a reward model): prompt and completion
 * as one chat through the template, or one text that ends with the end-of-sequence token. It is tokenized anew, and computed in the train layout
 * between generating and learning; the rollout's pages are free then. */
#include "runtime/run/example.h"
#include "runtime/run/job_internal.h"
#include "runtime/run/writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TAIL = 64 }; /* tokens that a template may put around and behind an answer */

static void add_role(tdm_job *j, const tdm_recipe_reward *w)
{
    TDM_ASSERT(j->role_count < TDM_SESSION_ROLES);
    char *name = j->role_name[j->role_count];
    snprintf(name, sizeof j->role_name[0], "reward %.24s: adapter, head", w->name);
    j->role[j->role_count++] = (tdm_role_spec){.name = name, .hint = "", .dir = w->path, .adapter = {.head = true}};
}

/* The role of reward i, after the critic's. */
static const tdm_role *role_of(const tdm_job *j, int64_t i)
{
    int k = tdm_job_ppo(j) ? TDM_JOB_CRITIC + 1 : 0;
    for (int64_t r = 0; r < i; r++) k += j->r->reward[r].kind == TDM_REWARD_MODEL;
    return &j->session.role[k];
}

size_t tdm_job_models_bytes(const tdm_job *j)
{
    if (j->scored_context == 0) return 0;
    return (size_t)j->samples * (sizeof *j->scored + sizeof *j->scored_item + sizeof *j->score + (size_t)j->scored_context * sizeof *j->scored_tokens);
}

tdm_status tdm_job_models_open(tdm_job *j, const tdm_model_config *c, tdm_error *err)
{
    const size_t n = (size_t)j->samples;
    for (int64_t i = 0; j->rewards && i < j->r->reward_count; i++) {
        if (j->r->reward[i].kind != TDM_REWARD_MODEL) continue;
        add_role(j, &j->r->reward[i]);
        j->scored_context = tdm_min_i64(c->context, j->context + TAIL);
    }
    if (j->scored_context == 0) return TDM_OK;
    j->scored = calloc(n, sizeof *j->scored);
    j->scored_tokens = calloc(n * (size_t)j->scored_context, sizeof *j->scored_tokens);
    j->scored_item = calloc(n, sizeof *j->scored_item);
    j->score = calloc(n, sizeof *j->score);
    if (!j->scored || !j->scored_tokens || !j->scored_item || !j->score)
        return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for what reward models score");
    tdm_rewards_attach(j->rewards, TDM_REWARD_MODEL, tdm_job_models_score, j);
    return TDM_OK;
}

void tdm_job_models_close(tdm_job *j)
{
    free(j->scored);
    free(j->scored_tokens);
    free(j->scored_item);
    free(j->score);
}

/* The completion as a worker would get it: bytes that are not UTF-8 are U+FFFD. A new reference; NULL: out of memory. */
static json_t *answer_of(const tdm_reward_sample *s)
{
    tdm_writer w = {0};
    tdm_writer_json(&w, s->completion, s->completion_len);
    json_t *answer = w.data ? json_loadb(w.data, w.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL) : NULL;
    tdm_writer_free(&w);
    return answer;
}

static tdm_status encode(tdm_example *x, const tdm_reward_sample *s, tdm_error *err)
{
    tdm_status st = TDM_OK;
    json_t *answer = answer_of(s), *chat = NULL;
    if (answer && json_is_array(s->prompt)) {
        chat = json_copy((json_t *)s->prompt);
        if (!chat || json_array_append_new(chat, json_pack("{s:s,s:O}", "role", "assistant", "content", answer)) != 0) {
            json_decref(chat);
            chat = NULL;
        }
    }
    if (!answer || (json_is_array(s->prompt) && !chat)) st = TDM_FAIL(err, TDM_ERR_OTHER, x->where, "free host memory", "out of memory for what a reward model scores");
    else st = chat ? tdm_example_chat(x, chat, json_array_size(chat), false, &x->ids, err) : tdm_example_text(x, s->prompt, answer, &x->ids, err);
    json_decref(answer);
    json_decref(chat);
    return st;
}

/* Sequence k of those to score; the end of one that is too long, for the score is at the end. */
static void put(tdm_job *j, int64_t k, const tdm_ids *ids)
{
    const int64_t count = tdm_min_i64(ids->count, j->scored_context);
    int32_t *tokens = j->scored_tokens + k * j->scored_context;
    memcpy(tokens, ids->data + ids->count - count, (size_t)count * sizeof *tokens);
    j->scored[k] = (tdm_sequence){.tokens = tokens, .prompt = 1, .count = count, .room = count};
    j->scored_item[k] = (tdm_train_item){.seq = &j->scored[k], .value = &j->score[k]};
}

tdm_status tdm_job_models_score(void *ctx, int64_t i, const tdm_reward_sample *samples, int64_t n, double *out, tdm_error *err)
{
    tdm_job *j = ctx;
    tdm_status st = TDM_OK;
    tdm_example x = {.l = &j->language, .where = j->r->reward[i].path};
    const tdm_train_pass pass = {.adapter = &role_of(j, i)->adapter, .values = TDM_VALUES_SEQUENCE};
    int64_t count = 0;
    TDM_ASSERT(n <= j->samples);
    for (int64_t k = 0; k < n; k++) {
        if (samples[k].skip >> i & 1) continue;
        TDM_TRY(st, encode(&x, &samples[k], err), done);
        put(j, count++, &x.ids);
    }
    tdm_session_enter(&j->session, TDM_PHASE_TRAIN);
    TDM_TRY(st, tdm_trainer_look(j->session.trainer, &pass, j->scored_item, count, err), done);
    tdm_session_enter(&j->session, TDM_PHASE_ROLLOUT); /* whoever generates next finds its own layout */
    for (int64_t k = n - 1; k >= 0; k--)
        if (!(samples[k].skip >> i & 1)) out[k] = (double)j->score[--count];
done:
    tdm_example_free(&x);
    return st;
}
