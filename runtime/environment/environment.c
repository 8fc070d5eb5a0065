/* Episodes, and the calls that carry their turns to the workers. */
#include "runtime/environment/environment.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/reward/worker.h"

typedef struct episode {
    tdm_episode of;
    json_t *turns;       /* {"messages", "truncated", "last"} of each turn so far, owned; NULL: not begun */
    int64_t told;        /* turns that the worker as it runs now has had */
    bool asked;          /* the newest turn has no answer yet */
    bool under_way;      /* it is in a call */
    bool alone;          /* its call failed with others in it */
} episode;

typedef struct call {
    struct tdm_environment *e;
    tdm_worker worker;
    int64_t request;
    int64_t *sample;     /* [samples] of the call under way; count 0: none is */
    int64_t count;
    tdm_turn_reply *reply; /* [samples] */
    double *reward;      /* [samples, rewards] */
    json_t *root;        /* what the replies point into */
} call;

struct tdm_environment {
    const tdm_recipe *r;
    int64_t samples, rewards;
    const char **names;  /* [rewards] */
    episode *episode;    /* [samples] */
    call *call;          /* [workers] */
    tdm_worker **worker; /* [workers] */
    int64_t workers;
    tdm_environment_figures figures;
    double busy_since;   /* 0: no call is under way */
};

int64_t tdm_environment_rewards(const tdm_recipe *r)
{
    int64_t n = 0;
    for (int64_t i = 0; i < r->reward_count; i++) n += r->reward[i].kind == TDM_REWARD_ENVIRONMENT;
    return n;
}

static bool open_call(tdm_environment *e, call *c)
{
    const tdm_recipe_environment *w = &e->r->environment;
    const tdm_worker_spec spec = {.python = w->python[0] ? w->python : NULL, .program = tdm_python_environment,
                                  .form = "file.py:Class with reset and step, importable by itself", .interpreter = w->interpreter,
                                  .command = w->command.items, .timeout_s = w->timeout_s};
    tdm_worker_init(&c->worker, &spec);
    c->e = e;
    c->sample = calloc((size_t)e->samples + 1, sizeof *c->sample);
    c->reply = calloc((size_t)e->samples + 1, sizeof *c->reply);
    c->reward = calloc((size_t)(e->samples * e->rewards) + 1, sizeof *c->reward);
    for (int64_t i = 0; c->reply && c->reward && i < e->samples; i++) c->reply[i].reward = c->reward + i * e->rewards;
    return c->sample && c->reply && c->reward;
}

tdm_status tdm_environment_open(tdm_environment **out, const tdm_recipe *r, int64_t samples, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const int64_t workers = r->environment.workers;
    tdm_environment *e = *out = calloc(1, sizeof *e);
    bool ok = e != NULL;
    if (ok) {
        *e = (tdm_environment){.r = r, .samples = samples, .rewards = tdm_environment_rewards(r)};
        e->names = calloc((size_t)e->rewards + 1, sizeof *e->names);
        e->episode = calloc((size_t)samples + 1, sizeof *e->episode);
        e->call = calloc((size_t)workers, sizeof *e->call);
        e->worker = calloc((size_t)workers, sizeof(tdm_worker *));
        ok = e->names && e->episode && e->call && e->worker;
    }
    for (int64_t i = 0, k = 0; ok && i < r->reward_count; i++)
        if (r->reward[i].kind == TDM_REWARD_ENVIRONMENT) e->names[k++] = r->reward[i].name;
    for (; ok && e->workers < workers; e->workers++) {
        e->worker[e->workers] = &e->call[e->workers].worker;
        ok = open_call(e, &e->call[e->workers]);
    }
    if (!ok) st = TDM_FAIL(err, TDM_ERR_OTHER, NULL, "free host memory", "out of memory for the environment");
    for (int64_t k = 0; st == TDM_OK && k < workers; k++) st = tdm_worker_start(e->worker[k], err);
    if (st != TDM_OK) {
        tdm_environment_close(e);
        *out = NULL;
    }
    return st;
}

/* The reply's texts are let go. */
static void end_call(call *c)
{
    c->count = 0;
    json_decref(c->root);
    c->root = NULL;
}

