/* One SIGINT or SIGTERM asks, a second SIGINT ends the process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/run/signals.h"

static void one_signal_asks(void **state)
{
    (void)state;
    const int both[] = {SIGINT, SIGTERM};
    for (int i = 0; i < 2; i++) {
        tdm_signals_install();
        assert_false(tdm_signals_stop());
        raise(both[i]);
        assert_true(tdm_signals_stop());
        assert_int_equal(tdm_signals_which(), both[i]);
        raise(SIGTERM); /* asked again, still patient */
        raise(SIGPIPE);
        tdm_signals_restore();
        assert_false(tdm_signals_stop());
    }
}

static void a_second_interrupt_ends_the_process(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO);
        tdm_signals_install();
        raise(SIGINT);
        raise(SIGINT);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 130);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_signal_asks), cmocka_unit_test(a_second_interrupt_ends_the_process)};
    return cmocka_run_group_tests_name("signals", tests, NULL, NULL);
}
