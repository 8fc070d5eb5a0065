/* A whole file mapped for reading.
 *   created   tdm_file_map_open     released  tdm_file_map_close
 * A file that another process shortens while it is mapped is outside what can be checked: the kernel then raises SIGBUS. */
#ifndef TANDEM_MEMORY_FILE_MAP_H
#define TANDEM_MEMORY_FILE_MAP_H

#include "kernels/base.h"

typedef struct tdm_file_map {
    const unsigned char *data; /* NULL: empty file */
    size_t bytes;
} tdm_file_map;

/* Regular files only. */
tdm_status tdm_file_map_open(tdm_file_map *m, const char *path, tdm_error *err);
void tdm_file_map_close(tdm_file_map *m); /* a zeroed map: nothing */
/* Lets the process forget the whole pages inside [data, data + bytes): they are read again from the file should anyone look. */
void tdm_file_map_drop(const void *data, size_t bytes);

#endif