void tdm_environment_begin(tdm_environment *e)
{
    for (int64_t k = 0; k < e->workers; k++) {
        if (e->worker[k]->busy) tdm_worker_stop(e->worker[k], 0.0);
        end_call(&e->call[k]);
    }
    for (int64_t i = 0; i < e->samples; i++) {
        json_decref(e->episode[i].turns);
        e->episode[i] = (episode){0};
    }
    e->figures = (tdm_environment_figures){0};
    e->busy_since = 0.0;
}

void tdm_environment_close(tdm_environment *e)
{
    if (!e) return;
    if (e->episode && e->call && e->worker) tdm_environment_begin(e);
    for (int64_t k = 0; e->call && k < e->workers; k++) {
        tdm_worker_stop(&e->call[k].worker, 2.0);
        free(e->call[k].sample);
        free(e->call[k].reply);
        free(e->call[k].reward);
    }
    free(e->names);
    free(e->episode);
    free(e->call);
    free(e->worker);
    free(e);
}

tdm_environment_figures tdm_environment_figures_of(const tdm_environment *e) { return e->figures; }

void tdm_environment_ask(tdm_environment *e, int64_t i, const tdm_episode *of, json_t *messages, bool truncated, bool last)
{
    episode *p = &e->episode[i];
    p->of = *of;
    if (!p->turns) p->turns = json_array();
    json_array_append_new(p->turns, json_pack("{s:o,s:b,s:b}", "messages", messages, "truncated", truncated, "last", last));
    p->asked = true;
    p->alone = false;
}

/* A number of 53 bits, which every JSON reader keeps, a function of the seed and the episode's name (splitmix64's finalizer). */
static int64_t seed_of(const tdm_episode *of)
{
    uint64_t x = of->seed;
    const int64_t parts[] = {of->step, of->prompt, of->sample};
    for (size_t i = 0; i < TDM_COUNT(parts); i++) {
        x += 0x9E3779B97F4A7C15ull * ((uint64_t)parts[i] + 1);
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
        x = (x ^ x >> 27) * 0x94D049BB133111EBull;
        x ^= x >> 31;
    }
    return (int64_t)(x >> 11);
}

static json_t *request_of(const call *c)
{
    static const char *const lists[] = {"keys", "turns", "last", "truncated", "seeds", "completions", "messages"};
    json_t *q = json_pack("{s:I}", "id", (json_int_t)c->request);
    const json_t **rows = calloc((size_t)c->count + 1, sizeof *rows);
    for (size_t k = 0; k < TDM_COUNT(lists); k++) json_object_set_new(q, lists[k], json_array());
    for (int64_t n = 0; rows && n < c->count; n++) {
        const episode *p = &c->e->episode[c->sample[n]];
        const json_t *turn = json_array_get(p->turns, (size_t)p->told);
        json_t *messages = json_object_get(turn, "messages");
        json_t *completion = json_object_get(json_array_get(messages, json_array_size(messages) - 1), "content");
        json_t *const values[] = {json_pack("[I,I,I]", (json_int_t)p->of.step, (json_int_t)p->of.prompt, (json_int_t)p->of.sample), json_integer(p->told + 1),
                                  json_incref(json_object_get(turn, "last")), json_incref(json_object_get(turn, "truncated")), json_integer(seed_of(&p->of)),
                                  json_incref(completion), json_incref(messages)};
        for (size_t k = 0; k < TDM_COUNT(lists); k++) json_array_append_new(json_object_get(q, lists[k]), values[k]);
        rows[n] = p->of.row;
    }
    if (rows) json_object_set_new(q, "columns", tdm_worker_columns(rows, c->count));
    free(rows);
    return q;
}

/* "environment python f.py:Class, step 3, prompt 0, sample 2, turn 1" */
static void name_sample(const call *c, int64_t i, char where[256])
{
    const episode *p = &c->e->episode[i];
    snprintf(where, 256, "environment %.100s, %s %" PRId64 ", prompt %" PRId64 ", sample %" PRId64 ", turn %" PRId64, c->worker.label,
             p->of.step ? "step" : "evaluation, step", p->of.step, p->of.prompt, p->of.sample, p->told + 1);
}

static tdm_status take_reply(void *ctx, const char *line, size_t len, tdm_error *err)
{
    call *c = ctx;
    return tdm_environment_reply_parse(line, len, c->worker.where, c->request, c->e->names, c->e->rewards, c->count, c->reply, &c->root, err);
}

