"""Files that hold secrets."""

from pathlib import Path

import pytest

from krebit_proxy.config.secrets import exposure, file_problem, read_secret


def holding(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("content", [b"s3cret", b"s3cret\n", b"s3cret\r\n"])
def test_the_end_of_the_line_is_not_part_of_the_secret(tmp_path: Path, content: bytes) -> None:
    assert read_secret(holding(tmp_path, content)) == "s3cret"


def test_spaces_are_part_of_it(tmp_path: Path) -> None:
    assert read_secret(holding(tmp_path, b" s3cret \n")) == " s3cret "


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        (b"\n", 0o600, "is empty"),
        (b"\xff\xfe", 0o600, "is not text"),
        (b"s3cret", 0o602, "can be changed by every user"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_its_content_is_not(
    tmp_path: Path, content: bytes, mode: int, problem: str
) -> None:
    path = holding(tmp_path, content, mode)
    with pytest.raises(ValueError, match=problem) as refused:
        read_secret(path)

    assert str(path) in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_link_is_followed_and_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(holding(tmp_path, b"s3cret"))

    assert read_secret(tmp_path / "link") == "s3cret"
    assert file_problem(tmp_path) == f"{tmp_path} is not a file"
    assert file_problem(tmp_path / "missing") == f"{tmp_path / 'missing'} cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("mode", "said"),
    [(0o600, None), (0o640, None), (0o644, "can be read by every user"), (0o660, "can be changed by its group")],
)
def test_a_mode_that_lets_others_in_is_told(tmp_path: Path, mode: int, said: str | None) -> None:
    found = exposure(holding(tmp_path, b"s3cret", mode))

    assert found is None if said is None else said in (found or "")


def test_what_a_container_engine_mounts_may_be_open(tmp_path: Path) -> None:
    assert exposure(holding(tmp_path, b"s3cret", 0o644), mounts=(tmp_path,)) is None
