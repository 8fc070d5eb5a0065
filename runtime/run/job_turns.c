/* Rollouts of several turns: what the engine hands over when a turn ends goes to the environment, and its observation back behind the
 * completion, as tokens that are in no loss. Where kernels are chosen by the number of rows (a device in fast numerics) the answers of all
 * samples are awaited before any goes on, so that batches are the same at each run; elsewhere a sample goes on when it has its own. */
#include "runtime/run/job_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Stands for the assistant's turn in a conversation that is rendered for what follows that turn. */
static const char mark[] = "TANDEM-7b1f-TURN";

typedef enum next { NEXT_NONE, NEXT_CONTINUE, NEXT_END } next;

typedef struct sample {
    int64_t request, index; /* in the engine's run */
    int64_t count;          /* turns of the model that have ended */
    int64_t observed;       /* tokens */
    bool last, failed;
    next next;              /* answered, and not yet told to the engine */
    json_t *messages;       /* the completion so far, owned */
    json_t *turns;          /* the same with tokens and rewards, owned */
    tdm_text text;          /* the newest turn */
} sample;

struct tdm_job_turns {
    tdm_job *j;
    tdm_turns hook;
    tdm_environment *env;
    tdm_text text;          /* scratch */
    tdm_ids ids;
    int64_t size;           /* samples of a request */
    int64_t step;           /* 0: an evaluation */
    int64_t waiting;        /* samples */
    bool rounds;
    sample *sample;         /* [samples] */
    double *given;          /* [samples, rewards]; NaN: nothing */
};

static json_t *text_of(const tdm_text *t)
{
    json_t *text = json_stringn(t->data, t->len);
    return text ? text : json_string("\xef\xbf\xbd"); /* cannot happen: the tokenizer's text is UTF-8 */
}

static double *given(const tdm_job_turns *t, int64_t n) { return t->given + n * t->j->r->reward_count; }
static const char *role_of(const tdm_job *j) { return j->r->environment.render == TDM_RENDER_USER ? "user" : "tool"; }

static json_t *conversation(const json_t *prompt, const json_t *messages)
{
    json_t *all = json_copy((json_t *)(uintptr_t)prompt);
    if (all) json_array_extend(all, (json_t *)(uintptr_t)messages);
    return all;
}

/* ---- What an observation becomes ------------------------------------------------------------------------------------------------- */

/* Text behind an assistant's turn: its end, the observation's turn, and the beginning of the next. */
static tdm_status render(tdm_job_turns *t, const json_t *prompt, const char *text, size_t len, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_job *j = t->j;
    tdm_error why = {0};
    char where[TDM_RECIPE_WHERE];
    json_t *turns = json_pack("[{s:s,s:s},{s:s,s:s%}]", "role", "assistant", "content", mark, "role", role_of(j), "content", text, len);
    json_t *all = turns ? conversation(prompt, turns) : NULL, *vars = all ? json_pack("{s:O,s:b}", "messages", all, "add_generation_prompt", 1) : NULL;
    t->text.len = 0;
    t->ids.count = 0;
    if (!vars) st = TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for an observation");
    else if (tdm_language_chat_ids(&j->language, vars, &t->text, &t->ids, &why) != TDM_OK)
        st = TDM_FAIL(err, TDM_ERR_INPUT, tdm_recipe_where(j->r, "environment.render", where), "use environment.render: user or text",
                      "the model's chat template takes no %s turn: %.140s", role_of(j), why.what);
    json_decref(turns);
    json_decref(all);
    json_decref(vars);
    if (st != TDM_OK) return st;
    const char *at = memmem(t->text.data, t->text.len, mark, sizeof mark - 1);
    if (!at) return TDM_FAIL(err, TDM_ERR_INPUT, tdm_recipe_where(j->r, "environment.render", where), "use environment.render: text",
                             "the model's chat template leaves an assistant's turn out");
    at += sizeof mark - 1;
    t->text.len -= (size_t)(at - t->text.data);
    memmove(t->text.data, at, t->text.len + 1);
    return TDM_OK;
}

