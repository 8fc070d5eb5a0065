#include "kernels/linear_check.h"

void tdm_linear_check(const tdm_linear *a)
{
    const tdm_weight *w = a->w;
    const int64_t t = a->x.rows, n = w->codes.rows, k = w->codes.cols;
    TDM_ASSERT(a->x.dtype == TDM_DTYPE_BF16 && (a->y.dtype == TDM_DTYPE_BF16 || a->y.dtype == TDM_DTYPE_F32));
    TDM_ASSERT(!a->accumulate || a->y.dtype == TDM_DTYPE_F32);
    TDM_ASSERT(w->codes.dtype == (w->scheme == TDM_SCHEME_BF16 ? TDM_DTYPE_BF16 : TDM_DTYPE_E4M3));
    TDM_ASSERT(w->scheme != TDM_SCHEME_BF16 || w->act == TDM_ACT_NONE);
    TDM_ASSERT_EQ(a->x.cols, k);
    TDM_ASSERT_EQ(a->y.rows, t);
    TDM_ASSERT_EQ(a->y.cols, n);
    if (w->act != TDM_ACT_NONE) {
        TDM_ASSERT(a->xq.data || t == 0);
        TDM_ASSERT(a->xq.dtype == TDM_DTYPE_E4M3);
        TDM_ASSERT_EQ(a->xq.rows, t);
        TDM_ASSERT_EQ(a->xq.cols, k);
    }
    if (!a->lora_a.data) return;
    TDM_ASSERT(a->lora_a.dtype == TDM_DTYPE_BF16 && a->lora_b.dtype == TDM_DTYPE_BF16 && a->lora_h.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT_EQ(a->lora_a.cols, k);
    TDM_ASSERT_EQ(a->lora_b.rows, n);
    TDM_ASSERT_EQ(a->lora_b.cols, a->lora_a.rows);
    TDM_ASSERT_EQ(a->lora_h.cols, a->lora_a.rows);
    TDM_ASSERT_EQ(a->lora_h.rows, t);
}

void tdm_linear_backward_check(const tdm_linear_backward *a)
{
    const int64_t t = a->dy.rows, n = a->w->codes.rows, k = a->w->codes.cols;
    TDM_ASSERT(a->dy.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT(a->w->codes.dtype == (a->w->scheme == TDM_SCHEME_BF16 ? TDM_DTYPE_BF16 : TDM_DTYPE_E4M3));
    TDM_ASSERT_EQ(a->dy.cols, n);
    if (a->dx.data) {
        TDM_ASSERT(a->dx.dtype == TDM_DTYPE_F32);
        TDM_ASSERT_EQ(a->dx.rows, t);
        TDM_ASSERT_EQ(a->dx.cols, k);
    }
    if (!a->lora_a.data) {
        TDM_ASSERT(!a->grad_a.data && !a->grad_b.data && !a->lora_dx.data);
        return;
    }
    const int64_t r = a->lora_a.rows;
    TDM_ASSERT(a->lora_a.dtype == TDM_DTYPE_BF16 && a->lora_b.dtype == TDM_DTYPE_BF16 && a->lora_dh.dtype == TDM_DTYPE_BF16);
    TDM_ASSERT_EQ(a->lora_a.cols, k);
    TDM_ASSERT_EQ(a->lora_b.rows, n);
    TDM_ASSERT_EQ(a->lora_b.cols, r);
    TDM_ASSERT_EQ(a->lora_dh.rows, t);
    TDM_ASSERT_EQ(a->lora_dh.cols, r);
    if (a->grad_a.data) {
        TDM_ASSERT(a->grad_a.dtype == TDM_DTYPE_F32 && a->x.dtype == TDM_DTYPE_BF16);
        TDM_ASSERT(a->grad_a.rows == r && a->grad_a.cols == k && a->x.rows == t && a->x.cols == k);
    }
    if (a->grad_b.data) {
        TDM_ASSERT(a->grad_b.dtype == TDM_DTYPE_F32 && a->h.dtype == TDM_DTYPE_BF16);
        TDM_ASSERT(a->grad_b.rows == n && a->grad_b.cols == r && a->h.rows == t && a->h.cols == r);
    }
}
