"""Running notebooks: parameters, execution for real on tiny notebooks, pages, and the committed form."""

import base64
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from brats_cohort.files import DataError
from helpers.cli import main, run
from helpers.cli.run import phantom_folders
from helpers.running import (
    NotebookRun,
    assign,
    check_range,
    execute_notebooks,
    find_notebooks,
    key_figure,
    parse_assignments,
    parse_value,
    read_parameters,
    show_number,
    write_pages,
)
from helpers.workspace import REPOSITORY, open_workspace

OUTPUTS = runpy.run_path(str(REPOSITORY / ".ci" / "outputs.py"))
normalise, update_notebook, WIDGET_VIEW = (OUTPUTS[name] for name in ("normalise", "update_notebook", "WIDGET_VIEW"))
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PARAMETERS = (
    'COHORT = "phantom"  # COHORT="msd" is the decathlon\nOUT = ""  # results\nCASES = 4  # 3 or more\nRATE = 0.5  # 1/s'
)
SHOW = f"""from IPython.display import Image, display
import base64
display(Image(base64.b64decode("{PIXEL}")))"""
VIEW = """import numpy as np
from slice_viewer import SliceViewer
SliceViewer(np.ones((8, 8, 8)), np.eye(4), title="Phantom_7")"""
SAVE = """from helpers.workspace import open_workspace, save_metrics
save_metrics(open_workspace(COHORT, out=OUT), NAME, {"cases": CASES, "rate": RATE}, checkpoint=None);"""