static bool is_eos(const tdm_job *j, int32_t id)
{
    for (int i = 0; i < j->language.eos_count; i++)
        if (j->language.eos[i] == id) return true;
    return false;
}

/* Where a turn ended with the token that the template writes there, that is not written again. */
static tdm_status drop_end(tdm_job_turns *t, int32_t last, size_t *from, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_text end = {0};
    *from = 0;
    if (!is_eos(t->j, last)) return TDM_OK;
    TDM_TRY(st, tdm_tokenizer_decode(t->j->language.tokenizer, &last, 1, false, &end, err), done);
    if (end.len > 0 && end.len <= t->text.len && memcmp(end.data, t->text.data, end.len) == 0) *from = end.len;
done:
    tdm_text_free(&end);
    return st;
}

/* The observation, cut to the tokens it may have, into *cut. */
static tdm_status cut_observation(tdm_job_turns *t, const char *text, size_t len, tdm_text *cut, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const int64_t most = t->j->r->environment.max_observation_tokens;
    t->ids.count = 0;
    TDM_TRY(st, tdm_tokenizer_encode(t->j->language.tokenizer, text, len, false, &t->ids, err), done);
    if (t->ids.count <= most) TDM_TRY(st, tdm_text_append(cut, text, len, err), done);
    else TDM_TRY(st, tdm_tokenizer_decode(t->j->language.tokenizer, t->ids.data, most, false, cut, err), done);
done:
    return st;
}

/* Tokens that follow the sequence's turn, into t->ids. */
static tdm_status observation_ids(tdm_job_turns *t, const json_t *prompt, int32_t last, const tdm_text *observation, tdm_error *err)
{
    tdm_status st = TDM_OK;
    size_t from = 0;
    if (t->j->r->environment.render != TDM_RENDER_TEXT) {
        TDM_TRY(st, render(t, prompt, observation->data, observation->len, err), done);
        TDM_TRY(st, drop_end(t, last, &from, err), done);
    } else {
        t->text.len = 0;
        TDM_TRY(st, tdm_text_append(&t->text, observation->data, observation->len, err), done);
    }
    t->ids.count = 0;
    TDM_TRY(st, tdm_tokenizer_encode(t->j->language.tokenizer, t->text.data + from, t->text.len - from, false, &t->ids, err), done);
done:
    return st;
}

/* Puts the observation behind the sequence. Without room for it and a token more the sequence is truncated. */
static tdm_status observe(tdm_job_turns *t, int64_t n, const tdm_turn_reply *reply, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_job *j = t->j;
    sample *s = &t->sample[n];
    tdm_sequence *seq = &j->sequences.seq[n];
    tdm_text text = {0};
    TDM_TRY(st, tdm_text_append(&text, "", 0, err), done);
    TDM_TRY(st, cut_observation(t, reply->observation, reply->observation_len, &text, err), done);
    TDM_TRY(st, observation_ids(t, j->prompt[n / t->size].messages, seq->tokens[seq->count - 1], &text, err), done);
    const int64_t count = t->ids.count, at = tdm_sequence_completion(seq);
    if (seq->count + count >= seq->room) {
        seq->finish = TDM_FINISH_LENGTH;
        s->next = NEXT_END;
        goto done;
    }
    memcpy(seq->tokens + seq->count, t->ids.data, (size_t)count * sizeof *seq->tokens);
    for (int64_t i = at; i < at + count; i++) {
        seq->logprob[i] = 0.0f;
        j->sequences.mask[n][i] = 0;
    }
    seq->count += count;
    s->observed += count;
    s->next = NEXT_CONTINUE;
    json_array_append_new(s->messages, json_pack("{s:s,s:o}", "role", role_of(j), "content", text_of(&text)));
    json_array_append_new(s->turns, json_pack("{s:s,s:o,s:I}", "role", role_of(j), "content", text_of(&text), "tokens", (json_int_t)count));
done:
    tdm_text_free(&text);
    return st;
}

