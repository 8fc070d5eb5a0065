/* SIGINT and SIGTERM ask the run to stop: the loop finishes what it must, saves a checkpoint and returns TDM_STOPPED. A second
 * SIGINT ends the process at once with status 130; checkpoints are complete or absent, so that is safe. */
#ifndef TANDEM_RUNTIME_RUN_SIGNALS_H
#define TANDEM_RUNTIME_RUN_SIGNALS_H

#include <stdbool.h>

void tdm_signals_install(void); /* SIGPIPE is ignored from here on: a dead reward worker is an error code, not our end */
bool tdm_signals_stop(void);    /* asked to stop? */
int tdm_signals_which(void);    /* the signal that asked, 0: none */
void tdm_signals_restore(void); /* back to the default actions; forgets a request */

#endif
