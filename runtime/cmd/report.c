/* tandem report: the page of a run folder. */
#include "runtime/run/report.h"

#include <stdio.h>

#include "memory/fs.h"
#include "runtime/cmd/args.h"
#include "runtime/cmd/commands.h"

tdm_status tdm_cmd_report(int argc, char **argv, tdm_error *err)
{
    tdm_status st = TDM_OK;
    const char *dir = NULL;
    int count;
    bool help;
    const tdm_command command = {.name = "tandem report", .summary = "Writes RUN/report.html: curves, memory, sample completions, in one file.", .plain = &dir,
                                 .plain_room = 1, .plain_name = "RUN", .example = "tandem report runs/smollm2_addition"};
    TDM_TRY(st, tdm_args_parse(&command, argc, argv, &count, &help, err), done);
    if (help) goto done;
    if (count == 0 || !tdm_fs_is_dir(dir)) {
        st = TDM_FAIL(err, count ? TDM_ERR_INPUT : TDM_ERR_RECIPE, count ? dir : "command line", "give the folder that grpo_train wrote", "no run folder");
        goto done;
    }
    TDM_TRY(st, tdm_report_write(dir, err), done);
    printf("%s/report.html\n", dir);
done:
    return st;
}
