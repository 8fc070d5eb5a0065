/* The sequences of a step: memory for all prompts and completions and what is known of each token, allocated once. */
#ifndef TANDEM_RUNTIME_RUN_SEQUENCES_H
#define TANDEM_RUNTIME_RUN_SEQUENCES_H

#include "infer/sequence.h"

typedef struct tdm_sequences {
    tdm_sequence *seq;     /* [count] */
    float **old, **ref, **lp, **entropy, **advantages, **value, **returns; /* [count] -> [completion]; NULL tables when not asked for */
    uint8_t **keep, **policy; /* the same */
    uint8_t **mask;        /* [count] -> [completion], 1: sampled, 0: observed; NULL when not asked for */
    int64_t count;
    void *memory;
} tdm_sequences;

typedef struct tdm_sequences_spec {
    int64_t count, prompt, completion; /* sequences; longest prompt; longest completion */
    int64_t vocab;
    bool support;          /* sampling truncates: remember what could be drawn */
    bool train;            /* old, ref, lp, entropy */
    bool advantages, keep, policy; /* the tables of these names */
    bool critic;           /* value, returns */
    bool mask;
    int64_t routes;        /* experts a token goes to, of all layers; 0: not kept */
} tdm_sequences_spec;

size_t tdm_sequences_bytes(const tdm_sequences_spec *spec);
tdm_status tdm_sequences_open(tdm_sequences *s, const tdm_sequences_spec *spec, tdm_error *err);
void tdm_sequences_close(tdm_sequences *s);
/* Puts a prompt into sequence i; completion: tokens that may follow. */
void tdm_sequence_start(tdm_sequence *s, const int32_t *prompt, int64_t count, int64_t completion);

#endif
