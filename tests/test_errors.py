"""What errors say beside what is wrong."""

from __future__ import annotations

import pytest

from eetoolkit_runtime.errors import InputError, RunError, did_you_mean, running


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("exprot", ("export", "inspect"), "; did you mean 'export'?"),
        ("EXIT1", ("exit0", "exit1"), "; did you mean 'exit1'?"),
        ("exit9", ("exit0", "exit1"), ""),
        ("laod", ("load", "save"), "; did you mean 'load'?"),
        ("zebra", ("exit0", "exit1"), ""),
        ("exit0", (), ""),
    ],
)
def test_the_one_known_name_that_is_closest_is_offered(name: str, known: tuple[str, ...], said: str) -> None:
    assert did_you_mean(name, known) == said


def test_what_another_library_raises_is_named_and_ours_is_left_alone() -> None:
    def fail(error: Exception) -> None:
        with running("segment 'a'"):
            raise error

    with pytest.raises(RunError, match=r"^segment 'a': first$"):
        fail(ValueError("\n  first\nsecond"))
    with pytest.raises(RunError, match=r"^segment 'a': KeyError$"):
        fail(KeyError())
    with pytest.raises(InputError, match=r"^ours$"):
        fail(InputError("ours"))
