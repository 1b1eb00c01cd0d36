"""Folders and files of the user's that only look like those of a recorder."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rezolus.reading import Reading
from rezolus.record.rescue import RescueError, rescue
from rezolus.recording import finish
from rezolus.recording.contents import NotARecordingError
from rezolus.recording.store import create_segment
from tests.synthetic import Walk, catalog


def record(folder: Path, readings: list[Reading]) -> None:
    folder.mkdir(parents=True)
    writer = create_segment(folder, 0, {})
    for reading in readings:
        writer.append(reading)
    writer.close()


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(folder: Path, files: dict[str, str]) -> dict[str, bytes]:
    """Write these; what is in the folder then."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return everything(folder)


@pytest.mark.parametrize(
    "files",
    [
        {"2025/may/a.jpg": "a picture"},
        {"2025/a.jpg": "a picture", "private/b.txt": "text"},
        {"2025/body": "of a letter"},
        {"2025/index": "of a book; many pages"},
        {"2025/raw": "meat"},
        {"2025/entries": "for a prize"},
        {"2025/1.segment/x": "a folder of that name"},
        {"body": "of a letter", "sub/x": "y"},
        {"index": "of a book", "raw": "meat"},
    ],
)
def test_the_users_own_folders_are_refused_and_stay_as_they_are(files: dict[str, str], tmp_path: Path) -> None:
    before = put(tmp_path / "photos", files)
    for path in (tmp_path / "photos", *(tmp_path / "photos").iterdir()):
        if path.is_dir():
            with pytest.raises(RescueError, match="nothing to recover"):
                rescue(path, None)
    assert everything(tmp_path) == {f"photos/{name}": text for name, text in before.items()}


def test_other_folders_beside_a_recording_stay(tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(3))
    work = tmp_path / "run.parquet.recording"
    mine = put(work, {"mine/notes": "text", "2025/notes": "text"})
    record(work / "7", readings)
    left, recovered = rescue(work, None)
    assert left.problem == f"{work / '2025'}: is no folder of a recorder: it has 'notes' in it; nothing was done to it"
    assert (Path(recovered.file).name, recovered.rows) == ("run.recovered-7.parquet", 3)
    assert everything(work) == mine
    assert not (work / "7").exists()


def test_a_recording_with_something_of_the_users_in_it_is_not_touched(tmp_path: Path) -> None:
    folder = tmp_path / "run.parquet.recording" / "7"
    record(folder, list(Walk(catalog(cgroups=1)).run(3)))
    before = put(folder, {"notes": "text"})
    with pytest.raises(NotARecordingError, match="it has 'notes' in it; nothing was done to it"):
        finish.finish(folder, tmp_path / "out.parquet")
    (folder / "link").symlink_to(folder / "notes")
    (folder / "notes").rename(folder / "body")
    with pytest.raises(NotARecordingError, match="it has 'link' in it"):
        finish.finish(folder, tmp_path / "out.parquet")
    assert sorted(everything(folder).values()) == sorted(before.values())


def test_what_is_called_body_and_is_none_is_kept_under_another_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "7"
    record(folder, list(Walk(catalog(cgroups=1)).run(3)))
    (folder / "body").write_text("of a letter")
    (folder / "body.damaged").write_text("of another")
    assert finish.finish(folder, tmp_path / "out.parquet") == 3
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == 3
    assert everything(folder) == {"body-2.damaged": b"of a letter", "body.damaged": b"of another"}
    said = capsys.readouterr().err
    assert said == f"error: {folder}/body: does not begin as the body of a recording; kept as {folder}/body-2.damaged\n"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"00000000.segment": b""},
        {"raw": b"", "raw.ends": b""},
        {"body": b"PAR1", "index": b""},
    ],
)
def test_a_folder_of_a_recorder_with_nothing_in_it_goes(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    for name, content in files.items():
        (tmp_path / "7" / name).write_bytes(content)
    assert finish.finish(tmp_path / "7", tmp_path / "out") == 0
    assert list(tmp_path.iterdir()) == []


def test_a_recordings_folder_needs_its_name(tmp_path: Path) -> None:
    record(tmp_path / "copy", list(Walk(catalog(cgroups=1)).run(3)))
    finish.absorb(tmp_path / "copy", 0)
    record_more = create_segment(tmp_path / "copy", 1, {})
    record_more.close()
    before = everything(tmp_path)
    with pytest.raises(RescueError, match="called after the start in nanoseconds"):
        rescue(tmp_path / "copy", None)
    assert everything(tmp_path) == before
    (tmp_path / "copy").rename(tmp_path / "8")
    (outcome,) = rescue(tmp_path / "8", tmp_path / "out.parquet")
    assert outcome.rows == 3
