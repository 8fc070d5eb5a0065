/* A judge's side of a reward: the question it is asked about a completion, and the score in its reply. Who generates the reply is runtime/run/job_judge.c.
 *   created   tdm_judge_open    released  tdm_judge_close    borrows  the recipe    threads  one at a time */
#ifndef TANDEM_RUNTIME_REWARD_JUDGE_H
#define TANDEM_RUNTIME_REWARD_JUDGE_H

#include "runtime/reward/reward.h"

typedef struct tdm_judge tdm_judge;

tdm_status tdm_judge_open(tdm_judge **g, const tdm_recipe_reward *w, const char *where, tdm_error *err);
void tdm_judge_close(tdm_judge *g); /* NULL: nothing */
/* [system?, user] with {prompt}, {completion} and the row's columns filled in; a new reference. Of a conversation {prompt} is the user's message, or
 * all of it with the roles' names where there are several; {completion} of several turns likewise. */
tdm_status tdm_judge_ask(const tdm_judge *g, const tdm_reward_sample *s, const char *where, json_t **messages, tdm_error *err);
/* The score in a reply: the first group of `parse` read as a number of `range`, which becomes 0 to 1, or as yes (true, correct: 1) or no (false,
 * incorrect, wrong: 0). cut: the reply was ended by its limit, so what stands at its very end may be half of something. false: there is none. */
bool tdm_judge_read(tdm_judge *g, const char *reply, size_t len, bool cut, double *score);

#endif
