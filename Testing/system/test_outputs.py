"""Outputs appear together or not at all, and nothing is lost that was there."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from XViewSynthLib.errors import InputError
from XViewSynthLib.system import locks
from XViewSynthLib.system import staging as module
from XViewSynthLib.system.outputs import Outputs
from XViewSynthLib.system.staging import output_folder, remove_left_folders, staging_folder

LIBRARY = str(Path(module.__file__).parents[2])

# What a process does before the test kills it, or lets it go on.
HALF_WRITTEN = """
with Outputs() as outputs:
    outputs.add("a.txt").write_text("half")
    wait()
"""
BETWEEN_TWO_FOLDERS = """
replace = os.replace
def stop_before_the_new_one(source, target):
    if Path(source).parent.name == "new":
        wait()
    replace(source, target)
with Outputs(overwrite=True) as outputs:
    (outputs.add_folder("folder", "*.x") / "a.x").write_text("new")
    os.replace = stop_before_the_new_one
    outputs.commit()
"""
JUST_MADE = """
staging._lock = lambda folder: wait()
with staging_folder(Path(".")):
    pass
"""
LEAVES_AT_ONCE = """
with Outputs() as written:
    written.add("a.txt").write_text("half")
    staging.remove_staging_folders()
    os._exit(3)
"""
# A thread is slow at something that the end of the process must not cut short.
LEAVES_DURING_A_COMMIT = """
slow_rename = os.link
def rename(source, target):
    began.set()
    time.sleep(0.3)
    slow_rename(source, target)
os.link = rename
def write():
    with Outputs() as written:
        for name in ("a.txt", "b.txt"):
            written.add(name).write_text("new")
        written.commit()
leave_during(write)
"""
LEAVES_DURING_A_REMOVAL = """
clear = staging._clear
def slowly(folder, lock):
    began.set()
    time.sleep(0.3)
    clear(folder, lock)
staging._clear = slowly
def write():
    with Outputs() as written:
        written.add("a.txt").write_text("half")
leave_during(write)
"""
LEAVES_A_NEW_FOLDER = """
with staging.output_folder(Path("a")):
    staging.remove_staging_folders()
    os._exit(3)
"""
WRITES_AGAIN_AND_AGAIN = """
for number in range(60):
    with Outputs(overwrite=True) as written:
        written.add(f"{sys.argv[1]}.txt").write_text(str(number))
        written.commit()
"""


def process_that(does: str, folder: Path, *arguments: str) -> subprocess.Popen:
    """Start a process that works in a folder; `wait` in it says so, and lasts until its input is closed."""
    program = f"""
import os, sys, threading, time
from pathlib import Path
from XViewSynthLib.system import staging
from XViewSynthLib.system.outputs import Outputs
from XViewSynthLib.system.staging import staging_folder
def wait():
    print("waiting", flush=True)
    sys.stdin.read()
