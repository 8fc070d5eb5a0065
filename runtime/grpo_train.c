/* grpo_train RECIPE [section.key=value ...] [--resume[=DIR]] [--check] [--plan] [--quiet] */
#include <stdio.h>
#include <string.h>

#include "runtime/cmd/args.h"
#include "runtime/run/job.h"

enum { MOST_PLAIN = 256 };

/* --resume takes a value only with "=", so it is taken out before the other options are read. */
static void take_resume(int *argc, char **argv, tdm_job_options *o)
{
    int kept = 1;
    for (int i = 1; i < *argc; i++) {
        if (strcmp(argv[i], "--resume") == 0) o->resume = true;
        else if (strncmp(argv[i], "--resume=", 9) == 0 && argv[i][9]) {
            o->resume = true;
            o->resume_dir = argv[i] + 9;
        } else argv[kept++] = argv[i];
    }
    *argc = kept;
}

static tdm_status train(int argc, char **argv, tdm_error *err)
{
    tdm_job_options o = {0};
    const char *plain[MOST_PLAIN];
    int count = 0;
    bool help;
    const tdm_option options[] = {
        {"--resume", TDM_OPTION_FLAG, &o.resume, 0, 0, NULL, "go on from the newest complete checkpoint (of --resume=DIR)", NULL},
        {"--check", TDM_OPTION_FLAG, &o.check, 0, 0, NULL, "open recipe, model, data and rewards; train nothing", NULL},
        {"--plan", TDM_OPTION_FLAG, &o.plan, 0, 0, NULL, "print every region of memory; load nothing", NULL},
        {"--quiet", TDM_OPTION_FLAG, &o.quiet, 0, 0, NULL, "errors only", NULL},
    };
    const tdm_command command = {.name = "grpo_train", .summary = "Trains a LoRA adapter as a recipe says.", .options = options,
                                 .count = (int)TDM_COUNT(options), .plain = plain, .plain_room = MOST_PLAIN, .plain_name = "RECIPE [section.key=value ...]",
                                 .example = "grpo_train configs/smollm2_addition.yaml train.steps=20 --plan"};
    tdm_status st = TDM_OK;
    tdm_recipe *recipe = NULL;
    take_resume(&argc, argv, &o);
    TDM_TRY(st, tdm_args_parse(&command, argc, argv, &count, &help, err), done);
    if (help) return TDM_OK;
    if (count == 0) {
        st = TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "grpo_train configs/smollm2_addition.yaml", "no recipe was named");
        goto done;
    }
    TDM_TRY(st, tdm_recipe_open(&recipe, plain[0], plain + 1, count - 1, err), done);
    TDM_TRY(st, tdm_job_run(recipe, &o, err), done);
done:
    tdm_recipe_close(recipe);
    return st;
}

int main(int argc, char **argv)
{
    tdm_error err = {0};
    const tdm_status st = train(argc, argv, &err);
    if (st == TDM_STOPPED) fprintf(stderr, "%s: %s\n", err.what, err.hint);
    else if (st != TDM_OK) tdm_error_print(&err);
    return (int)st;
}
