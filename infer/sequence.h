/* A sequence of tokens: a prompt and what was generated (or recorded) after it. The one currency between rollout, rewards and trainer. */
#ifndef TANDEM_INFER_SEQUENCE_H
#define TANDEM_INFER_SEQUENCE_H

#include "kernels/ops.h"

typedef enum tdm_finish { TDM_FINISH_NONE, TDM_FINISH_STOP, TDM_FINISH_LENGTH } tdm_finish;

typedef struct tdm_sequence {
    int32_t *tokens;       /* [room]: prompt, then completion */
    int64_t prompt, count, room; /* count: prompt and completion */
    int64_t turn;          /* where the turn at hand begins; of a single one the prompt's end */
    float *logprob;        /* [room - prompt]: of each completion token, under the distribution it was sampled from */
    uint32_t *support;     /* [room - prompt, ceil(V/32)]: the tokens that could be drawn; NULL where sampling does not truncate */
    uint16_t *routes;      /* [room, L, U]: experts each token went to in each layer; NULL: nobody asks */
    tdm_finish finish;     /* STOP: an end-of-sequence token or a stop string; LENGTH: truncated */
} tdm_sequence;

static inline int64_t tdm_sequence_completion(const tdm_sequence *s) { return s->count - s->prompt; }

#endif
