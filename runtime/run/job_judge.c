/* Rewards of type judge: a model is asked about each completion, and its reply is read. It is the base with the adapter off, in the policy's own engine, or a guest
 * (guest_model.h) in its turn; a reply that gives no score follows on_error. */
#include "runtime/run/job_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"
#include "runtime/reward/judge.h"

typedef struct judge {
    const tdm_recipe_reward *w;
    int64_t reward;        /* its number in the recipe */
    tdm_judge *side;
    tdm_guest *guest;      /* NULL: the base */
    int64_t most_prompt;   /* tokens */
} judge;

struct tdm_job_judges {
    tdm_job *j;
    judge *judge;
    int64_t count;
    tdm_guest guest[TDM_GUESTS];
    int guest_count;
    char folder[TDM_PATH_BYTES]; /* where guests wait on a CPU */
    tdm_sequences sequences;
    tdm_request *request;  /* [samples] */
    int64_t *asked;        /* [samples] which sample request k is about */
    json_t **reply;        /* [samples] of the step: the replies about sequence n by the reward's name, owned */
    tdm_text text;         /* scratch */
    tdm_ids ids;
};

static const char *key_where(const tdm_job *j, const judge *g, const char *key, char where[TDM_RECIPE_WHERE])
{
    char path[64];
    snprintf(path, sizeof path, "reward[%" PRId64 "].%s", g->reward, key);
    if (!tdm_recipe_given(j->r, path)) snprintf(path, sizeof path, "reward[%" PRId64 "]", g->reward);
    return tdm_recipe_where(j->r, path, where);
}

static const tdm_language *language_of(const tdm_job *j, const judge *g) { return g->guest ? &g->guest->language : &j->plain; }

/* ---- Who judges ------------------------------------------------------------------------------------------------------------------------ */

/* Judges of the same model are one guest. */
static tdm_guest *guest_of(tdm_job_judges *t, const tdm_recipe_reward *w)
{
    for (int64_t i = 0; i < t->count; i++) {
        const judge *other = &t->judge[i];
        if (other->guest && strcmp(other->w->model, w->model) == 0 && other->w->weights == w->weights) return other->guest;
    }
    return NULL;
}

static tdm_status open_guest(tdm_job_judges *t, judge *g, tdm_error *err)
{
    static const char *const keep_bf16[] = {"lm_head", NULL};
    tdm_status st = TDM_OK;
    char key[64], where[TDM_RECIPE_WHERE];
    g->guest = guest_of(t, g->w);
    if (g->guest) return TDM_OK;
    if (t->guest_count == TDM_GUESTS)
        return TDM_FAIL(err, TDM_ERR_RECIPE, key_where(t->j, g, "model", where), "let some judges share a model", "more than %d models judge", (int)TDM_GUESTS);
    g->guest = &t->guest[t->guest_count++];
    TDM_TRY(st, tdm_guest_open(g->guest, g->w->model, err), done);
    snprintf(key, sizeof key, "reward[%" PRId64 "].weights", g->reward);
    g->guest->role = "judge";
    g->guest->name = g->w->name;
    g->guest->where = g->w->model;
    g->guest->folder = t->folder;
    g->guest->weights = (tdm_weights_options){.scheme = g->w->weights, .scheme_given = tdm_recipe_given(t->j->r, key), .act = TDM_ACT_DYNAMIC, .keep_bf16 = keep_bf16};
done:
    return st;
}

/* The folder the run's will be made in. */
static void settle_folder(tdm_job_judges *t)
{
    snprintf(t->folder, sizeof t->folder, "%s", t->j->r->output);
    size_t len = strlen(t->folder);
    while (len > 1 && t->folder[len - 1] == '/') t->folder[--len] = 0;
    char *slash = strrchr(t->folder, '/');
    if (!slash) snprintf(t->folder, sizeof t->folder, ".");
    else slash[slash == t->folder] = 0;
}

/* ---- Sizes ------------------------------------------------------------------------------------------------------------------------- */

static tdm_status encode(tdm_job_judges *t, const judge *g, json_t *messages, tdm_error *err)
{
    t->text.len = 0;
    t->ids.count = 0;
    json_t *vars = json_pack("{s:O,s:b}", "messages", messages, "add_generation_prompt", 1);
    if (!vars) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for a judge's question");
    const tdm_status st = tdm_language_chat_ids(language_of(t->j, g), vars, &t->text, &t->ids, err);
    json_decref(vars);
    return st;
}

/* Room for columns of the row beside prompt and completion, where the recipe gives no max_prompt_tokens. */
enum { COLUMN_TOKENS = 256 };

