/* Which backend runs: what a person asks for, what the build has, what the machine has. */
#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"

#if !defined(TDM_CUDA)
tdm_status tdm_backend_cuda(const char *path, const tdm_backend **out, tdm_error *err)
{
    (void)path;
    *out = NULL;
    return TDM_FAIL(err, TDM_ERR_OTHER, "device", "build with -DTANDEM_CUDA=ON where nvcc is installed, or use device: cpu",
                    "this build has no CUDA backend");
}

tdm_status tdm_backend_cuda_plan(const char *path, const tdm_backend **out, bool *there, tdm_error *err)
{
    *there = false;
    return tdm_backend_cuda(path, out, err);
}
#endif

/* NULL or "": what the environment says, else "auto". */
static const char *wish(const char *device)
{
    if (!device || !*device) device = getenv("TANDEM_DEVICE");
    return device && *device ? device : "auto";
}

tdm_status tdm_backend_open(const char *device, const tdm_backend **out, tdm_error *err)
{
    const char *where = device ? "device" : "TANDEM_DEVICE";
    device = wish(device);
    if (strcmp(device, "cpu") == 0) return tdm_backend_cpu(NULL, out, err);
    if (strcmp(device, "cuda") == 0) return tdm_backend_cuda(NULL, out, err);
    if (strcmp(device, "auto") != 0) return TDM_FAIL(err, TDM_ERR_RECIPE, where, "use auto, cpu or cuda", "unknown device \"%s\"", device);
    return tdm_backend_cuda(NULL, out, NULL) == TDM_OK ? TDM_OK : tdm_backend_cpu(NULL, out, err);
}

tdm_status tdm_backend_plan(const char *device, const tdm_backend **out, bool *there, tdm_error *err)
{
    if (strcmp(wish(device), "cuda") == 0) return tdm_backend_cuda_plan(NULL, out, there, err);
    *there = true;
    return tdm_backend_open(device, out, err);
}
