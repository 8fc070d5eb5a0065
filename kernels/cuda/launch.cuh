// Launches whose blocks may start while the kernel before them still runs (programmatic dependent launch, from sm_90 on): a kernel that
// is launched so calls tdm_wait_for_previous before it touches anything an operation may write, on every path, and may read weights
// before that. tdm_let_next_begin says that the next kernel's blocks may come as soon as there is room.
#pragma once

#include "kernels/cuda/common.cuh"

TDM_DEVICE void tdm_wait_for_previous()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
TDM_DEVICE void tdm_let_next_begin()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// The card takes launches of that kind.
static inline bool tdm_cuda_overlaps(const tdm_stream *s) { return s->path >= TDM_CUDA_SM90; }

template <class... P, class... A>
static cudaError_t tdm_cuda_launch(const tdm_stream *s, void (*kernel)(P...), dim3 grid, unsigned threads, size_t shared, A... args)
{
    cudaLaunchAttribute attribute = {};
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.stream = s->cuda;
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &attribute;
    config.numAttrs = tdm_cuda_overlaps(s) ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, P(args)...);
}