/* Begins a call for what worker k has to be asked. */
static void send(tdm_environment *e, int64_t k)
{
    call *c = &e->call[k];
    char where[256];
    int64_t alone = -1;
    for (int64_t i = k; i < e->samples; i += e->workers) {
        const episode *p = &e->episode[i];
        if (!p->asked || p->under_way) continue;
        if (!p->alone) c->sample[c->count++] = i;
        else if (alone < 0) alone = i;
    }
    if (c->count == 0 && alone >= 0) c->sample[c->count++] = alone;
    if (c->count == 0) return;
    for (int64_t n = 0; n < c->count; n++) e->episode[c->sample[n]].under_way = true;
    name_sample(c, c->sample[0], where);
    c->request++;
    json_t *request = request_of(c);
    tdm_worker_call(&c->worker, request, where, take_reply, c);
    json_decref(request);
    e->figures.calls++;
}

/* A sample that failed: an error, or a warning and the end of its episode. */
static tdm_status fail(tdm_environment *e, int64_t i, const tdm_error *why, tdm_environment_reply_fn *take, void *ctx, tdm_error *err)
{
    static const char *const ends[] = {[TDM_ENVIRONMENT_ZERO] = "its environment's rewards are 0", [TDM_ENVIRONMENT_SKIP] = "the sample is left out"};
    const tdm_environment_error on = e->r->environment.on_error;
    const tdm_turn_reply none = {.done = true};
    e->figures.errors++;
    e->episode[i].asked = false;
    if (on == TDM_ENVIRONMENT_STOP) {
        if (err && err->status == TDM_OK) *err = *why;
        return why->status;
    }
    fprintf(stderr, "warning: %s (%s): %s\n", why->what, why->where, ends[on]);
    return take(ctx, i, &none, true, err);
}

static tdm_status hand_over(call *c, tdm_environment_reply_fn *take, void *ctx, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_environment *e = c->e;
    for (int64_t n = 0; n < c->count && st == TDM_OK; n++) {
        const int64_t i = c->sample[n];
        episode *p = &e->episode[i];
        p->under_way = false;
        if (c->reply[n].error) {
            tdm_error why = {0};
            char where[256];
            name_sample(c, i, where);
            (void)TDM_FAIL(&why, TDM_ERR_INPUT, where, "mend the environment, or set environment.on_error", "the environment failed: %.180s", c->reply[n].error);
            st = fail(e, i, &why, take, ctx, err);
        } else if (++p->told == (int64_t)json_array_size(p->turns)) { /* else it was a turn told again */
            p->asked = false;
            st = take(ctx, i, &c->reply[n], false, err);
        }
    }
    end_call(c);
    return st;
}

/* The worker is gone, and with it what its episodes had been told. */
static tdm_status recover(tdm_environment *e, int64_t k, tdm_environment_reply_fn *take, void *ctx, tdm_error *err)
{
    tdm_status st = TDM_OK;
    call *c = &e->call[k];
    const int64_t only = c->count == 1 ? c->sample[0] : -1;
    tdm_error why = c->worker.error;
    c->worker.failed = false;
    if (only >= 0) name_sample(c, only, why.where);
    for (int64_t n = 0; n < c->count; n++) {
        e->episode[c->sample[n]].under_way = false;
        e->episode[c->sample[n]].alone = true;
    }
    for (int64_t i = k; i < e->samples; i += e->workers) e->episode[i].told = 0;
    end_call(c);
    if (only >= 0) st = fail(e, only, &why, take, ctx, err);
    return st;
}

static void count_busy(tdm_environment *e)
{
    bool busy = false;
    for (int64_t k = 0; k < e->workers; k++) busy = busy || e->call[k].count > 0;
    const double now = tdm_now_s();
    if (e->busy_since > 0.0) e->figures.busy_s += now - e->busy_since;
    e->busy_since = busy ? now : 0.0;
}

tdm_status tdm_environment_run(tdm_environment *e, double wait_s, tdm_environment_reply_fn *take, void *ctx, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int64_t k = 0; k < e->workers; k++)
        if (e->call[k].count == 0) send(e, k);
    count_busy(e);
    tdm_workers_step(e->worker, e->workers, wait_s);
    for (int64_t k = 0; k < e->workers; k++) {
        call *c = &e->call[k];
        if (c->count == 0 || c->worker.busy) continue;
        TDM_TRY(st, c->worker.failed ? recover(e, k, take, ctx, err) : hand_over(c, take, ctx, err), done);
    }
done:
    count_busy(e);
    return st;
}
