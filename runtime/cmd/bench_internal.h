/* What bench.c (whole phases) and bench_kernels.c (single operations) share. */
#ifndef TANDEM_RUNTIME_CMD_BENCH_INTERNAL_H
#define TANDEM_RUNTIME_CMD_BENCH_INTERNAL_H

#include "runtime/cmd/model_options.h"
#include "runtime/run/sequences.h"

typedef struct tdm_bench {
    tdm_session session;
    tdm_sequences sequences;
    double gflops, gbps;   /* this machine, probed */
    /* options */
    int64_t prompts, samples, prompt_tokens, new_tokens, rank, micro_tokens, repeat;
    bool checkpointing, random_weights, roofline;
    const char *model_config;
} tdm_bench;

/* The least time for so many FLOPs and bytes: the slower of the two. */
static inline double tdm_bench_ceiling_s(const tdm_bench *b, double flops, double bytes)
{
    const double compute = flops / (1e9 * b->gflops), memory = bytes / (1e9 * b->gbps);
    return compute > memory ? compute : memory;
}

tdm_status tdm_bench_kernels(tdm_bench *b, tdm_session_spec *spec, tdm_error *err);

#endif
