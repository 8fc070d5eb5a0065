/* Files on disk, the way a run must treat them: whole reads with a ceiling, writes that are complete or absent.
 * Everything that must survive a crash (adapters, checkpoints, metrics after a resume) is written through here, so that one
 * fault hook reaches every write, sync and rename of the process.
 * Errors are TDM_ERR_OTHER for the disk, TDM_ERR_INPUT for a missing or too large input; `where` is the path. */
#ifndef TANDEM_MEMORY_FS_H
#define TANDEM_MEMORY_FS_H

#include "kernels/base.h"

enum { TDM_PATH_BYTES = 4096 };

/* Fills out with dir/name (name may hold further slashes); an error when it does not fit. */
tdm_status tdm_fs_join(char out[TDM_PATH_BYTES], const char *dir, const char *name, tdm_error *err);

/* A file being written. Caller's memory; close exactly once, also after a failed put. */
typedef struct tdm_file {
    int fd;                    /* -1: closed */
    char path[TDM_PATH_BYTES];
} tdm_file;
tdm_status tdm_file_create(tdm_file *f, const char *path, tdm_error *err);      /* emptied when it exists */
tdm_status tdm_file_append(tdm_file *f, const char *path, tdm_error *err);      /* created when it does not exist */
tdm_status tdm_file_put(tdm_file *f, const void *data, size_t bytes, tdm_error *err);
tdm_status tdm_file_sync(tdm_file *f, tdm_error *err);                          /* bytes are on the disk when it returns */
tdm_status tdm_file_close(tdm_file *f, tdm_error *err);                         /* a full disk may show only here; closed in any case */

/* The whole file, with a 0 behind it. *data is the caller's (free). A missing file, a folder, more than limit bytes: TDM_ERR_INPUT. */
tdm_status tdm_fs_read(const char *path, size_t limit, char **data, size_t *bytes, tdm_error *err);
/* path holds either what it held before or all of data: temporary file beside it, sync, rename, sync of the folder. */
tdm_status tdm_fs_write(const char *path, const void *data, size_t bytes, tdm_error *err);
tdm_status tdm_fs_mkdirs(const char *path, tdm_error *err);            /* like mkdir -p; the names are on the disk when it returns */
tdm_status tdm_fs_sync_dir(const char *path, tdm_error *err);
tdm_status tdm_fs_rename(const char *from, const char *to, tdm_error *err); /* does not sync the folder */
/* Both names exist and change places in one instant; where the file system cannot do that, `to` is gone for an instant. */
tdm_status tdm_fs_exchange(const char *from, const char *to, tdm_error *err);
tdm_status tdm_fs_remove_tree(const char *path, tdm_error *err);       /* follows no link; fine when nothing is there */
bool tdm_fs_is_file(const char *path);
bool tdm_fs_is_dir(const char *path);

/* Names in a folder without "." and "..", sorted by bytes. */
typedef struct tdm_names {
    char **names;
    int64_t count;
} tdm_names;
tdm_status tdm_fs_list(const char *path, tdm_names *out, tdm_error *err); /* release with tdm_names_free, also {0} */
void tdm_names_free(tdm_names *n);

/* Faults, for tests: from arm on, the n-th operation of that kind (counted from 0) fails with EIO. A failing write is torn: half
 * of its bytes arrive. With `dead`, every operation after it fails too, removals included, as if the process had been killed
 * there. Disarm returns how often a fault fired. Costs one load when not armed. One process-wide switch: arm it from one thread. */
typedef enum tdm_fault { TDM_FAULT_NONE = 0, TDM_FAULT_WRITE = 1, TDM_FAULT_SYNC = 2, TDM_FAULT_RENAME = 4, TDM_FAULT_ANY = 7 } tdm_fault;
void tdm_fault_arm(unsigned kinds, int64_t n, bool dead);
int64_t tdm_fault_disarm(void);
/* Told of each operation that succeeded, in order, so that a test can check what was durable when. fn NULL: off. */
typedef enum tdm_fs_event { TDM_FS_WRITE, TDM_FS_SYNC, TDM_FS_SYNC_DIR, TDM_FS_RENAME, TDM_FS_REMOVE, TDM_FS_MKDIR } tdm_fs_event;
typedef void tdm_fs_observer_fn(void *user, tdm_fs_event event, const char *path, const char *to);
void tdm_fs_observe(tdm_fs_observer_fn *fn, void *user);

#endif
