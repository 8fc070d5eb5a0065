// The tables of the CUDA backend, one a path, and the choice among them.
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/blaslt.cuh"

// Operations run one after the other, so they share the workspace: the largest wins. 256 more, for the alignment stream_open makes.
static size_t workspace_bytes(const tdm_limits *limits, int threads)
{
    const size_t need[] = {tdm_cuda_linear_workspace_bytes(limits), tdm_cuda_attention_workspace_bytes(limits),
                           tdm_cuda_logits_workspace_bytes(limits), tdm_cuda_optimizer_workspace_bytes(limits)};
    size_t most = 0;
    (void)threads;
    for (size_t i = 0; i < TDM_COUNT(need); i++)
        if (need[i] > most) most = need[i];
    return most + 256;
}

// A stream runs the path of the backend that opened it.
template <tdm_cuda_path PATH>
static tdm_status stream_open(tdm_stream **s, void *workspace, size_t bytes, const tdm_stream_options *o, tdm_error *err)
{
    tdm_status st = tdm_cuda_stream_open(s, workspace, bytes, o, err);
    if (st != TDM_OK) return st;
    (*s)->path = PATH;
    st = tdm_blas_open(*s, err);
    if (st == TDM_OK) return TDM_OK;
    tdm_cuda_stream_close(*s);
    *s = NULL;
    return st;
}

template <tdm_cuda_path PATH> static constexpr tdm_backend table(const char *name)
{
    tdm_backend b = {};
    b.name = name;
    b.device = true;
    b.memory_open = tdm_cuda_memory_open;
    b.memory_close = tdm_cuda_memory_close;
    b.host_open = tdm_cuda_host_open;
    b.host_close = tdm_cuda_host_close;
    b.upload = tdm_cuda_upload;
    b.download = tdm_cuda_download;
    b.side_out = tdm_cuda_side_out;
    b.side_in = tdm_cuda_side_in;
    b.side_join = tdm_cuda_side_join;
    b.overhead = tdm_cuda_overhead;
    b.available = tdm_cuda_available;
    b.kv_page_tokens = TDM_CUDA_KV_PAGE;
    b.kv_page_bytes = tdm_cuda_kv_page_bytes;
    b.workspace_bytes = workspace_bytes;
    b.stream_open = stream_open<PATH>;
    b.stream_close = tdm_cuda_stream_close;
    b.stream_sync = tdm_cuda_stream_sync;
    b.capture_begin = tdm_cuda_capture_begin;
    b.capture_end = tdm_cuda_capture_end;
    b.graph_launch = tdm_cuda_graph_launch;
    b.graph_close = tdm_cuda_graph_close;
    b.probe = tdm_cuda_probe;
    b.quantize_act = tdm_cuda_quantize_act;
    b.linear = tdm_cuda_linear;
    b.linear_group = tdm_cuda_linear_group;
    b.linear_backward = tdm_cuda_linear_backward;
    b.route = tdm_cuda_route;
    b.route_backward = tdm_cuda_route_backward;
    b.combine = tdm_cuda_combine;
    b.combine_backward = tdm_cuda_combine_backward;
    b.linear_experts = tdm_cuda_linear_experts;
    b.linear_experts_backward = tdm_cuda_linear_experts_backward;
    b.rms_norm = tdm_cuda_rms_norm;
    b.rms_norm_backward = tdm_cuda_rms_norm_backward;
    b.rms_norm_add = tdm_cuda_rms_norm_add;
    b.rms_norm_add_backward = tdm_cuda_rms_norm_add_backward;
    b.rope = tdm_cuda_rope;
    b.rope_backward = tdm_cuda_rope_backward;
    b.kv_write = tdm_cuda_kv_write;
    b.rope_kv = tdm_cuda_rope_kv;
    b.kv_copy = tdm_cuda_kv_copy;
    b.attention = tdm_cuda_attention;
    b.attention_backward = tdm_cuda_attention_backward;
    b.swiglu = tdm_cuda_swiglu;
    b.swiglu_backward = tdm_cuda_swiglu_backward;
    b.embed = tdm_cuda_embed;
    b.gather_rows = tdm_cuda_gather_rows;
    b.scatter_rows = tdm_cuda_scatter_rows;
    b.zero = tdm_cuda_zero;
    b.convert = tdm_cuda_convert;
    b.dropout = tdm_cuda_dropout;
    b.dropout_backward = tdm_cuda_dropout_backward;
    b.sample = tdm_cuda_sample;
    b.logprob = tdm_cuda_logprob;
    b.logprob_backward = tdm_cuda_logprob_backward;
    b.divergence = tdm_cuda_divergence;
    b.value = tdm_cuda_value;
    b.value_backward = tdm_cuda_value_backward;
    b.adamw = tdm_cuda_adamw;
    b.adamw_8bit = tdm_cuda_adamw_8bit;
    b.sgd = tdm_cuda_sgd;
    b.sum_squares = tdm_cuda_sum_squares;
    return b;
}

