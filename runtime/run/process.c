/* What the kernel says about this process and this machine. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/run/session.h"

/* The number behind "key" in a file of "key: N kB" lines; 0 when missing. */
static size_t kilobytes_of(const char *path, const char *key)
{
    char line[256];
    size_t value = 0;
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    while (fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0) {
            value = (size_t)strtoull(line + strlen(key), NULL, 10) << 10;
            break;
        }
    fclose(f);
    return value;
}

static bool number_of(const char *path, size_t *value)
{
    char line[64] = "";
    FILE *f = fopen(path, "r");
    if (!f) return false;
    const bool read = fgets(line, sizeof line, f) != NULL;
    fclose(f);
    char *end;
    *value = (size_t)strtoull(line, &end, 10);
    return read && end != line; /* "max" is not a number: no limit */
}

size_t tdm_process_resident_bytes(void) { return kilobytes_of("/proc/self/status", "VmRSS:"); }
size_t tdm_process_peak_bytes(void) { return kilobytes_of("/proc/self/status", "VmHWM:"); }

size_t tdm_machine_available_bytes(void)
{
    size_t available = kilobytes_of("/proc/meminfo", "MemAvailable:"), limit, used;
    if (number_of("/sys/fs/cgroup/memory.max", &limit) && number_of("/sys/fs/cgroup/memory.current", &used)) {
        const size_t left = limit > used ? limit - used : 0;
        if (available == 0 || left < available) available = left;
    }
    return available;
}
