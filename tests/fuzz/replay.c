/* Runs a fuzz target over the files of the folders given, so that its corpus is a test wherever there is no libFuzzer. */
#include "fuzz_files.h"

#include <dirent.h>

static int run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) return 1;
    const long size = ftell(f);
    /* exactly as large as the input, so that a read past its end is seen */
    uint8_t *data = size >= 0 ? malloc(size ? (size_t)size : 1) : NULL;
    rewind(f);
    const bool whole = data && fread(data, 1, (size_t)size, f) == (size_t)size;
    fclose(f);
    if (whole) LLVMFuzzerTestOneInput(data, (size_t)size);
    free(data);
    return whole ? 0 : 1;
}

int main(int argc, char **argv)
{
    int count = 0;
    for (int i = 1; i < argc; i++) {
        DIR *folder = opendir(argv[i]);
        if (!folder) return fprintf(stderr, "%s: cannot be opened\n", argv[i]), 1;
        for (struct dirent *e; (e = readdir(folder));) {
            char path[1024];
            if (e->d_name[0] == '.') continue;
            snprintf(path, sizeof path, "%s/%s", argv[i], e->d_name);
            if (run_file(path) != 0) return fprintf(stderr, "%s: cannot be read\n", path), 1;
            count++;
        }
        closedir(folder);
    }
    printf("%d inputs\n", count);
    return count ? 0 : 1;
}