/* ---- Between engine and environment ---------------------------------------------------------------------------------------------- */

static tdm_status ended(void *ctx, int64_t request, int64_t index, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_job_turns *t = ctx;
    tdm_job *j = t->j;
    const tdm_request *q = &j->request[request];
    const int64_t n = q->sequence + index - j->sequences.seq;
    const tdm_sequence *seq = &j->sequences.seq[n];
    const json_t *prompt = j->prompt[n / t->size].messages;
    sample *s = &t->sample[n];
    s->request = request;
    s->index = index;
    s->last = ++s->count == j->r->environment.max_turns || seq->finish == TDM_FINISH_LENGTH;
    s->text.len = 0;
    TDM_TRY(st, tdm_text_append(&s->text, "", 0, err), done);
    TDM_TRY(st, tdm_language_text(&j->language, seq->tokens + seq->turn, seq->count - seq->turn, &s->text, err), done);
    json_array_append_new(s->messages, json_pack("{s:s,s:o}", "role", "assistant", "content", text_of(&s->text)));
    json_array_append_new(s->turns, json_pack("{s:s,s:o,s:I}", "role", "assistant", "content", text_of(&s->text), "tokens", (json_int_t)(seq->count - seq->turn)));
    const tdm_episode episode = {.step = t->step, .prompt = q->prompt_index, .sample = index, .seed = q->seed, .row = j->prompt[n / t->size].row};
    tdm_environment_ask(t->env, n, &episode, conversation(prompt, s->messages), seq->finish == TDM_FINISH_LENGTH, s->last);
    t->waiting++;
done:
    return st;
}

static void add_rewards(tdm_job_turns *t, int64_t n, const tdm_turn_reply *reply)
{
    const tdm_recipe *r = t->j->r;
    json_t *turns = t->sample[n].turns, *named = json_object();
    double *sum = given(t, n);
    for (int64_t i = 0, k = 0; i < r->reward_count; i++) {
        if (r->reward[i].kind != TDM_REWARD_ENVIRONMENT) continue;
        const double x = reply->reward[k++];
        if (isnan(x)) continue;
        sum[i] = isnan(sum[i]) ? x : sum[i] + x;
        json_object_set_new(named, r->reward[i].name, json_real(x));
    }
    if (json_object_size(named)) json_object_set(json_array_get(turns, json_array_size(turns) - 1), "rewards", named);
    json_decref(named);
}

static tdm_status take(void *ctx, int64_t n, const tdm_turn_reply *reply, bool failed, tdm_error *err)
{
    tdm_job_turns *t = ctx;
    const tdm_recipe *r = t->j->r;
    sample *s = &t->sample[n];
    t->waiting--;
    s->next = NEXT_END;
    s->failed = failed;
    if (!failed) add_rewards(t, n, reply);
    for (int64_t i = 0; failed && i < r->reward_count; i++)
        if (r->reward[i].kind == TDM_REWARD_ENVIRONMENT) given(t, n)[i] = 0.0;
    return reply->done || s->last ? TDM_OK : observe(t, n, reply, err);
}

static tdm_status answer(void *ctx, tdm_engine *e, bool idle, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_job_turns *t = ctx;
    if (t->waiting == 0 || (t->rounds && !idle)) return TDM_OK;
    TDM_TRY(st, tdm_environment_run(t->env, idle ? 0.2 : 0.0, take, t, err), done);
    for (int64_t n = 0; n < t->j->samples && !(t->rounds && t->waiting > 0); n++) {
        sample *s = &t->sample[n];
        if (s->next == NEXT_CONTINUE) tdm_engine_continue(e, s->request, s->index);
        if (s->next == NEXT_END) tdm_engine_end(e, s->request, s->index);
        s->next = NEXT_NONE;
    }
done:
    return st;
}

