/* The table of this instruction set. */
#include "kernels/cpu/kv.h"
#include "kernels/cpu/ops_cpu.h"

/* Operations run one after the other, so they share the workspace: the largest wins. */
static size_t workspace_bytes(const tdm_limits *limits, int threads)
{
    threads = tdm_threads(threads);
    const size_t need[] = {TDM_CPU(linear_workspace_bytes)(limits, threads), TDM_CPU(attention_workspace_bytes)(limits, threads),
                           TDM_CPU(attention_backward_workspace_bytes)(limits, threads), TDM_CPU(logits_workspace_bytes)(limits, threads),
                           TDM_CPU(optimizer_workspace_bytes)(limits, threads)};
    size_t most = 0;
    for (size_t i = 0; i < TDM_COUNT(need); i++)
        if (need[i] > most) most = need[i];
    return most;
}

extern const tdm_backend TDM_CPU(backend);
const tdm_backend TDM_CPU(backend) = {
    .name = "cpu-" TDM_ISA_NAME,
    .device = false,
    .memory_open = tdm_cpu_memory_open,
    .memory_close = tdm_cpu_memory_close,
    .host_open = tdm_cpu_memory_open,
    .host_close = tdm_cpu_memory_close,
    .upload = tdm_cpu_copy,
    .download = tdm_cpu_copy,
    .side_out = tdm_cpu_side_copy,
    .side_in = tdm_cpu_side_copy,
    .side_join = tdm_cpu_side_join,
    .overhead = tdm_cpu_no_bytes,
    .available = tdm_cpu_no_bytes,
    .workspace_bytes = workspace_bytes,
    .stream_open = tdm_cpu_stream_open,
    .stream_close = tdm_cpu_stream_close,
    .stream_sync = tdm_cpu_stream_sync,
    .probe = TDM_CPU(probe),

    .quantize_act = TDM_CPU(quantize_act),
    .linear = TDM_CPU(linear),
    .linear_group = TDM_CPU(linear_group),
    .linear_backward = TDM_CPU(linear_backward),
    .route = TDM_CPU(route),
    .route_backward = TDM_CPU(route_backward),
    .combine = TDM_CPU(combine),
    .combine_backward = TDM_CPU(combine_backward),
    .linear_experts = TDM_CPU(linear_experts),
    .linear_experts_backward = TDM_CPU(linear_experts_backward),
    .kv_page_tokens = KV_PAGE,
    .rms_norm = TDM_CPU(rms_norm),
    .rms_norm_backward = TDM_CPU(rms_norm_backward),
    .rms_norm_add = TDM_CPU(rms_norm_add),
    .rms_norm_add_backward = TDM_CPU(rms_norm_add_backward),
    .rope = TDM_CPU(rope),
    .rope_backward = TDM_CPU(rope_backward),
    .kv_page_bytes = TDM_CPU(kv_page_bytes),
    .kv_write = TDM_CPU(kv_write),
    .rope_kv = TDM_CPU(rope_kv),
    .kv_copy = TDM_CPU(kv_copy),
    .attention = TDM_CPU(attention),
    .attention_backward = TDM_CPU(attention_backward),
    .swiglu = TDM_CPU(swiglu),
    .swiglu_backward = TDM_CPU(swiglu_backward),
    .embed = TDM_CPU(embed),
    .gather_rows = TDM_CPU(gather_rows),
    .convert = TDM_CPU(convert),
    .dropout = TDM_CPU(dropout),
    .dropout_backward = TDM_CPU(dropout_backward),
    .sample = TDM_CPU(sample),
    .logprob = TDM_CPU(logprob),
    .logprob_backward = TDM_CPU(logprob_backward),
    .divergence = TDM_CPU(divergence),
    .value = TDM_CPU(value),
    .value_backward = TDM_CPU(value_backward),
    .adamw = TDM_CPU(adamw),
    .adamw_8bit = TDM_CPU(adamw_8bit),
    .sgd = TDM_CPU(sgd),
    .sum_squares = TDM_CPU(sum_squares),
    .scatter_rows = TDM_CPU(scatter_rows),
    .zero = TDM_CPU(zero),
};