/* The question's tokens at most: the template's own, the longest prompt, the longest completion. */
static tdm_status size_prompt(tdm_job_judges *t, judge *g, const tdm_model_config *base, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char where[TDM_RECIPE_WHERE];
    const tdm_recipe *r = t->j->r;
    const tdm_model_config *c = g->guest ? g->guest->config : base;
    const int64_t room = c->context - g->w->max_new_tokens;
    json_t *messages = json_pack("[{s:s,s:s}]", "role", "user", "content", g->w->prompt);
    if (messages && g->w->system[0]) json_array_insert_new(messages, 0, json_pack("{s:s,s:s}", "role", "system", "content", g->w->system));
    if (!messages) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for a judge's question");
    TDM_TRY(st, encode(t, g, messages, err), done);
    g->most_prompt = g->w->max_prompt_tokens;
    if (g->most_prompt == 0) g->most_prompt = tdm_min_i64(room, t->ids.count + COLUMN_TOKENS + r->data.max_prompt_tokens + r->rollout.max_new_tokens);
    if (g->most_prompt <= 0 || g->most_prompt > room)
        st = TDM_FAIL(err, TDM_ERR_RECIPE, key_where(t->j, g, g->most_prompt > 0 ? "max_prompt_tokens" : "max_new_tokens", where),
                      "lower its max_prompt_tokens or max_new_tokens", "question and reply of judge \"%.40s\" pass its model's context of %" PRId64 " tokens", g->w->name,
                      c->context);
done:
    json_decref(messages);
    return st;
}

tdm_status tdm_job_judges_open(tdm_job *j, const tdm_model_config *c, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_recipe *r = j->r;
    int64_t count = 0;
    for (int64_t i = 0; j->rewards && i < r->reward_count; i++) count += r->reward[i].kind == TDM_REWARD_JUDGE;
    if (!count) return TDM_OK;
    tdm_job_judges *t = j->judges = calloc(1, sizeof *t);
    if (t) {
        t->j = j;
        settle_folder(t);
        t->judge = calloc((size_t)count, sizeof *t->judge);
        t->request = calloc((size_t)j->samples, sizeof *t->request);
        t->asked = calloc((size_t)j->samples, sizeof *t->asked);
        t->reply = calloc((size_t)j->samples, sizeof *t->reply);
    }
    if (!t || !t->judge || !t->request || !t->asked || !t->reply) return TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the judges");
    for (int64_t i = 0; i < r->reward_count; i++) {
        char where[TDM_RECIPE_WHERE];
        if (r->reward[i].kind != TDM_REWARD_JUDGE) continue;
        judge *g = &t->judge[t->count];
        g->w = &r->reward[i];
        g->reward = i;
        if (!tdm_reward_judges_by_itself(g->w)) TDM_TRY(st, open_guest(t, g, err), done);
        t->count++;
        TDM_TRY(st, tdm_judge_open(&g->side, g->w, key_where(j, g, "parse", where), err), done);
        TDM_TRY(st, size_prompt(t, g, c, err), done);
    }
done:
    return st;
}

void tdm_job_judges_close(tdm_job *j)
{
    tdm_job_judges *t = j->judges;
    if (!t) return;
    for (int64_t i = 0; t->judge && i < t->count; i++) tdm_judge_close(t->judge[i].side);
    for (int i = 0; i < t->guest_count; i++) tdm_guest_close(&t->guest[i]);
    for (int64_t n = 0; t->reply && n < j->samples; n++) json_decref(t->reply[n]);
    tdm_sequences_close(&t->sequences);
    tdm_text_free(&t->text);
    tdm_ids_free(&t->ids);
    free(t->judge);
    free(t->request);
    free(t->asked);
    free(t->reply);
    free(t);
    j->judges = NULL;
}

static tdm_sequences_spec store_spec(const tdm_job_judges *t)
{
    tdm_sequences_spec s = {.count = t->j->samples};
    for (int64_t i = 0; i < t->count; i++) {
        s.prompt = tdm_max_i64(s.prompt, t->judge[i].most_prompt);
        s.completion = tdm_max_i64(s.completion, t->judge[i].w->max_new_tokens);
    }
    return s;
}

