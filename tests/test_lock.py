"""Writers of one path wait for each other, in threads and processes, and a dead one holds nobody up."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from eetoolkit_runtime.errors import BundleError
from eetoolkit_runtime.files import lock
from eetoolkit_runtime.files.lock import alone

COUNT = """
    import sys
    from pathlib import Path
    from eetoolkit_runtime.files.lock import alone

    target, number = Path(sys.argv[1]), Path(sys.argv[2])
    for _ in range(int(sys.argv[3])):
        with alone(target):
            value = int(number.read_text())
            number.write_text(str(value + 1))
"""
DIE = """
    import os, sys
    from pathlib import Path
    from eetoolkit_runtime.files.lock import alone

    with alone(Path(sys.argv[1])):
        print("inside", flush=True)
        sys.stdin.read()
        os._exit(9)
"""


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_processes_that_read_and_write_lose_nothing(tmp_path: Path) -> None:
    number = tmp_path / "number"
    number.write_text("0")
    writers = [python(COUNT, tmp_path / "b.ee", number, 50) for _ in range(4)]
    for writer in writers:
        writer.communicate("", 60)
    assert [writer.returncode for writer in writers] == [0] * 4
    assert number.read_text() == "200"
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


def test_threads_that_read_and_write_lose_nothing(tmp_path: Path) -> None:
    number = [0]

    def count() -> None:
        for _ in range(50):
            with alone(tmp_path / "b.ee"):
                value = number[0]
                time.sleep(0)
                number[0] = value + 1

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert number == [400]
    assert not list(tmp_path.iterdir())


def test_who_has_it_may_have_it_again(tmp_path: Path) -> None:
    with alone(tmp_path / "b.ee"), alone(tmp_path / "b.ee"):
        assert [path.name for path in tmp_path.iterdir()] == [".b.ee.lock"]
    assert not list(tmp_path.iterdir())


def test_links_to_one_place_are_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_WAIT_S", 0.05)
    (tmp_path / "b.ee").mkdir()
    (tmp_path / "link.ee").symlink_to(tmp_path / "b.ee")
    writer = python(DIE, tmp_path / "link.ee")
    assert writer.stdout is not None
    assert writer.stdout.readline() == "inside\n"
    busy = r"b\.ee is being written by another process for 0 s \(.*\.lock is locked\)"
    with pytest.raises(BundleError, match=busy), alone(tmp_path / "b.ee"):
        pass
    writer.communicate("", 60)


def test_a_lock_of_a_dead_process_does_not_block(tmp_path: Path) -> None:
    writer = python(DIE, tmp_path / "b.ee")
    assert writer.stdout is not None
    assert writer.stdout.readline() == "inside\n"
    writer.communicate("", 60)
    assert writer.returncode == 9
    assert [path.name for path in tmp_path.iterdir()] == [".b.ee.lock"]
    with alone(tmp_path / "b.ee"):
        pass
    assert not list(tmp_path.iterdir())


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), alone(tmp_path / "b.ee"):
        _ = 1 / 0
    with alone(tmp_path / "b.ee"):
        pass


def test_a_place_where_no_file_can_be_made_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"^cannot write .*b\.ee: "), alone(tmp_path / "gone" / "b.ee"):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_does_not_think_that_it_has_its_parents_lock(tmp_path: Path) -> None:
    code = """
        import os, sys
        from pathlib import Path
        from eetoolkit_runtime.files import lock
        from eetoolkit_runtime.errors import BundleError

        lock._WAIT_S = 0.05
        with lock.alone(Path(sys.argv[1])):
            child = os.fork()
            if child == 0:
                try:
                    with lock.alone(Path(sys.argv[1])):
                        os._exit(1)
                except BundleError:
                    os._exit(7)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.exit(status)
    """
    writer = python(code, tmp_path / "b.ee")
    writer.communicate("", 60)
    assert writer.returncode == 7


def test_a_lock_file_of_another_user_is_locked_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".b.lock"
    file.touch()
    real = os.open

    def denied(path: str, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", denied)
    with alone(tmp_path / "b"):
        assert file.exists()
    assert not file.exists()


def test_an_interrupt_while_it_is_locked_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = lock._lock

    def interrupted(handle: int) -> None:
        real(handle)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lock, "_lock", interrupted)
        with pytest.raises(KeyboardInterrupt), alone(tmp_path / "b"):
            pass
    monkeypatch.setattr(lock, "_WAIT_S", 0.2)
    with alone(tmp_path / "b"):
        pass