static const tdm_backend backend_sm80 = table<TDM_CUDA_SM80>("cuda-sm80"), backend_sm89 = table<TDM_CUDA_SM89>("cuda-sm89"),
                         backend_sm90 = table<TDM_CUDA_SM90>("cuda-sm90"), backend_sm120 = table<TDM_CUDA_SM120>("cuda-sm120");

// Best first. A card runs a path from `least` up to below `below`: Hopper's and Blackwell's code runs on their own kind alone.
struct path_entry {
    const char *name;
    const tdm_backend *backend;
    int least, below; // compute capability, 10 * major + minor
};
static const path_entry paths[] = {{"sm120", &backend_sm120, 120, 130}, {"sm90", &backend_sm90, 90, 91},
                                   {"sm89", &backend_sm89, 89, 1 << 20}, {"sm80", &backend_sm80, 80, 1 << 20}};

static tdm_status count_devices(int *count, tdm_error *err)
{
    *count = 0;
    const cudaError_t code = cudaGetDeviceCount(count);
    if (code == cudaSuccess && *count > 0) return TDM_OK;
    (void)cudaGetLastError();
    return TDM_FAIL(err, TDM_ERR_RECIPE, "device", "use device: cpu, or check nvidia-smi", "no CUDA device: %s",
                    code == cudaSuccess ? "the driver lists none" : cudaGetErrorString(code));
}

static tdm_status unknown_path(const char *path, const char *where, tdm_error *err)
{
    return TDM_FAIL(err, TDM_ERR_OTHER, where, "use sm80, sm89, sm90 or sm120", "unknown CUDA path \"%s\"", path);
}

tdm_status tdm_backend_cuda(const char *path, const tdm_backend **out, tdm_error *err)
{
    const char *where = path ? "" : "TANDEM_CUDA_PATH";
    int count = 0, device = 0;
    cudaDeviceProp card;
    *out = NULL;
    tdm_status st = count_devices(&count, err);
    if (st == TDM_OK) st = TDM_CUDA(cudaGetDevice(&device));
    if (st == TDM_OK) st = TDM_CUDA(cudaGetDeviceProperties(&card, device));
    if (st != TDM_OK) return st;
    const int capability = 10 * card.major + card.minor;
    if (capability < 80)
        return TDM_FAIL(err, TDM_ERR_RECIPE, "device", "use device: cpu", "%s has compute capability %d.%d; 8.0 is the least", card.name,
                        card.major, card.minor);
    if (!path) path = getenv("TANDEM_CUDA_PATH");
    for (size_t i = 0; i < TDM_COUNT(paths); i++) {
        const path_entry *p = &paths[i];
        const bool runs = capability >= p->least && capability < p->below;
        if (path && *path ? strcmp(path, p->name) != 0 : !runs) continue;
        if (!runs)
            return TDM_FAIL(err, TDM_ERR_OTHER, where, "leave it unset for the best one this card has",
                            "%s (compute capability %d.%d) cannot run the path %s", card.name, card.major, card.minor, p->name);
        *out = p->backend;
        return TDM_OK;
    }
    return unknown_path(path, where, err);
}

tdm_status tdm_backend_cuda_plan(const char *path, const tdm_backend **out, bool *there, tdm_error *err)
{
    int count = 0;
    *there = count_devices(&count, NULL) == TDM_OK;
    if (*there) return tdm_backend_cuda(path, out, err);
    const char *where = path ? "" : "TANDEM_CUDA_PATH", *wish = path ? path : getenv("TANDEM_CUDA_PATH");
    const char *name = wish && *wish ? wish : "sm89";
    *out = NULL;
    for (size_t i = 0; i < TDM_COUNT(paths); i++)
        if (strcmp(name, paths[i].name) == 0) *out = paths[i].backend;
    return *out ? TDM_OK : unknown_path(name, where, err);
}
