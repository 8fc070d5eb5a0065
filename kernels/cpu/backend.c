/* The table of this instruction set. */
#include "kernels/cpu/ops_cpu.h"

/* Operations run one after the other, so they share the workspace: the largest wins. */
static size_t workspace_bytes(const tdm_limits *limits, int threads)
{
    threads = tdm_cpu_threads(threads);
    size_t most = TDM_CPU(linear_workspace_bytes)(limits, threads);
    return most;
}

extern const tdm_backend TDM_CPU(backend);
const tdm_backend TDM_CPU(backend) = {
    .name = "cpu-" TDM_ISA_NAME,
    .workspace_bytes = workspace_bytes,
    .stream_open = tdm_cpu_stream_open,
    .stream_close = tdm_cpu_stream_close,
    .stream_sync = tdm_cpu_stream_sync,
    .probe = TDM_CPU(probe),

    .quantize_act = TDM_CPU(quantize_act),
    .linear = TDM_CPU(linear),
    .linear_backward = TDM_CPU(linear_backward),
    .scatter_rows = TDM_CPU(scatter_rows),
    .zero = TDM_CPU(zero),
};