void tdm_job_judges_need(tdm_job *j, tdm_session_spec *s)
{
    tdm_job_judges *t = j->judges;
    if (!t) return;
    const tdm_sequences_spec store = store_spec(t);
    s->host_bytes += tdm_sequences_bytes(&store);
    for (int64_t i = 0; i < t->count; i++) {
        tdm_guest *g = t->judge[i].guest;
        tdm_engine_spec *e = g ? &g->engine_spec : &s->engine;
        if (g) *e = (tdm_engine_spec){.sequences = s->engine.sequences, .samples = j->samples, .context = e->context, .batch_tokens = s->engine.batch_tokens, .head_rows = s->engine.head_rows};
        else s->without_adapter = true;
        e->requests = j->samples; /* each question is a prompt of its own */
        e->context = tdm_max_i64(e->context, t->judge[i].most_prompt + t->judge[i].w->max_new_tokens);
    }
    s->guests = t->guest;
    s->guest_count = t->guest_count;
}

/* ---- A batch ----------------------------------------------------------------------------------------------------------------------- */

/* Where the replies about sample k of the step's batch are kept. */
static json_t **kept(const tdm_job_judges *t, int64_t k)
{
    const int64_t size = t->j->r->rollout.generations;
    return &t->reply[t->j->group_start[t->j->fresh[k / size]] + k % size];
}

static void forget(const tdm_job_judges *t, const judge *g, int64_t n)
{
    for (int64_t k = 0; k < n; k++) {
        json_t **reply = kept(t, k);
        if (!*reply) *reply = json_object();
        json_object_del(*reply, g->w->name);
    }
}

const json_t *tdm_job_judges_record(const tdm_job *j, int64_t n) { return j->judges ? j->judges->reply[n] : NULL; }

/* A reply, or the want of one, that gives no score. */
static tdm_status failed(tdm_job_judges *t, const judge *g, int64_t sample, const char *hint, const char *why, const tdm_text *reply, double *out, tdm_error *err)
{
    char where[160];
    if (t->j->judging) t->j->fig.judge_failed++;
    *out = g->w->on_error == TDM_ON_ERROR_ZERO ? 0.0 : NAN;
    if (g->w->on_error != TDM_ON_ERROR_STOP) return TDM_OK;
    snprintf(where, sizeof where, "judge \"%.40s\", sample %" PRId64, g->w->name, sample);
    if (!reply) return TDM_FAIL(err, TDM_ERR_INPUT, where, hint, "%s", why);
    char shown[81];
    size_t len = reply->len < 80 ? reply->len : 80;
    while (len < reply->len && len > 0 && ((unsigned char)reply->data[len] & 0xc0) == 0x80) len--;
    memcpy(shown, reply->data, len);
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)shown[i] < ' ') shown[i] = ' ';
    shown[len] = 0;
    return TDM_FAIL(err, TDM_ERR_INPUT, where, hint, "%s: \"%s%s\"", why, shown, len < reply->len ? "..." : "");
}

/* The draws of a judge are its own: keyed by the recipe's seed and the reward's number, and by whose completion of which prompt of which step it is. */
static uint64_t seed_of(const tdm_job *j, const judge *g)
{
    static const uint32_t label = 0x4a554447; /* "JUDG" */
    const tdm_philox4 x = tdm_philox((uint64_t)j->r->seed, label, (uint32_t)g->reward, 0, 0);
    return (uint64_t)x.v[0] << 32 | x.v[1];
}

/* The question about sample k as request n; *fits: false when it is too long. */
static tdm_status ask(tdm_job_judges *t, const judge *g, const tdm_reward_sample *s, int64_t k, int64_t n, bool *fits, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_job *j = t->j;
    char where[96];
    json_t *messages = NULL;
    snprintf(where, sizeof where, "judge \"%.40s\", sample %" PRId64, g->w->name, k);
    TDM_TRY(st, tdm_judge_ask(g->side, s, where, &messages, err), done);
    TDM_TRY(st, encode(t, g, messages, err), done);
    *fits = t->ids.count <= g->most_prompt;
    if (!*fits) goto done;
    tdm_sequence *seq = &t->sequences.seq[n];
    tdm_sequence_start(seq, t->ids.data, t->ids.count, g->w->max_new_tokens);
    const int64_t size = s->drawn.step ? j->r->rollout.generations : j->r->eval.generations;
    t->asked[n] = k;
    t->request[n] = (tdm_request){.sequence = seq, .samples = 1,
                                  .sampling = {.temperature = (float)g->w->temperature, .top_p = 1.0f, .repetition_penalty = 1.0f},
                                  .seed = seed_of(j, g), .step = s->drawn.step, .prompt_index = s->drawn.prompt * (uint32_t)size + s->drawn.sample,
                                  .stop_ids = language_of(j, g)->eos, .stop_count = language_of(j, g)->eos_count};
done:
    json_decref(messages);
    return st;
}

