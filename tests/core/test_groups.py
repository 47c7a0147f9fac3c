"""What task groups wrapped comes out as it was."""

from __future__ import annotations

import pytest

from rtsync.core import bare_errors, leaves, sole

ERROR = KeyError("what happened")


def test_the_only_error_of_nested_groups_is_found() -> None:
    assert sole(ExceptionGroup("outer", [ExceptionGroup("inner", [ERROR])])) is ERROR
    assert sole(ERROR) is ERROR


def test_several_errors_stay_together() -> None:
    group = ExceptionGroup("both", [ERROR, ValueError()])
    assert sole(group) is group
    assert sole(ExceptionGroup("outer", [group])) is group


def test_leaves_are_what_is_no_group() -> None:
    other = ValueError()
    assert leaves(ExceptionGroup("outer", [ExceptionGroup("inner", [ERROR]), other])) == [ERROR, other]
    assert leaves(ERROR) == [ERROR]


def test_bare_errors_lets_the_only_error_out_with_its_cause() -> None:
    cause = OSError("why")
    error = KeyError("what")
    error.__cause__ = cause
    with pytest.raises(KeyError) as caught, bare_errors():
        raise ExceptionGroup("group", [error])
    assert caught.value is error
    assert caught.value.__cause__ is cause


def test_bare_errors_passes_everything_else() -> None:
    with pytest.raises(ExceptionGroup), bare_errors():
        raise ExceptionGroup("both", [ERROR, ValueError()])
    with pytest.raises(ZeroDivisionError), bare_errors():
        raise ZeroDivisionError
    with bare_errors():
        pass