began = threading.Event()
def leave_during(work):
    threading.Thread(target=work, daemon=True).start()
    began.wait()
    staging.remove_staging_folders()
    os._exit(3)
{does}
"""
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": LIBRARY},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def waiting_process(does: str, folder: Path):
    """A process that has come to its `wait`."""
    with process_that(does, folder) as process:
        assert process.stdout.readline() == "waiting\n"
        yield process


def kill_one_that(does: str, folder: Path) -> None:
    """Let a process come to its `wait`, and kill it there."""
    with waiting_process(does, folder) as process:
        process.kill()


def write_all(paths, overwrite=False, text="new"):
    with Outputs(overwrite) as outputs:
        for staged in [outputs.add(path) for path in paths]:
            staged.write_text(text)
        outputs.commit()


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


class TestCommit:
    def test_gives_every_output_its_name(self, tmp_path):
        write_all([tmp_path / "a.txt", tmp_path / "b.json"])
        assert content(tmp_path) == {"a.txt": "new", "b.json": "new"}

    def test_leaves_no_staging_folder(self, tmp_path):
        write_all([tmp_path / "a.txt"])
        assert os.listdir(tmp_path) == ["a.txt"]

    def test_before_it_nothing_is_there(self, tmp_path):
        with Outputs() as outputs:
            outputs.add(tmp_path / "a.txt").write_text("new")
            assert not (tmp_path / "a.txt").exists()

    def test_without_it_nothing_remains(self, tmp_path):
        with Outputs() as outputs:
            outputs.add(tmp_path / "a.txt").write_text("new")
        assert os.listdir(tmp_path) == []

    def test_takes_companion_files_along(self, tmp_path):
        with Outputs() as outputs:
            staged = outputs.add(tmp_path / "a.mhd")
            staged.write_text("header")
            staged.with_suffix(".raw").write_text("voxels")
            outputs.commit()
        assert content(tmp_path) == {"a.mhd": "header", "a.raw": "voxels"}

    def test_keeps_name_and_suffix_until_then(self, tmp_path):
        with Outputs() as outputs:
            assert outputs.add(tmp_path / "scan.nii.gz").name == "scan.nii.gz"

    def test_replaces_on_request(self, tmp_path):
        (tmp_path / "a.txt").write_text("old")
        write_all([tmp_path / "a.txt"], overwrite=True)
        assert content(tmp_path) == {"a.txt": "new"}

    def test_refuses_a_file_that_appeared_meanwhile_and_takes_back_the_others(self, tmp_path):
        with Outputs() as outputs:
            for name in ("a.txt", "b.txt"):
                outputs.add(tmp_path / name).write_text("new")
            (tmp_path / "b.txt").write_text("another's")
            with pytest.raises(InputError, match=r"b.txt exists already"):
                outputs.commit()
        assert content(tmp_path) == {"b.txt": "another's"}

    def test_refuses_a_companion_that_exists(self, tmp_path):
        (tmp_path / "a.raw").write_text("another's")
        with Outputs() as outputs:
            staged = outputs.add(tmp_path / "a.mhd")
            staged.write_text("header")
            staged.with_suffix(".raw").write_text("voxels")
            with pytest.raises(InputError, match=r"a.raw exists already"):
                outputs.commit()
        assert content(tmp_path) == {"a.raw": "another's"}

    @pytest.mark.parametrize("links_work", [True, False])
    def test_brings_back_what_was_there_when_a_later_file_fails(self, tmp_path, monkeypatch, links_work):
        replace = os.replace

        def fail_for_b(source, target):
            if Path(target) == tmp_path / "b.txt" and Path(source).parent.name == "new":
                raise OSError(5, "Input/output error")
            replace(source, target)

        def no_links(*_, **__):
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(module.os, "replace", fail_for_b)
        if not links_work:
            monkeypatch.setattr(module.os, "link", no_links)
        for name in ("a.txt", "b.txt"):
            (tmp_path / name).write_text("old")
        with pytest.raises(InputError, match="Input/output error"):
            write_all([tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.txt"], overwrite=True)
        assert content(tmp_path) == {"a.txt": "old", "b.txt": "old"}


class TestFolders:
    """An output that is a folder, of which the files are named "*.x"."""

    @pytest.fixture
    def write(self, tmp_path):
        def write(text="new", overwrite=False):
            with Outputs(overwrite) as outputs:
                (outputs.add_folder(tmp_path / "folder", "*.x") / "a.x").write_text(text)
                outputs.commit()

        return write

    def test_appear_with_their_files(self, write, tmp_path):
        write()
        assert content(tmp_path) == {"folder/a.x": "new"}

    def test_without_commit_nothing_remains(self, tmp_path):
        with Outputs() as outputs:
            (outputs.add_folder(tmp_path / "folder", "*.x") / "a.x").write_text("new")
        assert os.listdir(tmp_path) == []

    def test_are_replaced_as_a_whole_on_request(self, write, tmp_path):
        write("old")
        (tmp_path / "folder" / "b.x").write_text("old")
        write(overwrite=True)
        assert content(tmp_path) == {"folder/a.x": "new"}
        assert os.listdir(tmp_path) == ["folder"]

    def test_are_kept_by_default(self, write, tmp_path):
        write("old")
        with pytest.raises(InputError, match="exists already"):
            write()
        assert content(tmp_path) == {"folder/a.x": "old"}

    @pytest.mark.parametrize("name", ["b.txt", "b.x/c.x"])
    def test_are_never_replaced_with_anything_else_in_them(self, write, tmp_path, name):
        write("old")
        (tmp_path / "folder" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "folder" / name).write_text("precious")
        with pytest.raises(InputError, match="choose another name"):
            write(overwrite=True)
        assert content(tmp_path) == {"folder/a.x": "old", f"folder/{name}": "precious"}

    def test_replace_no_file_and_no_link(self, write, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "folder").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(InputError, match="choose another name"):
            write(overwrite=True)
        (tmp_path / "folder").unlink()
        (tmp_path / "folder").write_text("precious")
        with pytest.raises(InputError, match="choose another name"):
            write(overwrite=True)

    def test_come_back_when_a_later_output_fails(self, write, tmp_path, monkeypatch):
        write("old")
        rename = os.replace

        def fail(old, new):
            if Path(new).name == "late.txt":
                raise OSError(5, "Input/output error")
            rename(old, new)

        monkeypatch.setattr(os, "replace", fail)
        (tmp_path / "late.txt").write_text("old")
        with Outputs(True) as outputs:
            (outputs.add_folder(tmp_path / "folder", "*.x") / "a.x").write_text("new")
            outputs.add(tmp_path / "late.txt").write_text("new")
            with pytest.raises(InputError, match="Input/output error"):
                outputs.commit()
        assert content(tmp_path) == {"folder/a.x": "old", "late.txt": "old"}


class TestDoor:
    def test_an_existing_file_is_refused_and_kept(self, tmp_path):
        (tmp_path / "a.txt").write_text("old")
        with pytest.raises(InputError, match="choose another name or add --overwrite"):
            write_all([tmp_path / "a.txt"])
        assert content(tmp_path) == {"a.txt": "old"}

    def test_a_link_to_nowhere_counts_as_existing(self, tmp_path):
        (tmp_path / "a.txt").symlink_to(tmp_path / "nowhere")
        with pytest.raises(InputError, match="exists already"):
            write_all([tmp_path / "a.txt"])

    def test_the_input_is_never_replaced(self, tmp_path):
        scan = tmp_path / "scan.nrrd"
        scan.write_text("scan")
        (tmp_path / "link.nrrd").symlink_to(scan)
        for name in ("scan.nrrd", "link.nrrd", "../" + tmp_path.name + "/scan.nrrd"):
            with pytest.raises(InputError, match="is the input"), Outputs(True, [scan]) as outputs:
                outputs.add(tmp_path / name)

    def test_two_outputs_need_two_names(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match="named for two outputs"):
            write_all([tmp_path / "a.txt", Path("a.txt")])

    def test_a_folder_is_no_output(self, tmp_path):
        with pytest.raises(InputError, match="is a folder: give the output a file name"):
            write_all([tmp_path])

    @pytest.mark.parametrize("path", ["", ".", "/"])
    def test_a_path_without_a_name_is_no_output(self, path):
        with pytest.raises(InputError, match="give the output a"):
            write_all([path])

    def test_a_missing_folder_is_reported(self, tmp_path):
        with pytest.raises(InputError, match="none does not exist: create it first"):
            write_all([tmp_path / "none" / "a.txt"])

    def test_a_place_below_a_file_is_reported(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="file does not exist: create it first"):
            write_all([tmp_path / "file" / "a.txt"])

    @pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that even the system's owner cannot write to")
    def test_an_unwritable_folder_is_reported(self):
        with pytest.raises(InputError, match=r"Cannot write /proc/a.txt: .* Choose another place"):
            write_all(["/proc/a.txt"])

    @pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
    def test_an_impossible_name_is_reported(self, tmp_path, name):
        with pytest.raises(InputError, match="Cannot write"):
            write_all([tmp_path / name])
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("name", ["Größe 体积.txt", "a" * 250 + ".txt", "with 'quotes' and\ttabs"])
    def test_an_unusual_name_is_fine(self, tmp_path, name):
        write_all([tmp_path / name])
        assert content(tmp_path) == {name: "new"}


class TestMessages:
    def test_name_the_file_the_user_named(self, tmp_path):
        with pytest.raises(InputError) as caught, Outputs() as outputs:
            raise InputError(f"Cannot write {outputs.add(tmp_path / 'a.txt')}: the disk is full.")
        assert str(caught.value) == f"Cannot write {tmp_path / 'a.txt'}: the disk is full."

    def test_other_errors_pass_unchanged(self, tmp_path):
        with pytest.raises(KeyError), Outputs() as outputs:
            raise KeyError(str(outputs.add(tmp_path / "a.txt")))


class TestStagingFolders:
    def test_are_removed_with_what_is_in_them(self, tmp_path):
        with staging_folder(tmp_path) as folder:
            (folder / "part").write_text("half a file")
        assert os.listdir(tmp_path) == []

    def test_go_with_a_process_that_leaves_at_once(self, tmp_path):
        with process_that(LEAVES_AT_ONCE, tmp_path) as process:
            assert process.wait(timeout=600) == 3
        assert os.listdir(tmp_path) == []

    def test_a_commit_that_has_begun_is_waited_for(self, tmp_path):
        with process_that(LEAVES_DURING_A_COMMIT, tmp_path) as process:
            assert process.wait(timeout=600) == 3
        assert content(tmp_path) == {"a.txt": "new", "b.txt": "new"}
        assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]

    def test_a_removal_that_has_begun_is_waited_for(self, tmp_path):
        with process_that(LEAVES_DURING_A_REMOVAL, tmp_path) as process:
            assert process.wait(timeout=600) == 3
        assert os.listdir(tmp_path) == []


class TestFoldersThatWereLeft:
    def test_go_with_the_next_output_in_the_same_place(self, tmp_path):
        kill_one_that(HALF_WRITTEN, tmp_path)
        assert os.listdir(tmp_path) != []
        write_all([tmp_path / "b.txt"])
        assert os.listdir(tmp_path) == ["b.txt"]

    def test_go_with_the_next_staging_folder(self, tmp_path):
        kill_one_that(HALF_WRITTEN, tmp_path)
        with staging_folder(tmp_path):
            pass
        assert os.listdir(tmp_path) == []

    def test_stay_while_their_process_runs(self, tmp_path):
        with waiting_process(HALF_WRITTEN, tmp_path) as process:
            (staging,) = os.listdir(tmp_path)
            write_all([tmp_path / "b.txt"])
            assert sorted(os.listdir(tmp_path)) == [staging, "b.txt"]
            assert (tmp_path / staging / "new" / "a.txt").read_text() == "half"
            process.stdin.close()
            process.wait()
        assert os.listdir(tmp_path) == ["b.txt"]

    def test_of_this_process_stay(self, tmp_path):
        with Outputs() as outputs:
            first = outputs.add(tmp_path / "a.txt")
            first.write_text("new")
            remove_left_folders(tmp_path)
            assert first.exists()

    def test_of_another_computer_stay(self, tmp_path):
        kill_one_that(HALF_WRITTEN, tmp_path)
        (staging,) = os.listdir(tmp_path)
        other = ".xviewsynth-00000000-abcdefgh"
        os.rename(tmp_path / staging, tmp_path / other)
        write_all([tmp_path / "b.txt"])
        assert (tmp_path / other / "new" / "a.txt").exists()
        remove_left_folders(tmp_path, all_computers=True)
        assert os.listdir(tmp_path) == ["b.txt"]

    def test_without_a_lock_go_only_if_empty(self, tmp_path):
        kill_one_that(JUST_MADE, tmp_path)
        kill_one_that(JUST_MADE, tmp_path)
        with_content = tmp_path / os.listdir(tmp_path)[0]
        (with_content / "file").write_text("from where?")
        remove_left_folders(tmp_path)
        assert list(tmp_path.iterdir()) == [with_content]
        remove_left_folders(tmp_path, all_computers=True)
        assert list(tmp_path.iterdir()) == []

    def test_a_process_whose_new_folder_is_taken_for_left_makes_another(self, tmp_path, monkeypatch):
        lock, taken = module._lock, []

        def remove_first(folder):
            if not taken:
                taken.append(folder)
                remove_left_folders(tmp_path)
                assert not folder.exists()
            return lock(folder)

        monkeypatch.setattr(module, "_lock", remove_first)
        write_all([tmp_path / "a.txt"])
        assert taken
        assert os.listdir(tmp_path) == ["a.txt"]

    def test_what_was_moved_away_for_a_new_output_comes_back(self, tmp_path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "a.x").write_text("old")
        kill_one_that(BETWEEN_TWO_FOLDERS, tmp_path)
        assert not (tmp_path / "folder").exists()
        remove_left_folders(tmp_path)
        assert content(tmp_path) == {"folder/a.x": "old"}
        assert os.listdir(tmp_path) == ["folder"]

    def test_processes_at_once_do_not_disturb_each_other(self, tmp_path):
        processes = [process_that(WRITES_AGAIN_AND_AGAIN, tmp_path, str(number)) for number in range(4)]
        for process in processes:
            with process:
                assert process.wait(timeout=600) == 0
        assert content(tmp_path) == {f"{number}.txt": "59" for number in range(4)}
        assert len(os.listdir(tmp_path)) == 4

    def test_links_and_files_of_such_names_stay(self, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / f"{module.staging_prefix()}link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / f"{module.staging_prefix()}file").write_text("mine")
        remove_left_folders(tmp_path, all_computers=True)
        assert len(os.listdir(tmp_path)) == 3

    def test_a_missing_place_is_no_trouble(self, tmp_path):
        remove_left_folders(tmp_path / "none")


class TestOutputFolder:
    def test_goes_again_where_nothing_came_into_it(self, tmp_path):
        with pytest.raises(KeyError), output_folder(tmp_path / "a" / "b", parents=True):
            raise KeyError
        assert os.listdir(tmp_path) == []

    def test_stays_with_what_is_in_it(self, tmp_path):
        with output_folder(tmp_path / "a"):
            write_all([tmp_path / "a" / "a.txt"])
        assert content(tmp_path) == {"a/a.txt": "new"}

    def test_one_that_was_there_stays(self, tmp_path):
        (tmp_path / "a").mkdir()
        with output_folder(tmp_path / "a"):
            pass
        assert os.listdir(tmp_path) == ["a"]

    def test_goes_with_a_process_that_leaves_at_once(self, tmp_path):
        with process_that(LEAVES_A_NEW_FOLDER, tmp_path) as process:
            assert process.wait(timeout=600) == 3
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("name", ["file", "file/below", "none/below", "a" * 300, "a\0b"])
    def test_one_that_cannot_be_made_is_one_sentence(self, tmp_path, name):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="Cannot make the folder"), output_folder(tmp_path / name):
            pass


class TestNewNames:
    """A file or folder that appears between the last look and the renaming is never lost."""

    @pytest.fixture
    def appear(self, tmp_path, monkeypatch):
        """Let another's output appear right after it was looked for."""

        def appear(make) -> None:
            lexists = os.path.lexists

            def look(path):
                found = lexists(path)
                if Path(path).parent == tmp_path and not found:
                    monkeypatch.setattr(os.path, "lexists", lexists)
                    make(Path(path))
                return found

            monkeypatch.setattr(os.path, "lexists", look)

        return appear

    def test_a_file(self, tmp_path, appear):
        with Outputs() as outputs:
            outputs.add(tmp_path / "a.txt").write_text("new")
            appear(lambda path: path.write_text("another's"))
            with pytest.raises(InputError, match="exists already"):
                outputs.commit()
        assert content(tmp_path) == {"a.txt": "another's"}

    def test_a_folder(self, tmp_path, appear):
        def make(path):
            path.mkdir()
            (path / "b.x").write_text("another's")

        with Outputs() as outputs:
            (outputs.add_folder(tmp_path / "folder", "*.x") / "a.x").write_text("new")
            appear(make)
            with pytest.raises(InputError, match="exists already"):
                outputs.commit()
        assert content(tmp_path) == {"folder/b.x": "another's"}

    def test_disks_without_links_do(self, tmp_path, monkeypatch):
        def no_links(*_, **__):
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(module.os, "link", no_links)
        write_all([tmp_path / "a.txt"])
        assert content(tmp_path) == {"a.txt": "new"}

    def test_disks_without_locks_do(self, tmp_path, monkeypatch):
        def no_locks(*_):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(locks, "_lock", no_locks)
        write_all([tmp_path / "a.txt"])
        assert os.listdir(tmp_path) == ["a.txt"]