static tdm_status read_reply(tdm_job_judges *t, const judge *g, int64_t n, double *out, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_sequence *seq = &t->sequences.seq[n];
    const bool cut = seq->finish == TDM_FINISH_LENGTH;
    t->text.len = 0;
    TDM_TRY(st, tdm_text_append(&t->text, "", 0, err), done);
    TDM_TRY(st, tdm_language_text(language_of(t->j, g), seq->tokens + seq->prompt, tdm_sequence_completion(seq), &t->text, err), done);
    if (t->j->judging) {
        t->j->fig.judge_tokens += seq->count;
        json_object_set_new(*kept(t, t->asked[n]), g->w->name, json_stringn(t->text.data, t->text.len));
    }
    if (tdm_judge_read(g->side, t->text.data, t->text.len, cut, out)) goto done;
    st = failed(t, g, t->asked[n], cut ? "raise its max_new_tokens, or use on_error: zero or skip" : "check parse and range, or use on_error: zero or skip",
                cut ? "the reply was cut at max_new_tokens and has no score" : "the reply has no score", &t->text, out, err);
done:
    return st;
}

static bool on_tick(void *ctx, int64_t done, int64_t tokens)
{
    const tdm_job_judges *t = ctx;
    (void)tokens;
    tdm_progress_phase(&t->j->progress, t->j->step + 1, "judge", done, t->sequences.count);
    return !tdm_signals_stop();
}

/* The phase region becomes the judge's, where it is not. */
static tdm_status take_turn(tdm_job_judges *t, const judge *g, tdm_error *err)
{
    if (g->guest) return tdm_guest_enter(&t->j->session, g->guest, err);
    tdm_job_judges_leave(t->j);
    return TDM_OK;
}

static tdm_status judge_batch(void *ctx, int64_t reward, const tdm_reward_sample *samples, int64_t n, double *out, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_job_judges *t = ctx;
    const double start = tdm_now_s();
    const judge *g = t->judge;
    int64_t count = 0;
    while (g->reward != reward) g++;
    t->j->judging = samples[0].drawn.step > 0;
    if (t->j->judging) forget(t, g, n);
    for (int64_t k = 0; k < n; k++) {
        bool fits;
        if (samples[k].skip >> reward & 1) continue;
        TDM_TRY(st, ask(t, g, &samples[k], k, count, &fits, err), done);
        if (fits) count++;
        else TDM_TRY(st, failed(t, g, k, "raise its max_prompt_tokens, or use on_error: zero or skip", "the question is longer than max_prompt_tokens", NULL, &out[k], err), done);
    }
    TDM_TRY(st, take_turn(t, g, err), done);
    /* after an update a signal waits until the step is whole */
    TDM_TRY(st, tdm_engine_run(g->guest ? g->guest->engine : t->j->session.engine, NULL, t->request, count, t->j->judging ? on_tick : NULL, t, err), done);
    for (int64_t i = 0; i < count; i++) TDM_TRY(st, read_reply(t, g, i, &out[t->asked[i]], err), done);
done:
    if (t->j->judging) t->j->fig.judge_s += tdm_now_s() - start;
    return st;
}

void tdm_job_judges_leave(tdm_job *j)
{
    for (int i = 0; j->judges && i < j->judges->guest_count; i++)
        if (j->judges->guest[i].here) tdm_session_enter(&j->session, TDM_PHASE_ROLLOUT);
}

tdm_status tdm_job_judges_expect(tdm_job *j, tdm_error *err)
{
    return j->judges && j->judges->guest_count ? tdm_guest_prefetch(&j->session, &j->judges->guest[0], err) : TDM_OK;
}

tdm_status tdm_job_judges_load(tdm_job *j, tdm_error *err)
{
    tdm_job_judges *t = j->judges;
    if (!t) return TDM_OK;
    const tdm_sequences_spec store = store_spec(t);
    tdm_rewards_attach(j->rewards, TDM_REWARD_JUDGE, judge_batch, t);
    return tdm_sequences_open(&t->sequences, &store, err);
}

tdm_status tdm_job_judges_try(tdm_job *j, const tdm_job_prompt *p, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_job_judges *t = j->judges;
    const tdm_reward_sample s = {.prompt = p->messages, .completion = "", .skip = p->skip, .row = p->row};
    for (int64_t i = 0; t && i < t->count; i++) {
        const judge *g = &t->judge[i];
        char where[TDM_RECIPE_WHERE];
        json_t *messages = NULL;
        if (p->skip >> g->reward & 1) continue;
        TDM_TRY(st, tdm_judge_ask(g->side, &s, key_where(j, g, "prompt", where), &messages, err), done);
        st = encode(t, g, messages, err);
        json_decref(messages);
        if (st != TDM_OK) goto done;
    }
done:
    return st;
}
