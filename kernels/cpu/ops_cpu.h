/* The entry points of this instruction set's operations, one file each; kernels/ops.h says what each computes. */
#ifndef TANDEM_KERNELS_CPU_OPS_CPU_H
#define TANDEM_KERNELS_CPU_OPS_CPU_H

#include "kernels/cpu/isa.h"
#include "kernels/cpu/stream.h"

/* probe.c */
tdm_status TDM_CPU(probe)(tdm_stream *s, const void *region, size_t bytes, double *gflops, double *gbps, tdm_error *err);

/* quantize.c, linear.c, linear_backward.c */
void TDM_CPU(quantize_weight)(const tdm_quantize_weight *a);
tdm_status TDM_CPU(quantize_act)(tdm_stream *s, const tdm_quantize_act *a, tdm_error *err);
tdm_status TDM_CPU(linear)(tdm_stream *s, const tdm_linear *a, tdm_error *err);
tdm_status TDM_CPU(linear_group)(tdm_stream *s, const tdm_linear *list, int count, tdm_error *err);
tdm_status TDM_CPU(linear_backward)(tdm_stream *s, const tdm_linear_backward *a, tdm_error *err);
size_t TDM_CPU(linear_workspace_bytes)(const tdm_limits *limits, int threads);

/* route.c, experts.c */
tdm_status TDM_CPU(route)(tdm_stream *s, const tdm_route *a, tdm_error *err);
tdm_status TDM_CPU(route_backward)(tdm_stream *s, const tdm_route_backward *a, tdm_error *err);
tdm_status TDM_CPU(combine)(tdm_stream *s, const tdm_combine *a, tdm_error *err);
tdm_status TDM_CPU(combine_backward)(tdm_stream *s, const tdm_combine_backward *a, tdm_error *err);
tdm_status TDM_CPU(linear_experts)(tdm_stream *s, const tdm_linear_experts *a, tdm_error *err);
tdm_status TDM_CPU(linear_experts_backward)(tdm_stream *s, const tdm_linear_experts_backward *a, tdm_error *err);

/* attention.c, attention_backward.c */
size_t TDM_CPU(kv_page_bytes)(tdm_dtype dtype, int64_t kv_heads, int64_t head_dim);
tdm_status TDM_CPU(kv_write)(tdm_stream *s, const tdm_kv_write *a, tdm_error *err);
tdm_status TDM_CPU(kv_copy)(tdm_stream *s, const tdm_kv_pages *kv, int64_t dst, int64_t src, tdm_error *err);
tdm_status TDM_CPU(attention)(tdm_stream *s, const tdm_attention *a, tdm_error *err);
tdm_status TDM_CPU(attention_backward)(tdm_stream *s, const tdm_attention_backward *a, tdm_error *err);

size_t TDM_CPU(attention_workspace_bytes)(const tdm_limits *limits, int threads);
size_t TDM_CPU(attention_backward_workspace_bytes)(const tdm_limits *limits, int threads);

/* norm.c, rope.c, swiglu.c */
tdm_status TDM_CPU(rms_norm)(tdm_stream *s, tdm_view y, tdm_view rstd, tdm_cview x, tdm_cview w, float eps, const tdm_quantize_act *q,
                             tdm_error *err);
tdm_status TDM_CPU(rms_norm_backward)(tdm_stream *s, tdm_view dx, tdm_cview dy, tdm_cview x, tdm_cview w, tdm_cview rstd,
                                      tdm_error *err);
tdm_status TDM_CPU(rms_norm_add)(tdm_stream *s, tdm_view y, tdm_view rstd, tdm_cview r, tdm_cview x, tdm_cview w, float eps, tdm_error *err);
tdm_status TDM_CPU(rms_norm_add_backward)(tdm_stream *s, tdm_view dx, tdm_cview dy, tdm_cview x, tdm_cview w, tdm_cview rstd,
                                          tdm_error *err);
tdm_status TDM_CPU(rope)(tdm_stream *s, const tdm_rope *a, tdm_error *err);
tdm_status TDM_CPU(rope_kv)(tdm_stream *s, const tdm_rope_kv *a, tdm_error *err);
tdm_status TDM_CPU(rope_backward)(tdm_stream *s, const tdm_rope_backward *a, tdm_error *err);
tdm_status TDM_CPU(swiglu)(tdm_stream *s, tdm_glu act, tdm_view y, tdm_cview gate, tdm_cview up, const tdm_quantize_act *q, tdm_error *err);
tdm_status TDM_CPU(swiglu_backward)(tdm_stream *s, tdm_glu act, tdm_view dgate, tdm_view dup, tdm_cview dy, tdm_cview gate, tdm_cview up,
                                    tdm_error *err);

/* embed.c, convert.c, dropout.c */
tdm_status TDM_CPU(embed)(tdm_stream *s, tdm_view y, const tdm_weight *table, const int32_t *id, float scale, tdm_error *err);
tdm_status TDM_CPU(gather_rows)(tdm_stream *s, tdm_view y, tdm_cview x, const int32_t *row, tdm_error *err);
tdm_status TDM_CPU(convert)(tdm_stream *s, tdm_view y, tdm_cview x, tdm_error *err);
tdm_status TDM_CPU(dropout)(tdm_stream *s, tdm_view y, tdm_cview x, float p, uint64_t seed, uint32_t site, const uint32_t *token,
                            tdm_error *err);
tdm_status TDM_CPU(dropout_backward)(tdm_stream *s, tdm_view dx, tdm_cview dy, float p, uint64_t seed, uint32_t site,
                                     const uint32_t *token, tdm_error *err);

/* scatter.c */
tdm_status TDM_CPU(scatter_rows)(tdm_stream *s, tdm_view y, tdm_cview x, const int32_t *row, tdm_error *err);
tdm_status TDM_CPU(zero)(tdm_stream *s, tdm_view y, tdm_error *err);

/* sample.c, logprob.c, divergence.c */
tdm_status TDM_CPU(sample)(tdm_stream *s, const tdm_sample *a, tdm_error *err);
tdm_status TDM_CPU(logprob)(tdm_stream *s, const tdm_logprob *a, tdm_error *err);
tdm_status TDM_CPU(logprob_backward)(tdm_stream *s, const tdm_logprob_backward *a, tdm_error *err);
tdm_status TDM_CPU(divergence)(tdm_stream *s, const tdm_divergence *a, tdm_error *err);

size_t TDM_CPU(logits_workspace_bytes)(const tdm_limits *limits, int threads);

/* value.c */
tdm_status TDM_CPU(value)(tdm_stream *s, const tdm_value *a, tdm_error *err);
tdm_status TDM_CPU(value_backward)(tdm_stream *s, const tdm_value_backward *a, tdm_error *err);

/* optimizer.c */
size_t TDM_CPU(optimizer_workspace_bytes)(const tdm_limits *limits, int threads);
tdm_status TDM_CPU(adamw)(tdm_stream *s, const tdm_adamw *a, tdm_error *err);
tdm_status TDM_CPU(adamw_8bit)(tdm_stream *s, const tdm_adamw_8bit *a, tdm_error *err);
tdm_status TDM_CPU(sgd)(tdm_stream *s, const tdm_sgd *a, tdm_error *err);
tdm_status TDM_CPU(sum_squares)(tdm_stream *s, const float *x, int64_t n, double *out, tdm_error *err);

#endif
