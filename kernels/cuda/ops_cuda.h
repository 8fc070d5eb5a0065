/* The entry points of the CUDA backend's operations, one file each; kernels/ops.h says what each computes. */
#ifndef TANDEM_KERNELS_CUDA_OPS_CUDA_H
#define TANDEM_KERNELS_CUDA_OPS_CUDA_H

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* memory.cu, stream.cu, probe.cu */
tdm_status tdm_cuda_memory_open(void **base, size_t bytes, tdm_error *err);
void tdm_cuda_memory_close(void *base, size_t bytes);
tdm_status tdm_cuda_host_open(void **base, size_t bytes, tdm_error *err);
void tdm_cuda_host_close(void *base, size_t bytes);
tdm_status tdm_cuda_upload(tdm_stream *s, void *dst, const void *src, size_t bytes, tdm_error *err);
tdm_status tdm_cuda_download(tdm_stream *s, void *dst, const void *src, size_t bytes, tdm_error *err);
tdm_status tdm_cuda_overhead(size_t *bytes, tdm_error *err);
tdm_status tdm_cuda_available(size_t *bytes, tdm_error *err);
tdm_status tdm_cuda_stream_open(tdm_stream **s, void *workspace, size_t workspace_bytes, const tdm_stream_options *o, tdm_error *err);
void tdm_cuda_stream_close(tdm_stream *s);
tdm_status tdm_cuda_stream_sync(tdm_stream *s, tdm_error *err);
tdm_status tdm_cuda_side_out(tdm_stream *s, int slot, void *host, const void *src, size_t bytes, tdm_error *err);
tdm_status tdm_cuda_side_in(tdm_stream *s, int slot, void *dst, const void *host, size_t bytes, tdm_error *err);
tdm_status tdm_cuda_side_join(tdm_stream *s, int slot, tdm_error *err);
tdm_status tdm_cuda_capture_begin(tdm_stream *s, tdm_error *err);
tdm_status tdm_cuda_capture_end(tdm_stream *s, tdm_graph **g, tdm_error *err);
tdm_status tdm_cuda_graph_launch(tdm_stream *s, tdm_graph *g, tdm_error *err);
void tdm_cuda_graph_close(tdm_graph *g);
tdm_status tdm_cuda_probe(tdm_stream *s, const void *region, size_t bytes, double *gflops, double *gbps, tdm_error *err);

/* quantize_act.cu, linear.cu, linear_backward.cu */
size_t tdm_cuda_linear_workspace_bytes(const tdm_limits *limits);
tdm_status tdm_cuda_quantize_act(tdm_stream *s, const tdm_quantize_act *a, tdm_error *err);
tdm_status tdm_cuda_linear(tdm_stream *s, const tdm_linear *a, tdm_error *err);
tdm_status tdm_cuda_linear_group(tdm_stream *s, const tdm_linear *list, int count, tdm_error *err);
tdm_status tdm_cuda_linear_backward(tdm_stream *s, const tdm_linear_backward *a, tdm_error *err);

/* route.cu, gemm_experts.cu */
tdm_status tdm_cuda_route(tdm_stream *s, const tdm_route *a, tdm_error *err);
tdm_status tdm_cuda_route_backward(tdm_stream *s, const tdm_route_backward *a, tdm_error *err);
tdm_status tdm_cuda_combine(tdm_stream *s, const tdm_combine *a, tdm_error *err);
tdm_status tdm_cuda_combine_backward(tdm_stream *s, const tdm_combine_backward *a, tdm_error *err);
tdm_status tdm_cuda_linear_experts(tdm_stream *s, const tdm_linear_experts *a, tdm_error *err);
tdm_status tdm_cuda_linear_experts_backward(tdm_stream *s, const tdm_linear_experts_backward *a, tdm_error *err);

/* rope.cu, kv.cu, attention.cu, attention_backward.cu */
enum { TDM_CUDA_KV_PAGE = 64 }; /* positions a page holds: also the tile of keys that attention reads at once */
size_t tdm_cuda_kv_page_bytes(tdm_dtype dtype, int64_t kv_heads, int64_t head_dim);
size_t tdm_cuda_attention_workspace_bytes(const tdm_limits *limits);
tdm_status tdm_cuda_rope(tdm_stream *s, const tdm_rope *a, tdm_error *err);
tdm_status tdm_cuda_rope_backward(tdm_stream *s, const tdm_rope_backward *a, tdm_error *err);
tdm_status tdm_cuda_rope_kv(tdm_stream *s, const tdm_rope_kv *a, tdm_error *err);
tdm_status tdm_cuda_kv_write(tdm_stream *s, const tdm_kv_write *a, tdm_error *err);
tdm_status tdm_cuda_kv_copy(tdm_stream *s, const tdm_kv_pages *kv, int64_t dst, int64_t src, tdm_error *err);
tdm_status tdm_cuda_attention(tdm_stream *s, const tdm_attention *a, tdm_error *err);
tdm_status tdm_cuda_attention_backward(tdm_stream *s, const tdm_attention_backward *a, tdm_error *err);

