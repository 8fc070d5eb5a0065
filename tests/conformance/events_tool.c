/* events_tool DIR: writes event files the way a run that was interrupted twice does, for check_tensorboard.py. */
#include <stdio.h>

#include "runtime/run/tensorboard.h"

static tdm_status put(const char *dir, int64_t first, int64_t last, tdm_error *err)
{
    static const char *const names[] = {"number"}, *const extras[] = {"eval/accuracy"};
    tdm_tensorboard t;
    tdm_status st = tdm_tensorboard_open(&t, dir, first, err);
    if (st != TDM_OK) return st;
    for (int64_t s = first; st == TDM_OK && s <= last; s++) {
        const double value = (double)s / 64, extra = (double)first;
        tdm_step_metrics m = {.step = s, .reward_names = names, .reward_values = &value, .reward_count = 1};
        for (int i = 0; i < TDM_METRIC_COUNT; i++) tdm_metric_set(&m, (tdm_metric)i, (double)s + i * 0.25);
        m.extra_names = extras, m.extra_values = &extra, m.extra_count = 1;
        st = tdm_tensorboard_put(&t, &m, err);
    }
    const tdm_status closed = tdm_tensorboard_close(&t, err);
    return st == TDM_OK ? closed : st;
}

int main(int argc, char **argv)
{
    tdm_error err = {0};
    tdm_status st = argc == 2 ? put(argv[1], 1, 300, &err) : TDM_ERR_RECIPE;
    if (st == TDM_OK) st = put(argv[1], 201, 250, &err);
    if (st == TDM_OK) st = put(argv[1], 241, 260, &err);
    if (st != TDM_OK) tdm_error_print(&err);
    return (int)st;
}