def write_notebook(path: Path, *sources: str, title="# 01 · Tiny", parameters=PARAMETERS) -> Path:
    """A notebook with a title, a parameters cell and cells of code; a source that starts with #! carries the tag behind it."""
    cells = [new_markdown_cell(title), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    for source in sources:
        tags = [source.splitlines()[0].removeprefix("#! ")] if source.startswith("#!") else []
        cells.append(new_code_cell(source, metadata={"tags": tags}))
    notebook = new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def executed_notebook(*outputs) -> nbformat.NotebookNode:
    """A notebook of one code cell with these outputs."""
    return new_notebook(
        cells=[new_markdown_cell("# 01 · Tiny"), new_code_cell("f()", execution_count=1, outputs=list(outputs))]
    )


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Three notebooks of which the second fails, and an extra, run once through the command line."""
    folder = tmp_path_factory.mktemp("series")
    good = write_notebook(folder / "01_good.ipynb", f"#! key-figure\n{SHOW}", SAVE.replace("NAME", "'01_good'"), "print(CASES)")
    bad = write_notebook(
        folder / "03_bad.ipynb", "x = 1", "# why\ny = 1 / 0  # sum\nz = 2", "print('never')", title="# 03 · Bad"
    )
    late = write_notebook(folder / "04_late.ipynb", "print('never')", title="# 04 · Late")
    sizes = f"{PARAMETERS}\nSIZES = (1, 2)  # any"
    extra = write_notebook(folder / "extras" / "aside.ipynb", "print(sum(SIZES))", VIEW, title="# Aside", parameters=sizes)
    out = folder / "out"
    words = ["run", *map(str, (good, bad, late, extra)), "--out", str(out), "-p", "CASES=8", "-p", "SIZES=(3, 4)"]
    return folder, out, main(words)


def test_a_failure_stops_the_series_but_not_the_extras(series):
    _, out, status = series
    assert status == 1
    records = {record["name"]: record for record in json.loads((out / "run" / "run.json").read_text())}
    assert {name: record["status"] for name, record in records.items()} == {
        "01_good": "ok",
        "03_bad": "failed",
        "04_late": "not run",
        "aside": "ok",
    }
    assert "03_bad" in records["04_late"]["error"]
    assert records["01_good"]["parameters"] == {"OUT": str(out), "CASES": 8}


def test_a_failed_notebook_names_its_cell_and_leaves_what_it_did(series):
    _, out, _ = series
    error = next(r for r in json.loads((out / "run" / "run.json").read_text()) if r["name"] == "03_bad")["error"]
    assert error == "cell In [4] `y = 1 / 0  # sum`: ZeroDivisionError: division by zero"
    partial = nbformat.read(out / "run" / "03_bad.ipynb", as_version=4)
    counts = [cell.execution_count for cell in partial.cells if cell.cell_type == "code"]
    assert counts == [1, 2, 3, 4, None]


def test_parameters_reach_the_kernel(series):
    _, out, _ = series
    notebook = nbformat.read(out / "run" / "01_good.ipynb", as_version=4)
    assert notebook.cells[-1].outputs[0].text == "8\n"
    assert json.loads((out / "01_good" / "metrics.json").read_text())["numbers"] == {"cases": 8, "rate": 0.5}
    aside = nbformat.read(out / "run" / "aside.ipynb", as_version=4)
    assert aside.cells[-2].outputs[0].text == "7\n", "a tuple must not arrive as text"


def test_the_index_links_pages_figures_numbers_and_errors(series):
    _, out, _ = series
    pages = out / "run" / "pages"
    index = (pages / "index.html").read_text()
    assert {"01_good.html", "03_bad.html", "aside.html"} <= set(re.findall(r'href="([^"#]+)"', index))
    assert "04_late.html" not in index
    assert (pages / re.search(r'src="([^"]+01_good.png)"', index)[1]).is_file()
    assert re.search(r"<p>cases</p></td>\s*<td><p>8</p>", index)
    assert all(text in index for text in ("ZeroDivisionError", "not run: needs the results of 03_bad", "CASES=8"))


def test_a_page_shows_the_outputs_and_its_live_viewer(series):
    _, out, _ = series
    page = (out / "run" / "pages" / "aside.html").read_text()
    source = re.search(r'<iframe class="slice-viewer-page" src="([^"]+)"', page)[1]
    assert "<title>Phantom_7</title>" in (out / "run" / "pages" / source).read_text()
    assert '<span class="mi">7</span>' in page or ">7\n" in page


def test_a_later_call_keeps_what_an_earlier_one_ran(series, capsys):
    folder, out, _ = series
    assert main(["run", str(folder / "04_late.ipynb"), "--out", str(out)]) == 0
    terminal = capsys.readouterr().out
    assert re.search(r"04_late +ok", terminal)
    assert "01_good" not in terminal
    records = {record["name"]: record["status"] for record in json.loads((out / "run" / "run.json").read_text())}
    assert records["04_late"] == "ok"
    assert records["01_good"] == "ok"


def test_a_damaged_record_of_earlier_runs_does_not_cost_the_pages(tmp_path):
    workspace = open_workspace("phantom", data=tmp_path / "cohort", out=tmp_path)
    (tmp_path / "run.json").write_text('[{"name": "01_')
    index = write_pages([NotebookRun("02_b", "not run", error="needs the results of 01_a")], workspace, tmp_path)
    assert "needs the results of 01_a" in index.read_text()
    assert [record["name"] for record in json.loads((tmp_path / "run.json").read_text())] == ["02_b"]


def test_a_kernel_is_this_python_with_this_checkout_and_its_figures(tmp_path):
    """Whatever MPLBACKEND, kernels and clones the machine has; what a library writes past the notebook is not printed."""
    (tmp_path / "other" / "helpers").mkdir(parents=True)
    (tmp_path / "other" / "helpers" / "__init__.py").write_text("raise ImportError('the helpers of another clone')")
    show = "#! key-figure\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);"
    where = "import sys, helpers\nprint(sys.executable, helpers.__file__)"
    path = write_notebook(tmp_path / "01_tiny.ipynb", show, where, "import os\nos.system('echo USDT: noise >&2');")
    search = os.pathsep.join([str(tmp_path / "other"), os.environ.get("PYTHONPATH", "")])
    surroundings = {"PYTHONPATH": search, "MPLBACKEND": "Agg", "JUPYTER_PATH": str(tmp_path)}
    command = [sys.executable, "-m", "helpers", "run", str(path), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ | surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert all(line.startswith(("01_tiny", "notebook", str(tmp_path))) for line in done.stdout.splitlines() if line), (
        done.stdout
    )
    left = tmp_path / "out" / "run" / "01_tiny.ipynb"
    executed = nbformat.read(left, as_version=4)
    assert key_figure(left)
    assert executed.cells[-2].outputs[0].text == f"{sys.executable} {REPOSITORY / 'helpers' / '__init__.py'}\n"
    assert not list((tmp_path / "out" / "run").glob("*.log"))


def test_a_failure_leaves_out_only_what_needs_it(tmp_path):
    names = ("01_a", "02_b", "05_c", "06_d")
    paths = [write_notebook(tmp_path / f"{name}.ipynb", "1 / 0" if name in ("01_a", "05_c") else "1") for name in names]
    runs = execute_notebooks(paths, tmp_path / "run", parameters={})
    assert [run.status for run in runs] == ["failed", "ok", "not run", "ok"]


def test_a_kernel_that_dies_is_a_failure_of_its_cell(tmp_path, capsys):
    path = write_notebook(tmp_path / "01_tiny.ipynb", "import os; os._exit(1)", "CASES")
    assert main(["run", str(path), "--out", str(tmp_path / "out")]) == 1
    assert "failed in cell `import os; os._exit(1)`: the kernel died" in capsys.readouterr().out


def test_outputs_are_taken_into_the_notebook(tmp_path):
    path = write_notebook(tmp_path / "01_tiny.ipynb", "import sys; print('noise', file=sys.stderr)", "CASES", "object()")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("helpers.workspace.REPOSITORY", tmp_path)
        patch.setattr(sys, "argv", ["outputs.py", str(path)])
        assert OUTPUTS["main"]() == 0
        first = path.read_bytes()
        assert OUTPUTS["main"]() == 0
    assert path.read_bytes() == first
    cells = nbformat.read(path, as_version=4).cells
    assert [cell.get("execution_count") for cell in cells] == [None, 1, 2, 3, 4]
    assert cells[2].outputs == []
    assert cells[3].outputs[0].data["text/plain"] == "4"
    assert cells[4].outputs[0].data["text/plain"] == "<object at 0x...>"


def test_unknown_parameters_are_an_error_before_anything_runs(tmp_path, capsys):
    path = write_notebook(tmp_path / "01_tiny.ipynb", "CASES")
    assert main(["run", str(path), "--out", str(tmp_path / "out"), "-p", "CASE=9"]) == 1
    message = capsys.readouterr().err
    assert "did you mean CASES" in message
    assert "CASES, COHORT, OUT, RATE" in message
    assert not (tmp_path / "out" / "run").exists()


def test_an_unknown_cohort_is_an_error_before_anything_is_made(tmp_path, capsys):
    path = write_notebook(tmp_path / "01_tiny.ipynb", parameters=f'{PARAMETERS}\nDATA = ""  # folder')
    words = ["run", str(path), "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--cohort", "brats2O21"]
    assert main(words) == 1
    assert "there is no dataset format 'brats2O21'; did you mean brats2021?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_parameters_are_read_even_with_an_equals_sign_in_their_comment(tmp_path):
    path = write_notebook(tmp_path / "01_tiny.ipynb")
    found = read_parameters(path)
    assert {name: value for name, (value, _) in found.items()} == {"COHORT": "phantom", "OUT": "", "CASES": 4, "RATE": 0.5}
    assert found["COHORT"][1] == 'COHORT="msd" is the decathlon'


def test_parameters_cells_hold_literals_only(tmp_path):
    path = write_notebook(tmp_path / "01_tiny.ipynb", parameters="CASES = 4\nPATCHES = 2 * CASES")
    with pytest.raises(DataError, match="literals only, not `PATCHES = 2 \\* CASES`"):
        read_parameters(path)


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("8", 4, 8),
        ("2", 0.5, 2.0),
        ("1e-3", 0.5, 0.001),
        ("false", True, False),
        ("True", False, True),
        ("007", "text", "007"),
        ("[1, 2]", (1, 1), (1, 2)),
        ("null", 3, None),
        ("7", None, 7),
        ("best", None, "best"),
        ("-1", 4, -1),
    ],
)
def test_values_take_the_type_of_the_default(text, default, value):
    parsed = parse_value("NAME", text, default)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "default", "needed"),
    [("many", 4, "a whole number"), ("2.5", 4, "a whole number"), ("1", True, "True or False"), ("3", [1], "a list")],
)
def test_values_of_another_kind_are_refused(text, default, needed):
    with pytest.raises(DataError, match=f"parameter NAME is '{text}'; give {needed}"):
        parse_value("NAME", text, default)


@pytest.mark.parametrize(
    ("comment", "allowed", "refused"),
    [
        ("phantoms to make, 8 to thousands (full setting: 1251)", [8, 5000], [0, 7, -1]),
        ("voxels, a multiple of 32, 64 or more (full setting: 96)", [64, 96], [32, 33, 80]),
        ("voxels, a multiple of 32 (full setting: 96)", [32, 96], [0, -32, 33]),
        ("mm, edge of a voxel, 1 to 4", [1.0, 4], [0.5, 4.5]),
        ("share kept, 0 (none) to 0.9999", [0, 0.9], [1, -0.1]),
        ("processes, 1 to the number of cores", [1, 64], [0]),
        ("voxels, multiples of 32", [[32, 64, 32]], [[32, 48, 32]]),
        ("any whole number", [-5, 0], []),
    ],
)
def test_the_range_in_a_comment_holds(comment, allowed, refused):
    for value in allowed:
        check_range("03_train", "SIZE", value, comment)
    for value in refused:
        with pytest.raises(DataError, match=f"parameter SIZE is {re.escape(repr(value))}; notebook 03_train takes: "):
            check_range("03_train", "SIZE", value, comment)


def test_limits_of_all_notebooks_are_checked_before_the_first_runs(tmp_path, capsys):
    first = write_notebook(tmp_path / "03_a.ipynb", "1", parameters=f"{PARAMETERS}\nPATCH = 64  # voxels, a multiple of 8")
    second = write_notebook(tmp_path / "04_b.ipynb", "1", parameters="PATCH = 64  # voxels, a multiple of 32, 64 or more")
    assert main(["run", str(first), str(second), "--out", str(tmp_path / "out"), "-p", "PATCH=32"]) == 1
    assert "notebook 04_b takes: voxels, a multiple of 32, 64 or more" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_phantoms_get_folders_of_their_own(tmp_path):
    path = write_notebook(tmp_path / "01_a.ipynb", parameters=f'{PARAMETERS}\nDATA = ""  # folder\nSEED = 2021  # 0 or more')
    assert phantom_folders([path], {"CASES": "4"}) == {"CASES": "4"}
    assert phantom_folders([path], {"COHORT": "msd", "SEED": "7"}) == {"COHORT": "msd", "SEED": "7"}
    found = phantom_folders([path], {"CASES": "12", "SEED": "7"})
    assert found["DATA"] == str(REPOSITORY / "data" / "phantom_cases12_seed7")
    assert found["OUT"] == str(REPOSITORY / "outputs" / "phantom_cases12_seed7")
    assert phantom_folders([path], {"SEED": "7", "OUT": "/here"})["OUT"] == "/here"


@pytest.mark.parametrize("words", [(), ("--data", "/mine")])
def test_folders_of_other_phantoms_are_not_the_data_of_extras(tmp_path, monkeypatch, words):
    seen = {}

    def stop(paths, folder, *, parameters):
        seen.update(parameters)
        raise DataError("enough is seen", "stop here")

    monkeypatch.setattr(run, "execute_notebooks", stop)
    parameters = 'DATA = ""  # folder\nOUT = ""  # results\nSEED = 2021  # 0 or more'
    numbered = write_notebook(tmp_path / "01_a.ipynb", parameters=parameters)
    extra = write_notebook(tmp_path / "extras" / "b.ipynb", parameters=parameters)
    main(["run", str(numbered), str(extra), "--out", str(tmp_path / "out"), "-p", "SEED=7", *words])
    assert seen[extra].get("DATA") == ("/mine" if words else None)
    assert seen[numbered]["DATA"] == ("/mine" if words else str(REPOSITORY / "data" / "phantom_seed7"))


@pytest.mark.parametrize("name", ["segment_2d_slices", "segment_abdominal_ct", "your_own_scan"])
def test_seeds_that_no_phantom_takes_are_refused_before_an_extra_runs(tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr(run, "execute_notebooks", lambda *_, **__: pytest.fail("it runs"))
    assert main(["run", name, "-p", "SEED=-1", "--out", str(tmp_path / "out")]) == 1
    assert f"parameter SEED is -1; notebook {name} takes: 0 or more" in capsys.readouterr().err


def test_folders_are_relative_to_the_shell_not_to_the_notebook(tmp_path, monkeypatch):
    seen = {}

    def stop(paths, folder, *, parameters):
        seen.update(parameters)
        raise DataError("enough is seen", "stop here")

    monkeypatch.setattr(run, "execute_notebooks", stop)
    monkeypatch.chdir(tmp_path)
    path = write_notebook(tmp_path / "01_a.ipynb", parameters='OUT = ""  # results\nREAL_CASES = ""  # folder')
    main(["run", str(path), "--out", "out", "-p", "REAL_CASES=real"])
    assert seen[path] == {"OUT": str(tmp_path / "out"), "REAL_CASES": str(tmp_path / "real")}


def test_parameters_go_to_the_notebooks_that_have_them(tmp_path):
    first = write_notebook(tmp_path / "01_a.ipynb")
    second = write_notebook(tmp_path / "02_b.ipynb", parameters="STEPS = 10")
    given = parse_assignments(["STEPS=3 CASES=4", "OUT=/a=b"])
    assert assign([first, second], given) == {first: {"OUT": "/a=b"}, second: {"STEPS": 3}}
    with pytest.raises(DataError, match="write NAME=value"):
        parse_assignments(["STEPS"])


def test_notebooks_are_found_in_order(tmp_path):
    for name in ("02_b", "01_a", "extras/c"):
        write_notebook(tmp_path / f"{name}.ipynb")
    assert [path.stem for path in find_notebooks([], tmp_path)] == ["01_a", "02_b"]
    assert [path.stem for path in find_notebooks([], tmp_path, extras=True)] == ["01_a", "02_b", "c"]
    assert [path.stem for path in find_notebooks(["c", "02", "01", "02_b"], tmp_path)] == ["01_a", "02_b", "c"]
    with pytest.raises(DataError, match="no notebook '03'; choose among 01_a, 02_b, c"):
        find_notebooks(["03"], tmp_path)


def test_normalising_drops_what_differs_between_runs():
    notebook = executed_notebook(
        new_output("stream", name="stdout", text=f"10%\r100%\nread {REPOSITORY}/data/phantom\n"),
        new_output("stream", name="stderr", text="a warning"),
        new_output("stream", name="stdout", text="end\n"),
        new_output("display_data", data={WIDGET_VIEW: {"model_id": "1"}, "text/plain": "interactive()"}),
        new_output("display_data", data={"text/plain": "<Axes at 0x7f00ab>", "image/png": PIXEL}, metadata={"needs": 1}),
    )
    notebook.cells[1].metadata = {"papermill": {"duration": 1.0}, "execution": {"iopub.status.busy": "2026"}, "tags": ["kept"]}
    notebook.cells[0].metadata = {"tags": []}
    notebook.metadata = {"widgets": {"application/vnd.jupyter.widget-state+json": {}}, "papermill": {"output_path": "/x"}}
    before = json.dumps(notebook)
    result = normalise(notebook, REPOSITORY)
    assert json.dumps(notebook) == before
    nbformat.validate(result)
    cell = result.cells[1]
    assert [cell.metadata for cell in result.cells] == [{}, {"tags": ["kept"]}]
    assert set(result.metadata) == {"kernelspec", "language_info"}
    assert [output.output_type for output in cell.outputs] == ["stream", "display_data"]
    assert cell.outputs[0].text == "100%\nread data/phantom\nend\n"
    assert cell.outputs[1].data == {"text/plain": "<Axes at 0x...>", "image/png": PIXEL}
    assert normalise(result, REPOSITORY) == result


def test_normalising_removes_injected_parameters_and_counts_again():
    notebook = executed_notebook()
    injected = new_code_cell("CASES = 8", execution_count=1, metadata={"tags": ["injected-parameters"]})
    notebook.cells.insert(1, injected)
    notebook.cells[2].execution_count = 2
    result = normalise(notebook, REPOSITORY)
    assert [cell.execution_count for cell in result.cells[1:]] == [1]


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (new_output("error", ename="ValueError", evalue="", traceback=[]), "ended in an error"),
        (new_output("stream", name="stdout", text="/home/someone/data"), "shows /home/someone/data"),
        (new_output("display_data", data={"text/html": "<a href='/Users/x/y'>"}), "print a relative path"),
        (new_output("display_data", data={"image/png": "A" * 1_000_001}), "1 MB is the limit"),
    ],
)
def test_notebooks_that_must_not_be_committed(output, sentence):
    with pytest.raises(DataError, match=sentence):
        normalise(executed_notebook(output), REPOSITORY)


@pytest.mark.parametrize("counts", [(2,), (None,), (1, 3), (2, 1)])
def test_only_one_run_from_top_to_bottom_counts(counts):
    cells = [new_code_cell("f()", execution_count=count) for count in counts]
    with pytest.raises(DataError, match="restart the kernel"):
        normalise(new_notebook(cells=cells), REPOSITORY)


def test_a_notebook_edited_meanwhile_is_not_overwritten(tmp_path):
    target = write_notebook(tmp_path / "01_tiny.ipynb", "f()")
    executed = tmp_path / "run.ipynb"
    nbformat.write(executed_notebook(), executed)
    before = target.read_bytes()
    with pytest.raises(DataError, match="was edited while it ran"):
        update_notebook(executed, target, tmp_path)
    assert target.read_bytes() == before


def test_pages_of_viewers_are_committed_if_they_say_that_they_show_a_phantom(tmp_path):
    target = write_notebook(tmp_path / "01_tiny.ipynb", "f()")
    notebook = nbformat.read(target, as_version=4)
    for count, cell in enumerate(notebook.cells[1:], start=1):
        cell.execution_count = count
    executed, pages = tmp_path / "run" / "01_tiny.ipynb", tmp_path / "run" / "viewers" / "01_tiny"
    pages.mkdir(parents=True)
    nbformat.write(notebook, executed)
    for number, title in enumerate(("BraTS2021_01480", "Phantom_00003", "Slices"), start=1):
        (pages / f"{number}.html").write_text(f"<title>{title}</title>")
    update_notebook(executed, target, tmp_path)
    assert [path.name for path in tmp_path.glob("viewers/01_tiny/*")] == ["2.html"]
    (pages / "2.html").unlink()
    update_notebook(executed, target, tmp_path)
    assert not [*tmp_path.glob("viewers/01_tiny/*")], "those of an earlier run go, too"


def test_key_figure_is_the_first_picture_of_the_tagged_cell(tmp_path):
    notebook = executed_notebook(new_output("display_data", data={"image/png": PIXEL}))
    nbformat.write(notebook, tmp_path / "a.ipynb")
    assert key_figure(tmp_path / "a.ipynb") == b""
    notebook.cells[1].metadata["tags"] = ["key-figure"]
    nbformat.write(notebook, tmp_path / "a.ipynb")
    assert key_figure(tmp_path / "a.ipynb") == base64.b64decode(PIXEL)


@pytest.mark.parametrize(
    ("value", "text"), [(0.84312, "0.843"), (1234567, "1,234,567"), (373.13, "373.1"), (None, "undefined"), ("unet", "unet")]
)
def test_numbers_are_shown_as_people_read_them(value, text):
    assert show_number(value) == text


def test_kernels_see_an_aws_account_only_if_a_notebook_is_to_use_it():
    account = {"AWS_PROFILE": "clinic", "AWS_SECRET_ACCESS_KEY": "x", "PATH": "/bin"}
    run.hide_account({"REHEARSE": "no"}, kept := dict(account))
    run.hide_account({"SEED": "1"}, hidden := dict(account))
    assert (kept, hidden) == (account, {"PATH": "/bin"})
