"""Outputs appear together or not at all, and nothing is lost that was there."""

import os
import sys
import threading
from pathlib import Path

import pytest

from XViewSynthLib import outputs as module
from XViewSynthLib.errors import InputError
from XViewSynthLib.outputs import Outputs, remove_staging_folders, staging_folder


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

    def test_replaces_when_told_to(self, tmp_path):
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

    def test_are_replaced_as_a_whole_when_told_to(self, write, tmp_path):
        write("old")
        (tmp_path / "folder" / "b.x").write_text("old")
        write(overwrite=True)
        assert content(tmp_path) == {"folder/a.x": "new"}
        assert os.listdir(tmp_path) == ["folder"]

    def test_are_kept_unless_told_to(self, write, tmp_path):
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

    def test_a_missing_folder_is_told(self, tmp_path):
        with pytest.raises(InputError, match="none does not exist: create it first"):
            write_all([tmp_path / "none" / "a.txt"])

    def test_a_place_below_a_file_is_told(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="file does not exist: create it first"):
            write_all([tmp_path / "file" / "a.txt"])

    @pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that even the system's owner cannot write to")
    def test_an_unwritable_folder_is_told(self):
        with pytest.raises(InputError, match=r"Cannot write /proc/a.txt: .* Choose another place"):
            write_all(["/proc/a.txt"])

    @pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
    def test_an_impossible_name_is_told(self, tmp_path, name):
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

    def test_can_be_removed_by_another_thread(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "_committing", threading.Lock())
        with Outputs() as outputs:
            outputs.add(tmp_path / "a.txt").write_text("new")
            killer = threading.Thread(target=remove_staging_folders)
            killer.start()
            killer.join()
            assert os.listdir(tmp_path) == []

    def test_a_commit_that_has_begun_is_waited_for(self, tmp_path, monkeypatch):
        lock = threading.Lock()
        monkeypatch.setattr(module, "_committing", lock)
        with staging_folder(tmp_path) as folder:
            lock.acquire()
            killer = threading.Thread(target=remove_staging_folders)
            killer.start()
            killer.join(0.1)
            assert folder.exists()
            lock.release()
            killer.join()
            assert not folder.exists()
