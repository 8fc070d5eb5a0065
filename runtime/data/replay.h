/* Recorded rollouts: JSONL of {"prompt_ids", "completion_ids", "logprobs", "mask", "reward", "group"}; lines of one group stand together. */
#ifndef TANDEM_RUNTIME_DATA_REPLAY_H
#define TANDEM_RUNTIME_DATA_REPLAY_H

#include "kernels/base.h"

typedef struct tdm_replay_row {
    int32_t *tokens;          /* prompt, then completion */
    int64_t prompt, count;
    float *logprob;           /* [count - prompt], the sampler's; NULL when the file has none */
    uint8_t *mask;            /* [count - prompt] 1: the policy's own, in the loss; 0: observed. NULL: all are its own */
    double reward;            /* NaN: null */
} tdm_replay_row;

typedef struct tdm_replay {
    tdm_replay_row *row;
    int64_t rows;
    int64_t *group_start;     /* [groups + 1] */
    int64_t groups;
    bool masked;              /* some row has a mask */
    int64_t longest_prompt, longest_completion, largest_group;
} tdm_replay;

/* Reads it whole. ids below `vocab`, at least one token in prompt and completion, as many logprobs as completion ids, finite; masks with a 1 in them; a reward. */
tdm_status tdm_replay_open(tdm_replay *r, const char *path, int64_t vocab, tdm_error *err);
void tdm_replay_close(tdm_replay *r); /* {0} is fine */

#endif
