/* Which backend runs: what a person asks for, what the build has, what the machine has. */
#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"

#if !defined(TDM_CUDA)
tdm_status tdm_backend_cuda(const char *path, const tdm_backend **out, tdm_error *err)
{
    (void)path;
    *out = NULL;
    return TDM_FAIL(err, TDM_ERR_RECIPE, "device", "build with -DTANDEM_CUDA=ON where nvcc is installed, or use device: cpu",
                    "this build has no CUDA backend");
}

tdm_status tdm_backend_cuda_plan(const char *path, const tdm_backend **out, bool *there, tdm_error *err)
{
    *there = false;
    return tdm_backend_cuda(path, out, err);
}
#endif

/* NULL or "": what the environment says, else "auto"; *where then names the environment. */
static const char *wish(const char *device, const char **where)
{
    if (device && *device) return device;
    *where = "TANDEM_DEVICE";
    device = getenv("TANDEM_DEVICE");
    return device && *device ? device : "auto";
}

/* What a build or a machine lacks is told where it was asked for. */
static tdm_status told(tdm_status st, const tdm_error *own, const char *where, tdm_error *err)
{
    if (st == TDM_OK) return st;
    return tdm_fail(err, st, own->src, own->src_line, st == TDM_ERR_RECIPE ? where : own->where, own->hint, "%s", own->what);
}

tdm_status tdm_backend_open(const char *device, const char *where, const tdm_backend **out, tdm_error *err)
{
    tdm_error own = {0};
    device = wish(device, &where);
    if (strcmp(device, "cpu") == 0) return tdm_backend_cpu(NULL, out, err);
    if (strcmp(device, "cuda") == 0) return told(tdm_backend_cuda(NULL, out, &own), &own, where, err);
    if (strcmp(device, "auto") != 0) return TDM_FAIL(err, TDM_ERR_RECIPE, where, "use auto, cpu or cuda", "unknown device \"%s\"", device);
    return tdm_backend_cuda(NULL, out, NULL) == TDM_OK ? TDM_OK : tdm_backend_cpu(NULL, out, err);
}

tdm_status tdm_backend_plan(const char *device, const char *where, const tdm_backend **out, bool *there, tdm_error *err)
{
    tdm_error own = {0};
    const char *asked = where;
    if (strcmp(wish(device, &asked), "cuda") == 0) return told(tdm_backend_cuda_plan(NULL, out, there, &own), &own, asked, err);
    *there = true;
    return tdm_backend_open(device, where, out, err);
}
