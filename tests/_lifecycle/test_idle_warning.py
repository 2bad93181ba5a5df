"""The warning about messages that wait for a loop that never runs: pure, by its rules."""

from segment_async._lifecycle.idle_warning import IdleWarning


def test_it_is_given_once_messages_have_waited() -> None:
    warning = IdleWarning()
    assert warning.due(100.0, lambda: 1, False) is None
    assert warning.due(109.9, lambda: 2, False) is None
    text = warning.due(112.5, lambda: 1_234, False)
    assert text is not None
    assert "1,234 messages wait, the first for 12.5 s" in text
    assert "segment_async.blocking" in text


def test_it_is_given_once() -> None:
    warning = IdleWarning()
    warning.due(0.0, lambda: 1, False)
    assert warning.due(11.0, lambda: 2, False) is not None
    assert warning.due(99.0, lambda: 3, True) is None


def test_a_full_queue_is_not_waited_for() -> None:
    text = IdleWarning().due(5.0, lambda: 1, True)
    assert text is not None
    assert "1 message waits, the first for 0.0 s" in text