/* ---- For the job ------------------------------------------------------------------------------------------------------------------- */

tdm_status tdm_job_turns_open(tdm_job *j, tdm_error *err)
{
    if (!tdm_recipe_has_environment(j->r)) return TDM_OK;
    tdm_job_turns *t = j->turns = calloc(1, sizeof *t);
    if (t) {
        t->j = j;
        t->hook = (tdm_turns){.ctx = t, .ended = ended, .answer = answer};
        t->sample = calloc((size_t)j->samples, sizeof *t->sample);
        t->given = calloc((size_t)(j->samples * j->r->reward_count) + 1, sizeof *t->given);
    }
    if (!t || !t->sample || !t->given) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the turns of a step");
    return tdm_environment_open(&t->env, j->r, j->samples, err);
}

void tdm_job_turns_close(tdm_job *j)
{
    tdm_job_turns *t = j->turns;
    if (!t) return;
    tdm_environment_close(t->env);
    for (int64_t n = 0; t->sample && n < j->samples; n++) {
        json_decref(t->sample[n].messages);
        json_decref(t->sample[n].turns);
        tdm_text_free(&t->sample[n].text);
    }
    tdm_text_free(&t->text);
    tdm_ids_free(&t->ids);
    free(t->sample);
    free(t->given);
    free(t);
    j->turns = NULL;
}

tdm_status tdm_job_turns_try(tdm_job *j, const json_t *prompt, tdm_error *err)
{
    if (!j->turns || j->r->environment.render == TDM_RENDER_TEXT) return TDM_OK;
    return render(j->turns, prompt, "1", 1, err);
}

void tdm_job_turns_begin(tdm_job *j, int64_t size, bool evaluation)
{
    tdm_job_turns *t = j->turns;
    if (!t) return;
    tdm_environment_begin(t->env);
    t->size = size;
    t->step = evaluation ? 0 : j->step + 1;
    t->waiting = 0;
    t->rounds = j->session.be->device && !j->session.spec.exact;
}

const tdm_turns *tdm_job_turns_start(tdm_job *j, int64_t n)
{
    tdm_job_turns *t = j->turns;
    if (!t) return NULL;
    sample *s = &t->sample[n];
    json_decref(s->messages);
    json_decref(s->turns);
    *s = (sample){.messages = json_array(), .turns = json_array(), .text = s->text};
    for (int64_t i = 0; i < j->r->reward_count; i++) given(t, n)[i] = NAN;
    memset(j->sequences.mask[n], 1, (size_t)j->r->rollout.max_new_tokens);
    return &t->hook;
}

void tdm_job_turns_reward(const tdm_job *j, int64_t n, tdm_reward_sample *out)
{
    const tdm_job_turns *t = j->turns;
    if (!t) return;
    const sample *s = &t->sample[n];
    out->completion = s->text.data;
    out->completion_len = s->text.len;
    out->observed = s->observed;
    out->turns = s->messages;
    out->given = given(t, n);
    if (s->failed && j->r->environment.on_error == TDM_ENVIRONMENT_SKIP) out->skip = UINT64_MAX;
}

const json_t *tdm_job_turns_record(const tdm_job *j, int64_t n) { return j->turns ? j->turns->sample[n].turns : NULL; }

void tdm_job_turns_count(const tdm_job *j, tdm_job_figures *f)
{
    for (int64_t n = 0; j->turns && n < j->sequence_count; n++) {
        const sample *s = &j->turns->sample[n];
        f->turns += s->count;
        f->turns_max = tdm_max_i64(f->turns_max, s->count);
        f->environment_errors += s->failed;
    }
}

double tdm_job_turns_s(const tdm_job *j) { return j->turns ? tdm_environment_figures_of(j->turns->env).busy_s : 0.0; }
