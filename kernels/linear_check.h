/* What the callers of linear and linear_backward promise, asserted alike by every backend. */
#ifndef TANDEM_KERNELS_LINEAR_CHECK_H
#define TANDEM_KERNELS_LINEAR_CHECK_H

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

void tdm_linear_check(const tdm_linear *a);
void tdm_linear_backward_check(const tdm_linear_backward *a);

#ifdef __cplusplus
}
#endif

#endif
