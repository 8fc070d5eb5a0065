/* One step's experience: prompts from the data, completions from the engine (or a recording), rewards, advantages. */
#include "runtime/run/job_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void tdm_job_prompt_clear(tdm_job_prompt *p)
{
    json_decref(p->row);
    json_decref(p->messages);
    p->row = p->messages = NULL;
    p->text.len = 0;
    p->ids.count = 0;
}

/* Rewards that are not among those the source names. */
static uint64_t skipped_rewards(const tdm_recipe *r, const tdm_recipe_source *of)
{
    uint64_t skip = 0;
    for (int64_t i = 0; of && of->rewards.count && i < r->reward_count; i++) skip |= (uint64_t)1 << i;
    for (int64_t k = 0; of && k < of->rewards.count; k++) skip &= ~((uint64_t)1 << tdm_recipe_reward_find(r, of->rewards.items[k]));
    return skip;
}

tdm_status tdm_job_prompt_make(tdm_job *j, const tdm_dataset *data, const tdm_recipe_source *of, int64_t row, tdm_job_prompt *p, bool *fits, tdm_error *err)
{
    tdm_status st = TDM_OK;
    char where[512];
    json_t *vars = NULL;
    const tdm_recipe_data *d = &j->r->data;
    tdm_job_prompt_clear(p);
    p->skip = skipped_rewards(j->r, of);
    tdm_dataset_where(data, row, where);
    TDM_TRY(st, tdm_dataset_row(data, row, &p->row, err), done);
    TDM_TRY(st, tdm_row_messages(p->row, of ? of->system : d->system, of ? of->prompt : d->prompt, where, &p->messages, err), done);
    vars = json_pack("{s:O,s:b}", "messages", p->messages, "add_generation_prompt", 1);
    if (!vars) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, where, "free host memory", "out of memory for a prompt");
        goto done;
    }
    TDM_TRY(st, tdm_language_chat_ids(&j->language, vars, &p->text, &p->ids, err), done);
    *fits = p->ids.count <= j->r->data.max_prompt_tokens;
done:
    json_decref(vars);
    return st;
}

/* Prompts that are too long are left out, counted and said once; the counter of draws moves on, so a resume leaves out the same. */
static tdm_status next_prompt(tdm_job *j, tdm_job_prompt *p, tdm_error *err)
{
    tdm_status st = TDM_OK;
    for (int64_t tried = 0;; tried++) {
        bool fits;
        int64_t part, row;
        tdm_mixture_draw(j->data, j->data_position++, &part, &row);
        const tdm_dataset *data = tdm_mixture_part(j->data, part);
        TDM_TRY(st, tdm_job_prompt_make(j, data, &j->r->data.source[part], row, p, &fits, err), done);
        if (fits) break;
        if (j->skipped++ == 0) {
            char where[512];
            tdm_progress_note(&j->progress, "%s: %lld prompt tokens pass data.max_prompt_tokens %lld; such rows are left out",
                              tdm_dataset_where(data, row, where), (long long)p->ids.count, (long long)j->r->data.max_prompt_tokens);
        }
        if (tried >= tdm_mixture_rows(j->data)) {
            char where[TDM_RECIPE_WHERE];
            st = TDM_FAIL(err, TDM_ERR_INPUT, tdm_recipe_where(j->r, "data.max_prompt_tokens", where), "raise it", "every prompt is longer than %lld tokens",
                          (long long)j->r->data.max_prompt_tokens);
            goto done;
        }
    }
done:
    return st;
}

typedef struct tick {
    tdm_job *j;
    int64_t total;
} tick;

static bool on_tick(void *ctx, int64_t done, int64_t tokens)
{
    tick *t = ctx;
    (void)tokens;
    tdm_progress_phase(&t->j->progress, t->j->step + 1, "rollout", done, t->total);
    return !tdm_signals_stop();
}

