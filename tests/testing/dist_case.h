/* Distributions of the goldens for the tests of sample and logprob. Header-only, beside ops_case.h. */
#ifndef TANDEM_TESTS_DIST_CASE_H
#define TANDEM_TESTS_DIST_CASE_H

#include "testing/ops_case.h"

enum { DIST_ROWS = 8, DIST_HISTORY = 6 };
static const char *const dist_names[] = {"plain", "cool", "penalty", "top_k", "top_p", "min_p", "all", "greedy", "greedy_penalty"};
static const int dist_vocabs[] = {13, 97, 1000, 2051};

/* The largest vocabulary has three of them. */
static inline bool dist_has(int vocab, size_t i)
{
    return vocab < 2000 || strcmp(dist_names[i], "plain") == 0 || strcmp(dist_names[i], "all") == 0 || strcmp(dist_names[i], "top_p") == 0;
}
static inline tdm_sampling dist_sampling(size_t i)
{
    const float *s = (const float *)test_golden(goldens, "dist/sampling").data + 5 * i;
    return (tdm_sampling){.temperature = s[0], .top_p = s[1], .min_p = s[2], .repetition_penalty = s[3], .top_k = (int32_t)s[4]};
}
static inline bool dist_truncates(const tdm_sampling *s) { return s->top_k > 0 || s->top_p < 1.0f || s->min_p > 0.0f; }

static const int32_t dist_at[DIST_ROWS] = {0, 6, 12, 18, 24, 30, 36, 42}, dist_len[DIST_ROWS] = {6, 6, 6, 6, 6, 6, 6, 6};

#endif
