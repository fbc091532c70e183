"""The user's own files: a site is written into a folder of its own, and nothing that it did not write is touched."""

import contextlib
import hashlib
import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mi_superposition.site.folder as folder_module
from mi_superposition.cli import main
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import PARTIAL
from mi_superposition.runs import check_place
from mi_superposition.site.folder import LIST, REPORT, RUN, UNITS, SiteFolder, opened_site


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written(folder, files, kind=RUN):
    site = SiteFolder(folder, kind)
    site.write_all((name, text.encode()) for name, text in files.items())
    return site


OWN_SITE = {
    "index.html": "<h1>mine</h1>",
    "assets/style.css": "body { color: teal }",
    "manifest.json": '{"name": "my web app", "sections": {}, "status": "finished", "made_from": 1}',
    "neurons/my-article.html": "<p>years of work",
    "page/index.html": "also mine",
}


@pytest.mark.parametrize("more", [{}, {LIST: ""}, {LIST: '{"site'}], ids=["plain", "empty list", "list cut off"])
@pytest.mark.parametrize("command", ["report", "neurons pages", "page", "neurons scan"])
def test_a_site_of_the_users_own_is_left_as_it_is(command, more, shop, tmp_path, capsys):
    """It has files with our names, and even a list of ours that says nothing."""
    site = tmp_path / "mysite"
    for name, text in (OWN_SITE | more).items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    before = tree(site)
    assert main(shop.request(command, site)) in (1, 2)
    assert len(capsys.readouterr().err.splitlines()) == 1
    after = tree(site)
    # What a killed process may leave of our list is not of anybody's work.
    assert {name: after[name] for name in OWN_SITE} == {name: before[name] for name in OWN_SITE}
    assert after.keys() == before.keys()


def test_files_beside_a_site_stay_and_are_not_written_over(tmp_path):
    site = written(tmp_path / "s", {"index.html": "a", "neurons/L0N1.html": "b"})
    (tmp_path / "s" / "neurons" / "mine.html").write_text("mine")
    (tmp_path / "s" / "L0.html").write_text("mine too")
    site = SiteFolder(tmp_path / "s", RUN)
    site.remove(["neurons/mine.html", "L0.html", "neurons", ".", "..", "neurons/L0N1.html", "/etc/hostname"])
    assert tree(tmp_path / "s").keys() == {"index.html", "neurons/mine.html", "L0.html", LIST}
    with pytest.raises(RequestError, match=r"L0\.html' was not written by this package: move it away"):
        site.write("L0.html", b"ours")
    assert (tmp_path / "s" / "L0.html").read_text() == "mine too"


def test_a_page_that_was_changed_is_neither_removed_nor_written_over(tmp_path):
    site = written(tmp_path / "s", {"a.html": "as written"})
    (tmp_path / "s" / "a.html").write_text("as the user likes it")
    site.remove(["a.html"])
    with pytest.raises(RequestError, match=r"a\.html' was changed since it was written"):
        written(tmp_path / "s", {"a.html": "new"})
    assert (tmp_path / "s" / "a.html").read_text() == "as the user likes it"
    # As it was written before, it may be.
    (tmp_path / "s" / "a.html").write_text("as written")
    written(tmp_path / "s", {"a.html": "new"})
    assert (tmp_path / "s" / "a.html").read_text() == "new"


@pytest.mark.parametrize("linked", ["neurons", "a.html", "deep/er"])
def test_nothing_is_written_or_removed_through_a_link(linked, tmp_path):
    outside = tmp_path / "outside"
    files = {"neurons/x.html": "ours", "a.html": "ours", "deep/er/x.html": "ours"}
    site = written(tmp_path / "s", files)
    address = next(name for name in files if name == linked or name.startswith(f"{linked}/"))
    (tmp_path / "s" / linked).rename(outside)
    (tmp_path / "s" / linked).symlink_to(outside)
    before = tree(tmp_path)
    site.remove(list(files))
    with pytest.raises(RequestError, match="is, or is behind, a link"):
        written(tmp_path / "s", {address: "new"})
    assert (outside / "x.html" if outside.is_dir() else outside).read_text() == "ours"
    assert before.keys() - tree(tmp_path).keys() <= {f"s/{name}" for name in files}


@settings(max_examples=60, deadline=None)
@given(
    addresses=st.lists(
        st.one_of(
            st.sampled_from(
                ["../mine.txt", "/tmp/x", "a/../../mine.txt", "", ".", "a//b", "./a", "a/.", "mine.txt", "..", "\x00"]
            ),
            st.text(max_size=12),
        ),
        max_size=4,
    ),
    lie=st.booleans(),
)
def test_a_list_from_outside_harms_nothing(addresses, lie, tmp_path_factory):
    """Whatever addresses it names, with the right hash or a wrong one: what lies elsewhere stays."""
    root = tmp_path_factory.mktemp("listed")
    (root / "mine.txt").write_text("mine")
    (root / "s").mkdir()
    digest = hashlib.sha256(b"other" if lie else b"mine").hexdigest()
    lines = [{"site": RUN, "format": 1}, *([address, digest] for address in addresses)]
    (root / "s" / LIST).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with contextlib.suppress(WorkError):
        site = SiteFolder(root / "s", RUN)
        site.remove([*addresses, "../mine.txt", "mine.txt"])
        site.clear_partial()
    assert (root / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        '["a"]',
        '["a", 3]',
        '["a", "' + "0" * 63 + '"]',
        '{"a": 1}',
        "[" * 100_000,
        "null",
        '"x"',
        "\udcff",
    ],
)
def test_a_damaged_list_is_one_line(line, tmp_path):
    written(tmp_path / "s", {"a.html": "a"})
    with (tmp_path / "s" / LIST).open("a", errors="surrogateescape") as file:
        file.write(line + "\n")
    with pytest.raises(WorkError, match=r"line 3' is damaged: ") as error:
        SiteFolder(tmp_path / "s", RUN)
    assert "\n" not in str(error.value)