/* The next prompt into group g. drawn: prompts this step has drawn before, of which the sampler's draws are a function. */
static tdm_status ask(tdm_job *j, int64_t g, int64_t drawn, tdm_request *q, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_recipe_rollout *ro = &j->r->rollout;
    tdm_job_prompt *p = &j->prompt[g];
    const int64_t first = j->group_start[g];
    TDM_TRY(st, next_prompt(j, p, err), done);
    const tdm_turns *turns = NULL;
    for (int64_t i = 0; i < ro->generations; i++) {
        tdm_sequence_start(&j->sequences.seq[first + i], p->ids.data, p->ids.count, ro->max_new_tokens);
        turns = tdm_job_turns_start(j, first + i);
    }
    *q = (tdm_request){.sequence = &j->sequences.seq[first], .samples = ro->generations, .sampling = j->sampling,
                       .seed = (uint64_t)j->r->seed, .step = (uint32_t)(j->step + 1), .prompt_index = (uint32_t)drawn,
                       .stop_ids = j->language.eos, .stop_count = j->language.eos_count,
                       .stop = ro->stop.count > 0 ? tdm_stops_hit : NULL, .stop_ctx = &j->stops, .turns = turns};
done:
    return st;
}

int64_t tdm_job_own_tokens(const tdm_job *j, int64_t i)
{
    const int64_t all = tdm_sequence_completion(&j->sequences.seq[i]);
    int64_t own = 0;
    for (int64_t k = 0; j->sequences.mask && k < all; k++) own += j->sequences.mask[i][k];
    return j->sequences.mask ? own : all;
}

static tdm_status generate(tdm_job *j, int64_t fresh, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_job_figures *f = &j->fig;
    const double start = tdm_now_s();
    const int64_t drawn = f->gen_batches ? j->groups + f->groups_dropped - fresh : 0;
    tdm_job_turns_begin(j, j->r->rollout.generations, false);
    for (int64_t k = 0; k < fresh; k++) TDM_TRY(st, ask(j, j->fresh[k], drawn + k, &j->request[k], err), done);
    tick t = {.j = j, .total = fresh * j->r->rollout.generations};
    TDM_TRY(st, tdm_job_judges_expect(j, err), done);
    TDM_TRY(st, tdm_engine_run(j->session.engine, &j->session.adapter, j->request, fresh, on_tick, &t, err), done);
    f->gen_batches++;
    f->environment_s += tdm_job_turns_s(j);
    for (int64_t k = 0; k < fresh; k++)
        for (int64_t i = 0; i < j->request[k].samples; i++) f->generated_tokens += tdm_job_own_tokens(j, j->group_start[j->fresh[k]] + i);
done:
    f->rollout_s += tdm_now_s() - start;
    return st;
}

static void replay_step(tdm_job *j)
{
    const tdm_replay *r = &j->replay;
    int64_t n = 0;
    j->group_count = j->groups;
    for (int64_t g = 0; g < j->groups; g++) {
        const int64_t from = j->data_position++ % r->groups; /* file order, again and again */
        j->group_start[g] = n;
        for (int64_t i = r->group_start[from]; i < r->group_start[from + 1]; i++, n++) {
            const tdm_replay_row *row = &r->row[i];
            tdm_sequence *s = &j->sequences.seq[n];
            tdm_sequence_start(s, row->tokens, row->count, 0);
            s->prompt = row->prompt;
            s->finish = TDM_FINISH_LENGTH;
            for (int e = 0; e < j->language.eos_count; e++)
                if (row->tokens[row->count - 1] == j->language.eos[e]) s->finish = TDM_FINISH_STOP;
            if (row->logprob) memcpy(s->logprob, row->logprob, (size_t)(row->count - row->prompt) * sizeof *s->logprob);
            for (int64_t k = 0; j->sequences.mask && k < row->count - row->prompt; k++) j->sequences.mask[n][k] = row->mask ? row->mask[k] : 1;
            j->total[n] = row->reward;
        }
    }
    j->group_start[j->groups] = j->sequence_count = n;
}

tdm_status tdm_job_reward_sample(tdm_job *j, int64_t i, const tdm_job_prompt *p, const tdm_request *q, tdm_reward_sample *out, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const tdm_sequence *s = &j->sequences.seq[i];
    tdm_text *text = &j->completion[i];
    text->len = 0;
    TDM_TRY(st, tdm_text_append(text, "", 0, err), done);
    TDM_TRY(st, tdm_language_text(&j->language, s->tokens + s->prompt, tdm_sequence_completion(s), text, err), done);
    *out = (tdm_reward_sample){.prompt = p->messages, .completion = text->data, .completion_len = text->len,
                               .ids = s->tokens + s->prompt, .ids_count = tdm_sequence_completion(s), .skip = p->skip, .row = p->row,
                               .drawn = {q->step, q->prompt_index, (uint32_t)(s - q->sequence)}};
    tdm_job_turns_reward(j, i, out);
done:
    return st;
}

