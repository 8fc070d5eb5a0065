// Row-major products on cuBLASLt: what numerics `fast` runs where a call has many rows. Its kernels are chosen by the whole shape, so a
// row's bits depend on T here; streams opened with `exact` never come this way.
#pragma once

#include "kernels/cuda/common.cuh"

// How operands and scales stand; each can be switched off by the self-test.
enum tdm_blas_kind { TDM_BLAS_BF16, TDM_BLAS_TENSOR, TDM_BLAS_CHANNEL, TDM_BLAS_BLOCK, TDM_BLAS_KINDS };

// Fewer rows than this are bound by reading the weights, which the own kernels do as fast, with bits that do not depend on T.
enum { TDM_BLAS_ROWS_LEAST = 256 };

// y [rows, cols] = alpha * X P + beta * y
struct tdm_blas_product {
    tdm_blas_kind kind;
    int64_t rows, cols, depth;
    const void *x; // [rows, depth]; bf16, or e4m3 codes for the FP8 kinds
    const void *w; // [depth, cols], or [cols, depth] when w_turned (P = W^T)
    int64_t x_stride, w_stride;
    bool w_turned;
    const float *xs, *ws; // scales on the device, laid out as the kind wants them; NULL: 1
    void *y;
    int64_t y_stride;
    bool y_f32; // else bf16
    float alpha, beta;
};

// All that decides which algorithm runs. Zeroed before it is filled: keys are compared by their bytes.
struct tdm_blas_key {
    int64_t rows, cols, depth, x_stride, w_stride, y_stride;
    int32_t kind;
    uint8_t w_turned, y_f32, accumulate, unused;
};
struct tdm_blas_entry {
    tdm_blas_key key; // rows 0: free
    bool found;       // false: the library has no algorithm, our own kernel runs
    cublasLtMatmulAlgo_t algo;
};

enum { TDM_BLAS_ENTRIES = 1024 }; // some 20 shapes of a model, for some 50 numbers of tokens; a collision asks again

//   created    tdm_blas_open, by the backend's stream_open        released  stream_close
//   workspace  [0, library_bytes) the library's, the rest ours: dequantized weights, scales in another layout
struct tdm_blas {
    bool kinds[TDM_BLAS_KINDS]; // may run
    size_t library_bytes;
    tdm_blas_entry entries[TDM_BLAS_ENTRIES];
};

// Bytes of workspace for a model of this width. Narrow models have small products: they are content with less.
size_t tdm_blas_workspace_bytes(int64_t width);
// Leaves s->blas NULL (our own kernels run) where the stream is exact, $TANDEM_CUDA_CUBLAS is 0 or the workspace is too small.
tdm_status tdm_blas_open(tdm_stream *s, tdm_error *err);
// Compares every kind with our own kernels and switches off what fails; selftest.cu.
tdm_status tdm_blas_selftest(tdm_stream *s, tdm_error *err);

// The operands are aligned as the library wants them and it has an algorithm; asked once a key.
bool tdm_blas_ready(tdm_stream *s, const tdm_blas_product &p);
// Only after ready.
tdm_status tdm_blas_run(tdm_stream *s, const tdm_blas_product &p, tdm_error *err);

// Our part of the workspace.
static inline char *tdm_blas_area(const tdm_stream *s, size_t *bytes)
{
    *bytes = s->workspace_bytes - s->blas->library_bytes;
    return s->workspace + s->blas->library_bytes;
}

// The product of one linear; *done says whether it ran (if not, nothing was written). linear_fast.cu.
tdm_status tdm_linear_fast(tdm_stream *s, const tdm_linear *a, bool *done, tdm_error *err);
// dx (+)= dy bf16(W), without the adapter's part.
tdm_status tdm_dx_fast(tdm_stream *s, const tdm_linear_backward *a, bool *done, tdm_error *err);
