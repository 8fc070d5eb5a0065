#include "runtime/run/sequences.h"

#include <stdlib.h>
#include <string.h>

typedef struct cursor {
    char *base; /* NULL: only counts */
    size_t at;
} cursor;

static void *take(cursor *c, size_t bytes)
{
    void *p = c->base ? c->base + c->at : NULL;
    c->at += tdm_align_up(bytes, 16);
    return p;
}

static size_t lay(tdm_sequences *s, const tdm_sequences_spec *spec, char *base)
{
    cursor c = {.base = base};
    const size_t n = (size_t)spec->count, completion = (size_t)spec->completion;
    const size_t words = (size_t)tdm_ceil_div(spec->vocab, 32);
    s->count = spec->count;
    s->seq = take(&c, n * sizeof *s->seq);
    const struct { bool wanted; float ***rows; } tables[] = {
        {spec->train, &s->old}, {spec->train, &s->ref}, {spec->train, &s->lp}, {spec->train, &s->entropy}, {spec->advantages, &s->advantages},
        {spec->critic, &s->value}, {spec->critic, &s->returns}};
    const struct { bool wanted; uint8_t ***rows; } masks[] = {{spec->keep, &s->keep}, {spec->policy, &s->policy}};
    for (size_t t = 0; t < TDM_COUNT(tables); t++)
        if (tables[t].wanted) *tables[t].rows = take(&c, n * sizeof(float *));
    for (size_t t = 0; t < TDM_COUNT(masks); t++)
        if (masks[t].wanted) *masks[t].rows = take(&c, n * sizeof(uint8_t *));
    if (spec->mask) s->mask = take(&c, n * sizeof *s->mask);
    for (size_t i = 0; i < n; i++) {
        tdm_sequence q = {.tokens = take(&c, (size_t)(spec->prompt + spec->completion) * sizeof(int32_t)),
                          .logprob = take(&c, completion * sizeof(float)),
                          .support = spec->support ? take(&c, completion * words * sizeof(uint32_t)) : NULL,
                          .routes = spec->routes ? take(&c, (size_t)((spec->prompt + spec->completion) * spec->routes) * sizeof(uint16_t)) : NULL};
        if (base) s->seq[i] = q;
        for (size_t t = 0; t < TDM_COUNT(tables); t++) {
            float *row = tables[t].wanted ? take(&c, completion * sizeof(float)) : NULL;
            if (base && row) (*tables[t].rows)[i] = row;
        }
        for (size_t t = 0; t < TDM_COUNT(masks); t++) {
            uint8_t *row = masks[t].wanted ? take(&c, completion) : NULL;
            if (base && row) (*masks[t].rows)[i] = row;
        }
        uint8_t *mask = spec->mask ? take(&c, completion) : NULL;
        if (base && mask) s->mask[i] = mask;
    }
    return c.at;
}

size_t tdm_sequences_bytes(const tdm_sequences_spec *spec)
{
    tdm_sequences s = {0};
    return lay(&s, spec, NULL);
}

tdm_status tdm_sequences_open(tdm_sequences *s, const tdm_sequences_spec *spec, tdm_error *err)
{
    *s = (tdm_sequences){0};
    const size_t bytes = tdm_sequences_bytes(spec);
    s->memory = calloc(1, bytes);
    if (!s->memory)
        return TDM_FAIL(err, TDM_ERR_BUDGET, NULL, "lower rollout.prompts_per_step or rollout.generations", "out of memory for %lld sequences",
                        (long long)spec->count);
    lay(s, spec, s->memory);
    return TDM_OK;
}

void tdm_sequences_close(tdm_sequences *s)
{
    free(s->memory);
    *s = (tdm_sequences){0};
}

void tdm_sequence_start(tdm_sequence *s, const int32_t *prompt, int64_t count, int64_t completion)
{
    memcpy(s->tokens, prompt, (size_t)count * sizeof *prompt);
    s->prompt = s->count = s->turn = count;
    s->room = count + completion;
    s->finish = TDM_FINISH_NONE;
}