/* Scores the fresh groups, and puts what they got among the scores of the step. */
static tdm_status reward(tdm_job *j, int64_t fresh, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const double start = tdm_now_s();
    const int64_t size = j->r->rollout.generations, n = fresh * size;
    for (int64_t k = 0; k < n; k++) {
        const int64_t g = j->fresh[k / size];
        TDM_TRY(st, tdm_job_reward_sample(j, j->group_start[g] + k % size, &j->prompt[g], &j->request[k / size], &j->reward_sample[k], err), done);
    }
    TDM_TRY(st, tdm_rewards_score(j->rewards, j->reward_sample, n, j->fresh_scores, err), done);
    tdm_job_judges_leave(j);
    for (int64_t w = 0; w < tdm_rewards_count(j->rewards); w++)
        for (int64_t k = 0; k < n; k++)
            j->scores[w * j->sequence_count + j->group_start[j->fresh[k / size]] + k % size] = j->fresh_scores[w * n + k];
    tdm_rewards_combine(j->rewards, j->scores, j->sequence_count, j->total);
done:
    j->fig.reward_s += tdm_now_s() - start;
    return st;
}

/* Whether the group's metric is equal throughout, or in the mean too low or too high. A reward that does not judge this group says neither:
 * then the weighted sum is looked at, for being equal alone. */
static bool is_filtered(const tdm_job *j, int64_t g)
{
    const tdm_recipe_filter_groups *f = &j->r->rollout.filter_groups;
    const double *metric = f->metric[0] ? j->scores + tdm_recipe_reward_find(j->r, f->metric) * j->sequence_count : j->total;
    const int64_t first = j->group_start[g], end = j->group_start[g + 1];
    int64_t given = 0;
    double sum = 0.0;
    for (int64_t i = first; i < end; i++)
        if (!isnan(metric[i])) sum += metric[i], given++;
    if (given == 0) return tdm_rewards_equal(j->total, first, end);
    const double mean = sum / (double)given;
    return mean < f->difficulty_low_threshold || mean > f->difficulty_high_threshold || tdm_rewards_equal(metric, first, end);
}

/* The groups to generate anew, while batches are left. */
static int64_t dropped(tdm_job *j)
{
    const tdm_recipe_filter_groups *f = &j->r->rollout.filter_groups;
    int64_t n = 0;
    if (!f->enable || j->fig.gen_batches >= f->max_num_gen_batches) return 0;
    for (int64_t g = 0; g < j->group_count; g++)
        if (is_filtered(j, g)) j->fresh[n++] = g;
    j->fig.groups_dropped += n;
    return n;
}

static tdm_status generate_step(tdm_job *j, tdm_error *err)
{
    tdm_status st = TDM_OK;
    int64_t fresh = j->groups;
    j->group_count = j->groups;
    j->sequence_count = j->groups * j->r->rollout.generations;
    for (int64_t g = 0; g <= j->groups; g++) j->group_start[g] = g * j->r->rollout.generations;
    for (int64_t g = 0; g < j->groups; g++) j->fresh[g] = g;
    for (; fresh > 0; fresh = dropped(j)) {
        TDM_TRY(st, generate(j, fresh, err), done);
        TDM_TRY(st, reward(j, fresh, err), done);
    }
done:
    return st;
}

static void count(tdm_job *j)
{
    tdm_job_figures *f = &j->fig;
    for (int64_t i = 0; i < j->sequence_count; i++) {
        const tdm_sequence *s = &j->sequences.seq[i];
        f->prompt_tokens += s->prompt;
        const int64_t own = tdm_job_own_tokens(j, i);
        f->completion_tokens += own;
        f->observation_tokens += tdm_sequence_completion(s) - own;
        f->longest = tdm_max_i64(f->longest, own);
        f->truncated += s->finish == TDM_FINISH_LENGTH;
    }
    tdm_job_turns_count(j, f);
}

