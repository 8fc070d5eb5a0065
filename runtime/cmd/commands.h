/* The commands of `tandem`. Each takes its own argv (argv[0] is its name), prints results on stdout and fills err; the caller turns the
 * status into the exit code. */
#ifndef TANDEM_RUNTIME_CMD_COMMANDS_H
#define TANDEM_RUNTIME_CMD_COMMANDS_H

#include "kernels/base.h"

tdm_status tdm_cmd_bench(int argc, char **argv, tdm_error *err);
tdm_status tdm_cmd_calibrate(int argc, char **argv, tdm_error *err);
tdm_status tdm_cmd_eval(int argc, char **argv, tdm_error *err);
tdm_status tdm_cmd_export(int argc, char **argv, tdm_error *err);
tdm_status tdm_cmd_generate(int argc, char **argv, tdm_error *err);
tdm_status tdm_cmd_quantize(int argc, char **argv, tdm_error *err);
tdm_status tdm_cmd_report(int argc, char **argv, tdm_error *err);
tdm_status tdm_cmd_score(int argc, char **argv, tdm_error *err);
tdm_status tdm_cmd_tokenize(int argc, char **argv, tdm_error *err);

#endif
