/* tandem report: the page of a run folder, with other runs laid over it. */
#include "runtime/run/report.h"

#include <stdio.h>
#include <stdlib.h>

#include "memory/fs.h"
#include "runtime/cmd/args.h"
#include "runtime/cmd/commands.h"

tdm_status tdm_cmd_report(int argc, char **argv, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const char **dirs = calloc((size_t)argc, sizeof *dirs), *output = NULL; /* room for all that is given: too many is an error of its own */
    int count;
    bool help;
    const tdm_option options[] = {{"--output", TDM_OPTION_TEXT, &output, 0, 0, "FILE", "the page to write (RUN/report.html)", NULL}};
    const tdm_command command = {.name = "tandem report",
                                 .summary = "Writes RUN/report.html: curves, memory, sample completions, in one file; with other runs, their curves over those of the first.",
                                 .options = options, .count = TDM_COUNT(options), .plain = dirs, .plain_room = argc, .plain_name = "RUN [OTHER ...]",
                                 .example = "tandem report runs/smollm2_addition runs/smollm2_addition_exact --output compared.html"};
    if (!dirs) {
        st = TDM_FAIL(err, TDM_ERR_OTHER, "command line", "free some memory", "out of memory");
        goto done;
    }
    TDM_TRY(st, tdm_args_parse(&command, argc, argv, &count, &help, err), done);
    if (help) goto done;
    if (count == 0) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "give the folder that grpo_train wrote", "no run folder");
        goto done;
    }
    if (count > TDM_REPORT_RUNS) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "give fewer runs", "a page takes %d runs, %d are given", TDM_REPORT_RUNS, count);
        goto done;
    }
    if (output && (!output[0] || tdm_fs_is_dir(output))) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "name a file, as in --output compared.html", "--output \"%.128s\" is not a file's name", output);
        goto done;
    }
    TDM_TRY(st, tdm_report_compare(dirs, count, output, err), done);
    if (output) printf("%s\n", output);
    else printf("%s/report.html\n", dirs[0]);
done:
    free(dirs);
    return st;
}