/* Items for the trainer, in the order of the sequences. */
static void make_items(tdm_job *j)
{
    const bool replay = tdm_job_replays(j);
    for (int64_t i = 0; i < j->sequence_count; i++) {
        const tdm_sequence *s = &j->sequences.seq[i];
        j->item[i] = (tdm_train_item){.seq = s, .sampler = replay && !j->replay.row[0].logprob ? NULL : s->logprob, .advantage = j->advantage[i],
                                      .mask = j->sequences.mask ? j->sequences.mask[i] : NULL, .lp = j->sequences.lp[i], .entropy = j->sequences.entropy[i]};
    }
}

void tdm_job_advantages(tdm_job *j, const double *reward)
{
    for (int64_t i = 0; i < j->sequence_count; i++) j->tokens[i] = tdm_job_own_tokens(j, i);
    if (j->r->train.advantage == TDM_ADVANTAGE_GDPO)
        tdm_advantages_gdpo(j->scores, j->weights, tdm_rewards_count(j->rewards), j->group_start, j->group_count, j->fresh_scores, j->advantage);
    else tdm_advantages(j->r->train.advantage, reward, j->tokens, j->group_start, j->group_count, j->advantage);
    const tdm_recipe_train *t = &j->r->train;
    for (int64_t i = 0; i < j->sequence_count; i++) j->advantage[i] = fmin(fmax(j->advantage[i], t->advantage_clip_low), t->advantage_clip_high);
    /* what stayed for want of batches teaches nothing */
    for (int64_t g = 0; j->r->rollout.filter_groups.enable && g < j->group_count; g++)
        for (int64_t i = j->group_start[g]; i < j->group_start[g + 1] && is_filtered(j, g); i++) j->advantage[i] = 0.0;
}

tdm_status tdm_job_rollout(tdm_job *j, tdm_error *err)
{
    tdm_status st = TDM_OK;
    if (tdm_job_replays(j)) replay_step(j);
    else TDM_TRY(st, generate_step(j, err), done);
    tdm_job_advantages(j, j->total);
    count(j);
    make_items(j);
done:
    return st;
}

tdm_status tdm_job_log_rollouts(tdm_job *j, tdm_error *err)
{
    tdm_status st = TDM_OK;
    tdm_rollout_log log;
    const int64_t rewards = j->rewards ? tdm_rewards_count(j->rewards) : 0;
    enum { MOST = 64 };
    const char *names[MOST];
    double values[MOST];
    const int64_t shown = tdm_min_i64(rewards, MOST);
    TDM_TRY(st, tdm_rollout_log_open(&log, j->r->output, j->step + 1, err), done);
    for (int64_t g = 0; g < j->group_count; g++)
        for (int64_t i = j->group_start[g]; i < j->group_start[g + 1]; i++) {
            const tdm_sequence *s = &j->sequences.seq[i];
            for (int64_t k = 0; k < shown; k++) {
                names[k] = tdm_rewards_name(j->rewards, k);
                values[k] = j->scores[k * j->sequence_count + i];
            }
            const tdm_rollout_record rec = {
                .group = g, .prompt = j->prompt[g].text.data, .prompt_len = j->prompt[g].text.len, .completion = j->completion[i].data,
                .completion_len = j->completion[i].len, .prompt_ids = s->tokens, .completion_ids = s->tokens + s->prompt, .prompt_count = s->prompt,
                .completion_count = tdm_sequence_completion(s), .logprobs = s->logprob, .reward = j->total[i],
                .advantage = j->advantage[i], .reward_names = names, .reward_values = values, .reward_count = shown,
                .truncated = s->finish == TDM_FINISH_LENGTH, .mask = j->sequences.mask ? j->sequences.mask[i] : NULL,
                .turns = tdm_job_turns_record(j, i), .judges = tdm_job_judges_record(j, i)};
            st = tdm_rollout_log_put(&log, &rec, err);
            if (st != TDM_OK) {
                tdm_rollout_log_abort(&log);
                goto done;
            }
        }
    st = tdm_rollout_log_close(&log, err);
done:
    return st;
}
