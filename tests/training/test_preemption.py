"""Signals are recorded while the process is busy, and end it at once while it is not."""

import os
import signal

import pytest

from hf_simplex.training import preemption as module
from hf_simplex.training.preemption import EXIT_CODE, Preemption


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_busy_process_ends_when_it_asks(number: int, error: type[BaseException]) -> None:
    before = signal.getsignal(number)
    preemption = Preemption(lambda: True)
    with preemption.heeded():
        send(number)
        assert preemption.requested
        with pytest.raises(error) as raised:
            preemption.end()
    if error is SystemExit:
        assert raised.value.code == EXIT_CODE == 143
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_an_idle_process_ends_at_once(number: int, error: type[BaseException]) -> None:
    with pytest.raises(error), Preemption(lambda: False).heeded():
        send(number)
        pytest.fail("the signal was not heeded")


def test_a_second_ctrl_c_ends_at_once_but_not_the_same_one_passed_on_by_a_launcher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    preemption = Preemption(lambda: True)
    with pytest.raises(KeyboardInterrupt), preemption.heeded():
        send(signal.SIGINT)
        send(signal.SIGINT)
        assert preemption.requested
        assert len(capsys.readouterr().err.splitlines()) == 1
        monkeypatch.setattr(module, "_SAME_CTRL_C", 0.0)
        send(signal.SIGINT)
        pytest.fail("the second Ctrl-C was not heeded")
