/* The report's data, one JSON text: private to report*.c. */
#ifndef TANDEM_RUNTIME_RUN_REPORT_DATA_H
#define TANDEM_RUNTIME_RUN_REPORT_DATA_H

#include "runtime/run/metrics.h"

/* Each writes one JSON value. */
tdm_status tdm_report_rollouts(tdm_writer *t, const char *run_dir, tdm_error *err); /* [{"step", "samples": [...]}, ...] */
void tdm_report_number(tdm_writer *t, double v);                                    /* null when it is not finite */
/* Members of an object, without its braces: steps, series, totals, first and last figures. */
tdm_status tdm_report_metrics(tdm_writer *t, const char *run_dir, tdm_error *err);

#endif
