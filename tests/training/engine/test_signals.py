"""Signals in one process: the first stops after the step, the second at once, and all are counted."""

import contextlib
import os
import signal

import pytest

from star_training.engine.signals import Stopped, StopRequest
from star_training.messages import QUIET, verbosity

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def test_a_second_signal_insists():
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("came", "called", "number"),
    [((INT, TERM), (INT, TERM), TERM), ((INT, INT), (INT,), INT), ((TERM, HUP, INT, INT), (HUP, INT, TERM), TERM)],
)
def test_signals_that_come_before_a_handler_is_called_are_all_counted(came, called, number: int, capfd):
    """As during a long call of C: all are recorded, then Python calls one handler for all signals of a kind."""
    with pytest.raises(KeyboardInterrupt) as caught, StopRequest("stopping") as stop:
        handle(came, called)
    assert Stopped.by(caught.value).exit_code == 128 + number
    assert stop.signal is None and capfd.readouterr().err == ""


def test_a_hangup_and_another_signal_are_one_request():
    with StopRequest() as stop:
        handle((TERM, HUP, HUP), (HUP, TERM))
    assert stop.signal == TERM


def handle(came: tuple[int, ...], called: tuple[int, ...]) -> None:
    """Records signals as C does when they come, then calls handlers as Python does later."""
    os.write(writer := signal.set_wakeup_fd(-1), bytes(came))
    signal.set_wakeup_fd(writer)
    for number in called:
        signal.getsignal(number)(number, None)


def test_a_forked_process_adds_no_signal_to_those_of_its_parent():
    with StopRequest() as stop:
        if (child := os.fork()) == 0:
            with contextlib.suppress(BaseException):
                os.kill(os.getpid(), INT)
            os._exit(0)
        os.waitpid(child, 0)
        signal.raise_signal(INT)
    assert stop.signal == INT


def test_the_first_signal_alone_prints_its_notice(capfd):
    with pytest.raises(KeyboardInterrupt), StopRequest("stopping"):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr().err == "stopping\n"
    with verbosity(QUIET), StopRequest("stopping"):
        signal.raise_signal(signal.SIGTERM)
    assert capfd.readouterr().err == ""


def test_a_second_hangup_changes_nothing():
    with StopRequest() as stop:
        for _ in range(2):
            signal.raise_signal(signal.SIGHUP)
    assert stop.signal == signal.SIGHUP


def test_a_hangup_that_nohup_ignores_is_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.signal is None
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGHUP)
        assert stop.signal == signal.SIGTERM and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
