/* tandem COMMAND: everything but training. */
#include <stdio.h>
#include <string.h>

#include "runtime/cmd/args.h"
#include "runtime/cmd/commands.h"

static const struct {
    const char *name;
    tdm_status (*run)(int argc, char **argv, tdm_error *err);
    const char *summary;
} commands[] = {
    {"bench", tdm_cmd_bench, "rollout, training and kernels, with the machine's ceiling"},
    {"calibrate", tdm_cmd_calibrate, "static activation scales from text"},
    {"eval", tdm_cmd_eval, "accuracy on a data set"},
    {"export", tdm_cmd_export, "a run's adapter, or its model with the adapter merged"},
    {"generate", tdm_cmd_generate, "text from prompts"},
    {"quantize", tdm_cmd_quantize, "an FP8 checkpoint for vLLM and transformers"},
    {"report", tdm_cmd_report, "one HTML page of a run"},
    {"score", tdm_cmd_score, "log-probabilities of given ids"},
    {"tokenize", tdm_cmd_tokenize, "text to ids and back"},
};

static void usage(void)
{
    printf("tandem: generate, score and convert models; grpo_train trains them\n\nusage: tandem COMMAND [options]\n\ncommands:\n");
    for (size_t i = 0; i < TDM_COUNT(commands); i++) printf("  %-10s %s\n", commands[i].name, commands[i].summary);
    printf("\ntandem COMMAND --help shows its options and an example\n");
}

static tdm_status dispatch(int argc, char **argv, tdm_error *err)
{
    const char *names[TDM_COUNT(commands)];
    char hint[128];
    if (argc < 2) return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", "tandem --help lists the commands", "no command was named");
    for (size_t i = 0; i < TDM_COUNT(commands); i++) {
        names[i] = commands[i].name;
        if (strcmp(argv[1], names[i]) == 0) return commands[i].run(argc - 1, argv + 1, err);
    }
    const char *near = tdm_nearest(argv[1], names, (int64_t)TDM_COUNT(commands));
    if (near) snprintf(hint, sizeof hint, "did you mean \"%s\"?", near);
    else snprintf(hint, sizeof hint, "tandem --help lists the commands");
    return TDM_FAIL(err, TDM_ERR_RECIPE, "command line", hint, "unknown command \"%.64s\"", argv[1]);
}

int main(int argc, char **argv)
{
    tdm_error err = {0};
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        usage();
        return TDM_OK;
    }
    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
        printf("tandem %s\n", TANDEM_VERSION);
        return TDM_OK;
    }
    const tdm_status st = dispatch(argc, argv, &err);
    if (st != TDM_OK) tdm_error_print(&err);
    return (int)st;
}
