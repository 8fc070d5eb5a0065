// Memory of the device: what the pool opens, copies, and what the process takes beside it.
#include <atomic>
#include <dlfcn.h>
#include <unistd.h>

#include "kernels/cuda/common.cuh"

// Bytes memory_open gave out on this process's device. The one count the driver does not keep apart; overhead() subtracts it.
static std::atomic<size_t> held{0};

tdm_status tdm_cuda_memory_open(void **base, size_t bytes, tdm_error *err)
{
    *base = NULL;
    const cudaError_t code = cudaMalloc(base, bytes ? bytes : 1);
    if (code == cudaErrorMemoryAllocation) {
        size_t free_bytes = 0, total = 0;
        (void)cudaGetLastError(); // reported here, and not again after the next launch
        (void)cudaMemGetInfo(&free_bytes, &total);
        return TDM_FAIL(err, TDM_ERR_BUDGET, NULL, "lower memory.budget, or free memory of the device",
                        "cannot allocate %zu bytes on the device: %zu of %zu are free", bytes, free_bytes, total);
    }
    const tdm_status st = tdm_cuda_check(code, err, "cudaMalloc");
    if (st == TDM_OK) held += bytes;
    return st;
}

void tdm_cuda_memory_close(void *base, size_t bytes)
{
    if (!base) return;
    (void)cudaFree(base);
    held -= bytes;
}

tdm_status tdm_cuda_host_open(void **base, size_t bytes, tdm_error *err)
{
    *base = NULL;
    const cudaError_t code = cudaHostAlloc(base, bytes ? bytes : 1, cudaHostAllocDefault);
    if (code == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return TDM_FAIL(err, TDM_ERR_BUDGET, NULL, "lower memory.budget, or free memory", "cannot pin %zu bytes of host memory", bytes);
    }
    return tdm_cuda_check(code, err, "cudaHostAlloc");
}

void tdm_cuda_host_close(void *base, size_t bytes)
{
    (void)bytes;
    if (base) (void)cudaFreeHost(base);
}

static tdm_status copy(tdm_stream *s, void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, tdm_error *err)
{
    if (bytes == 0) return TDM_OK;
    TDM_ASSERT(dst != src);
    return tdm_cuda_check(cudaMemcpyAsync(dst, src, bytes, kind, s->cuda), err, kind == cudaMemcpyHostToDevice ? "upload" : "download");
}

tdm_status tdm_cuda_upload(tdm_stream *s, void *dst, const void *src, size_t bytes, tdm_error *err)
{
    return copy(s, dst, src, bytes, cudaMemcpyHostToDevice, err);
}

tdm_status tdm_cuda_download(tdm_stream *s, void *dst, const void *src, size_t bytes, tdm_error *err)
{
    return copy(s, dst, src, bytes, cudaMemcpyDeviceToHost, err);
}

// ---- What the process takes ------------------------------------------------------------------------------------------------------

// NVML's nvmlProcessInfo_t, version 2 and later; the library comes with the driver and is looked up, not linked.
struct nvml_process {
    unsigned pid;
    unsigned long long used_bytes;
    unsigned gpu_instance, compute_instance;
};
enum { NVML_PROCESSES = 64 };

// Opened at the first question and kept: a run asks after every step.
struct nvml {
    int (*by_bus)(const char *, void **) = NULL;
    int (*list)(void *, unsigned *, nvml_process *) = NULL;
    nvml()
    {
        void *lib = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
        if (!lib) return;
        int (*const init)(void) = (int (*)(void))dlsym(lib, "nvmlInit_v2");
        if (!init || init() != 0) return;
        by_bus = (int (*)(const char *, void **))dlsym(lib, "nvmlDeviceGetHandleByPciBusId_v2");
        list = (int (*)(void *, unsigned *, nvml_process *))dlsym(lib, "nvmlDeviceGetComputeRunningProcesses_v3");
    }
};

// Bytes NVML counts for this process on the current device; false where it cannot say (no library, other process ids in a container).
static bool nvml_used(size_t *used)
{
    static const nvml lib;
    char bus[32];
    int device = 0;
    nvml_process p[NVML_PROCESSES];
    unsigned n = NVML_PROCESSES;
    void *card = NULL;
    if (!lib.by_bus || !lib.list) return false;
    if (cudaGetDevice(&device) != cudaSuccess || cudaDeviceGetPCIBusId(bus, sizeof bus, device) != cudaSuccess) return false;
    if (lib.by_bus(bus, &card) != 0 || lib.list(card, &n, p) != 0) return false;
    for (unsigned i = 0; i < n && i < NVML_PROCESSES; i++)
        if (p[i].pid == (unsigned)getpid() && p[i].used_bytes != ~0ull) {
            *used = (size_t)p[i].used_bytes;
            return true;
        }
    return false;
}

tdm_status tdm_cuda_overhead(size_t *bytes, tdm_error *err)
{
    const size_t typical = (size_t)600 << 20, most = (size_t)4 << 30;
    size_t used = 0, free_bytes = 0, total = 0;
    int count = 0;
    *bytes = typical;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) { // planning for another machine
        (void)cudaGetLastError();
        return TDM_OK;
    }
    tdm_status st = tdm_cuda_check(cudaFree(NULL), err, "opening the device"); // a context; code loads at its first launch
    if (st != TDM_OK) return st;
    if (!nvml_used(&used)) {
        st = TDM_CUDA(cudaMemGetInfo(&free_bytes, &total));
        if (st != TDM_OK) return st;
        used = total - free_bytes; // the card's processes together
        if (used > held + most) return TDM_OK; // others are on the card: nothing can be told
    }
    if (used > held) *bytes = used - held;
    return TDM_OK;
}

tdm_status tdm_cuda_available(size_t *bytes, tdm_error *err)
{
    size_t total = 0;
    *bytes = 0;
    return TDM_CUDA(cudaMemGetInfo(bytes, &total));
}
