"""`training/quickstart.ipynb` runs in a kernel, on fewer images, and shows its results."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "training/quickstart.ipynb"
ALONE = {"precision": "no", "run.workers": 0}  # no trial and no further processes
FEW = {"run.log_every": 1, "channels_last": False, **ALONE}
SMALLER = {  # each text of the notebook -> the same in seconds
    'data="spirograph:1920", epochs=2': f'data="spirograph:128", epochs=1, settings={FEW}',
    '{"train": 64, "test": 32}': '{"train": 16, "test": 6}',
    'epochs=5, settings={"batch_size": 32}': f"epochs=1, settings={ALONE | {'batch_size': 16}}",
}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The cells with code, executed."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for before, after in SMALLER.items():
        (cell,) = (cell for cell in notebook.cells if before in cell.source)
        cell.source = cell.source.replace(before, after)
    where = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any, kind: str) -> str:
    """What a cell displays last, in one form."""
    (found,) = (output.data[kind] for output in cell.outputs if kind in output.get("data", {}))
    return found


@pytest.mark.slow
def test_the_notebook_pretrains_plots_loads_and_fine_tunes(cells: list[Any]):
    install, pretrain, curves, load, images, finetune, evaluate, embed = cells
    assert install.outputs == []  # it is installed
    assert re.search(r"^- r2: -?\d", shown(pretrain, "text/markdown"), re.M)
    assert any("spirograph_tiny: 100%" in output.get("text", "") for output in pretrain.outputs)  # the bar
    assert shown(load, "text/plain") == "{'z_inv': (3, 128), 'z_eq': (3, 128)}"
    assert all(shown(cell, "image/png") for cell in (curves, images))
    assert re.search(r"^- finetune_top1: [01]", shown(finetune, "text/markdown"), re.M)
    assert "| 1-NN top-1, % |" in shown(evaluate, "text/markdown")
    neighbours = eval(shown(embed, "text/plain"))
    assert len(neighbours) == 6 and neighbours[0] == "quickstart/images/train/tight/000.png"


def test_the_notebook_is_kept_without_results_and_links_to_no_place_that_may_not_exist():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert not re.findall(r"https?://", "".join(cell.source for cell in notebook.cells))
    assert '(wheel,) = glob.glob("star_zoo-*.whl")' in code[0].source and '"{wheel}[train]"' in code[0].source
