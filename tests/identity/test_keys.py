"""Private files: modes under any umask, atomic writes, and secrets that do not show."""

import os
import pickle
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from masche.identity import files, keys
from masche.identity.files import UnsafeFileError
from masche.identity.keys import Secret


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_and_folders_are_private_under_umask_zero(tmp_path: Path, open_umask: None) -> None:
    folder = tmp_path / "a" / "b"
    files.private_folder(folder)
    files.write_private(folder / "k", b"one")
    assert mode(folder) == mode(folder.parent) == 0o700
    assert mode(folder / "k") == 0o600


def test_writing_again_replaces_the_whole_file_and_leaves_no_other(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    files.write_private(tmp_path / "k", b"a long first content")
    files.write_private(tmp_path / "k", b"short")
    assert keys.read_secret(tmp_path / "k").reveal() == b"short"
    assert [p.name for p in tmp_path.iterdir()] == ["k"]


def test_a_failed_write_leaves_the_old_content_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_private(tmp_path / "k", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_private(tmp_path / "k", b"new")
    assert (tmp_path / "k").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["k"]


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o601, 0o666])
def test_a_key_that_others_can_use_is_refused(tmp_path: Path, bits: int) -> None:
    files.write_private(tmp_path / "k", b"x")
    (tmp_path / "k").chmod(bits)
    with pytest.raises(UnsafeFileError, match="chmod go="):
        keys.read_secret(tmp_path / "k")


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    files.write_private(tmp_path / "k", b"x")
    (tmp_path / "link").symlink_to(tmp_path / "k")
    with pytest.raises(OSError, match="symbolic links"):
        keys.read_secret(tmp_path / "link")
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    (tmp_path / "folder-link").symlink_to(folder)
    with pytest.raises(UnsafeFileError):
        files.private_folder(tmp_path / "folder-link")


def test_writing_over_a_symlink_replaces_the_link_and_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "k").symlink_to(tmp_path / "target")
    files.write_private(tmp_path / "k", b"key")
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert not (tmp_path / "k").is_symlink()


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with pytest.raises(UnsafeFileError):
        files.private_folder(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_somebody_else_is_refused(tmp_path: Path) -> None:
    files.write_private(tmp_path / "k", b"x")
    os.chown(tmp_path / "k", 12345, 12345)
    with pytest.raises(UnsafeFileError, match="12345"):
        keys.read_secret(tmp_path / "k")


def test_a_secret_does_not_show() -> None:
    secret = Secret(b"hunter2")
    assert repr(secret) == str(secret) == f"{secret}" == "Secret(...)"
    assert repr([secret]) == "[Secret(...)]"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert secret == Secret(b"hunter2")
    assert secret != Secret(b"hunter3")
    assert secret != b"hunter2"


def test_a_request_proves_its_key_and_asks_for_nothing() -> None:
    key = keys.generate()
    request = x509.load_der_x509_csr(keys.signing_request(key))
    assert request.is_signature_valid
    assert request.public_key() == key.public_key()
    assert not list(request.extensions)
    assert not list(request.subject)
    assert keys.load_private(keys.private_pem(key)).private_numbers() == key.private_numbers()