/* norm.cu, swiglu.cu, rows.cu (embed, gather, scatter, zero, convert), dropout.cu */
tdm_status tdm_cuda_rms_norm(tdm_stream *s, tdm_view y, tdm_view rstd, tdm_cview x, tdm_cview w, float eps, const tdm_quantize_act *q,
                              tdm_error *err);
tdm_status tdm_cuda_rms_norm_backward(tdm_stream *s, tdm_view dx, tdm_cview dy, tdm_cview x, tdm_cview w, tdm_cview rstd, tdm_error *err);
tdm_status tdm_cuda_rms_norm_add(tdm_stream *s, tdm_view y, tdm_view rstd, tdm_cview r, tdm_cview x, tdm_cview w, float eps, tdm_error *err);
tdm_status tdm_cuda_rms_norm_add_backward(tdm_stream *s, tdm_view dx, tdm_cview dy, tdm_cview x, tdm_cview w, tdm_cview rstd, tdm_error *err);
tdm_status tdm_cuda_swiglu(tdm_stream *s, tdm_glu act, tdm_view y, tdm_cview gate, tdm_cview up, const tdm_quantize_act *q, tdm_error *err);
tdm_status tdm_cuda_swiglu_backward(tdm_stream *s, tdm_glu act, tdm_view dgate, tdm_view dup, tdm_cview dy, tdm_cview gate, tdm_cview up,
                                     tdm_error *err);
tdm_status tdm_cuda_embed(tdm_stream *s, tdm_view y, const tdm_weight *table, const int32_t *id, float scale, tdm_error *err);
tdm_status tdm_cuda_gather_rows(tdm_stream *s, tdm_view y, tdm_cview x, const int32_t *row, tdm_error *err);
tdm_status tdm_cuda_scatter_rows(tdm_stream *s, tdm_view y, tdm_cview x, const int32_t *row, tdm_error *err);
tdm_status tdm_cuda_zero(tdm_stream *s, tdm_view y, tdm_error *err);
tdm_status tdm_cuda_convert(tdm_stream *s, tdm_view y, tdm_cview x, tdm_error *err);
tdm_status tdm_cuda_dropout(tdm_stream *s, tdm_view y, tdm_cview x, float p, uint64_t seed, uint32_t site, const uint32_t *token, tdm_error *err);
tdm_status tdm_cuda_dropout_backward(tdm_stream *s, tdm_view dx, tdm_cview dy, float p, uint64_t seed, uint32_t site, const uint32_t *token, tdm_error *err);

/* value.cu */
tdm_status tdm_cuda_value(tdm_stream *s, const tdm_value *a, tdm_error *err);
tdm_status tdm_cuda_value_backward(tdm_stream *s, const tdm_value_backward *a, tdm_error *err);

/* sample.cu, logprob.cu, divergence.cu, optimizer.cu */
size_t tdm_cuda_logits_workspace_bytes(const tdm_limits *limits);
size_t tdm_cuda_optimizer_workspace_bytes(const tdm_limits *limits);
tdm_status tdm_cuda_sample(tdm_stream *s, const tdm_sample *a, tdm_error *err);
tdm_status tdm_cuda_logprob(tdm_stream *s, const tdm_logprob *a, tdm_error *err);
tdm_status tdm_cuda_logprob_backward(tdm_stream *s, const tdm_logprob_backward *a, tdm_error *err);
tdm_status tdm_cuda_divergence(tdm_stream *s, const tdm_divergence *a, tdm_error *err);
tdm_status tdm_cuda_adamw(tdm_stream *s, const tdm_adamw *a, tdm_error *err);
tdm_status tdm_cuda_adamw_8bit(tdm_stream *s, const tdm_adamw_8bit *a, tdm_error *err);
tdm_status tdm_cuda_sgd(tdm_stream *s, const tdm_sgd *a, tdm_error *err);
tdm_status tdm_cuda_sum_squares(tdm_stream *s, const float *x, int64_t n, double *out, tdm_error *err);

#ifdef __cplusplus
}
#endif

#endif