def test_each_kind_of_site_knows_itself(tmp_path):
    written(tmp_path / "s", {"index.html": "a"}, REPORT)
    for kind, said in (
        (UNITS, "holds a report, not pages of neurons"),
        (RUN, "holds a report, not the pages of a run"),
    ):
        with pytest.raises(RequestError, match=said):
            SiteFolder(tmp_path / "s", kind)
    assert list(SiteFolder(tmp_path / "s", REPORT).listed()) == ["index.html"]


def test_a_line_that_was_cut_off_is_forgotten_and_what_was_half_written_goes(tmp_path):
    written(tmp_path / "s", {"a.html": "a", "b.html": "b"})
    with (tmp_path / "s" / LIST).open("a") as file:
        file.write('["c.html", "01')
    (tmp_path / "s" / f"b.html{PARTIAL}").write_text("half")
    (tmp_path / "s" / f"mine{PARTIAL}").write_text("whoever calls a file so")
    site = SiteFolder(tmp_path / "s", RUN)
    site.clear_partial()
    assert list(site.listed()) == ["a.html", "b.html"]
    site.write("c.html", b"c")
    assert [json.loads(line)[0] for line in (tmp_path / "s" / LIST).read_text().splitlines()[1:]] == [
        "a.html",
        "b.html",
        "c.html",
    ]
    assert not (tmp_path / "s" / f"b.html{PARTIAL}").exists()
    assert (tmp_path / "s" / f"mine{PARTIAL}").exists()


def test_the_pages_of_a_run_of_version_01_are_written_over(shop, tmp_path):
    run = tmp_path / "run"
    assert main(shop.request("toy train", run)) == 0
    (run / "page" / LIST).unlink()
    before = tree(run / "page")
    assert main(["page", str(run), "--out", str(run / "page")]) == 0
    assert {name: text for name, text in tree(run / "page").items() if name != LIST} == before
    # The same folder anywhere else is nobody knows whose.
    (run / "page" / LIST).unlink()
    shutil.copytree(run / "page", tmp_path / "page")
    assert main(["page", str(run), "--out", str(tmp_path / "page")]) == 2


def test_places_that_hold_other_things_of_the_user(tmp_path, monkeypatch, shop, capsys):
    home, work = tmp_path / "home", tmp_path / "home" / "work"
    work.mkdir(parents=True)
    (tmp_path / "checkout" / ".git").mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    for place, said in (
        (".", "is the working directory, or holds it"),
        ("..", "is the working directory, or holds it"),
        ("/", "is the working directory, or holds it"),
        (str(tmp_path / "checkout"), "is a git checkout"),
    ):
        for command in ("toy train", "report", "neurons pages"):
            assert main(shop.request(command, place)) == 2
            error = capsys.readouterr().err
            assert said in error or "give a folder that has a name" in error, error
            assert len(error.splitlines()) == 1
    (tmp_path / "checkout" / "file").write_text("a file")
    for command in ("toy train", "report", "neurons pages", "sae train"):
        assert main(shop.request(command, tmp_path / "checkout" / "file" / "run")) == 2
        assert "which is a file: give another place" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="is the working directory, or holds it|is the home folder"):
        check_place(home)
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("home", "checkout")] == []
    monkeypatch.delenv("HOME")
    check_place(tmp_path / "anywhere")


def test_a_first_rewrite_of_the_pages_of_an_old_run_may_be_cut_off(shop, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert main(shop.request("toy train", run)) == 0
    (run / "page" / LIST).unlink()
    expected = tree(run / "page")
    real, written_files = folder_module.write_file, []

    def cut_off(path, content):
        if len(written_files) == 3:
            raise KeyboardInterrupt
        written_files.append(path)
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "write_file", cut_off)
        assert main(["page", str(run), "--out", str(run / "page")]) == 130
    assert main(["page", str(run), "--out", str(run / "page")]) == 0
    assert {name: text for name, text in tree(run / "page").items() if name != LIST} == expected


@pytest.mark.parametrize("name", [f"index.html{PARTIAL}", LIST, f"{LIST}{PARTIAL}"])
def test_no_link_under_a_name_of_ours_leads_out_of_the_folder(name, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    written(tmp_path / "s", {"index.html": "a"})
    (tmp_path / "s" / name).unlink(missing_ok=True)
    (tmp_path / "s" / name).symlink_to(tmp_path / "thesis.txt")
    with contextlib.suppress(RequestError, WorkError):
        site = SiteFolder(tmp_path / "s", RUN)
        site.clear_partial()
        site.write("index.html", b"b")
        site.write("other.html", b"c")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("address", ["../x.html", "/x.html", "a//b", "", "a/../b"])
def test_an_address_outside_is_refused(address, tmp_path):
    site = SiteFolder(tmp_path / "s", RUN)
    with pytest.raises(RequestError, match="is no address in a site"):
        site.write(address, b"x")


def test_two_processes_do_not_write_one_site(tmp_path):
    second = opened_site(tmp_path / "s", RUN)
    with opened_site(tmp_path / "s", RUN), pytest.raises(RequestError, match="is being written by another process"):
        second.__enter__()
    assert not list((tmp_path / "s").iterdir())
