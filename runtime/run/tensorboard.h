/* TensorBoard event files. Framing: u64 length, masked CRC-32C of it, the record, masked CRC-32C of the record, little-endian.
 * Sources: tensorflow/tensorboard, compat/proto/{event,summary}.proto; tensorflow, core/lib/io/record_writer.h.
 * The three messages are encoded by hand: four fields are less than a generator at build time. */
#ifndef TANDEM_RUNTIME_RUN_TENSORBOARD_H
#define TANDEM_RUNTIME_RUN_TENSORBOARD_H

#include "runtime/run/metrics.h"

typedef struct tdm_tensorboard {
    tdm_file file;
    tdm_writer record, frame; /* reused, so that a step allocates nothing */
} tdm_tensorboard;

/* Opens a new event file in dir (made when missing). Events after first_step - 1 that older files hold are cut off, and the new
 * file begins with a SessionLog START at first_step, so a resumed run shows each step once. */
tdm_status tdm_tensorboard_open(tdm_tensorboard *t, const char *dir, int64_t first_step, tdm_error *err);
tdm_status tdm_tensorboard_put(tdm_tensorboard *t, const tdm_step_metrics *m, tdm_error *err); /* one event, one write */
tdm_status tdm_tensorboard_close(tdm_tensorboard *t, tdm_error *err);                          /* {.file.fd = -1} is fine */

#endif
