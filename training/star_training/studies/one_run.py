"""One run of a study, from pretraining or joining models to the file of its outcome. Finished steps are skipped."""

from pathlib import Path
from typing import Any

from accelerate import PartialState
from safetensors import safe_open

from star_catalog.printing import printable

from ..data import DataError
from ..data.eval_sets.dataset import Splits
from ..engine.results import read
from ..engine.run_dir import check_folder, lock_folder, saved_settings
from ..evaluation.features import NotFinite, timm_view
from ..evaluation.frozen_model import FrozenModel, evaluation_device, load
from ..evaluation.protocols import knn
from ..evaluation.record import Record, evaluate, record
from ..pretraining.module import build, build_backbone
from ..pretraining.recipe import Recipe
from ..pretraining.run import Run, is_whole
from ..publishing import card
from . import outcome
from .study import Column, Fusion, Method, Start, Study, located

_BACKBONE = "model.encoder.backbone."  # prefix of the names in a checkpoint
_PATIENCE = 60.0  # seconds


def name_of(column: Column, seed: int) -> str:
    """Returns the name of a run's folder and of the file of its outcome."""
    return f"{column.name}-{seed}"


def run(study: Study, method: Method, seed: int, out: Path, folder: Path) -> None:
    """Trains, measures and writes `out/results/METHOD-SEED.json`. Errors of pretraining and protocols propagate."""
    recipe = study.recipe_of(method, seed, folder)
    place = out / name_of(method, seed)
    with lock_folder(place, _PATIENCE):  # a run whose study was killed writes a checkpoint, then ends
        pass
    begun = (place / "recipe.json").exists()
    whole = begun and is_whole(place / "export")
    if whole:
        check_folder(recipe, place / "recipe.json", resume=True, anew="another --out")
    else:
        Run(recipe, place, resume=begun).train()
    if not PartialState().is_main_process:
        return  # one process measures
    card.write_after_training(place, changed=not whole)
    splits = _splits(study, folder)
    _measure(study, load(str(place)), place / "export" / "results.json", splits)
    recipe = saved_settings(Recipe, place / "recipe.json")  # with the pixel statistics of its images
    over_steps = [_at_step(study, recipe, place, step, splits) for step in study.steps]
    outcome.write(out / "results" / f"{place.name}.json", method.name, seed, place, over_steps)


def fuse(study: Study, fusion: Fusion, seed: int, out: Path, folder: Path) -> None:
    """Measures a fusion of trained models and writes `out/results/FUSION-SEED.json`. Errors of protocols propagate.

    Raises FileNotFoundError if one of its methods has no outcome for the seed.
    """
    if not PartialState().is_main_process:
        return
    parts = [name_of(method, seed) for method in study.parts(fusion)]
    outcomes = [out / "results" / f"{part}.json" for part in parts]
    if missing := [path for path in outcomes if not path.is_file()]:
        raise FileNotFoundError(f"{name_of(fusion, seed)} needs {missing[0]}; run the study without --only first")
    place = out / name_of(fusion, seed)
    place.mkdir(exist_ok=True)
    model = load(f"{fusion.wrapper}:{'+'.join(str(out / part) for part in parts)}")
    _measure(study, model, place / "results.json", _splits(study, folder))
    outcome.write_fusion(out / "results" / f"{place.name}.json", fusion.name, seed, place, outcomes)


def begin(study: Study, start: Start, out: Path, folder: Path) -> None:
    """Measures the start and writes `out/results/START-0.json`. Errors of `started` and of protocols propagate."""
    if not PartialState().is_main_process:
        return
    model = started(study, start, folder)
    place = out / name_of(start, 0)
    place.mkdir(parents=True, exist_ok=True)
    _measure(study, model, place / "results.json", _splits(study, folder))
    outcome.write_untrained(out / "results" / f"{place.name}.json", start.name, place, model.fingerprint)


def started(study: Study, start: Start, folder: Path) -> FrozenModel:
    """Returns the model that the runs start from, for images of the size and pixel statistics of the runs' views.

    Raises ValueError if these statistics are not known before the runs, and as `Study.recipe_of` and `build` do.
    """
    recipe = study.recipe_of(study.methods[0], 0, folder)
    if not recipe.policy.mean:
        raise ValueError("the study measures its start, so its recipe needs policy.mean and policy.std; they are auto")
    backbone = build(recipe)[0].backbone.to(evaluation_device())
    return FrozenModel(start.name, backbone, timm_view(backbone))


def _splits(study: Study, folder: Path) -> dict[str, Splits]:
    """Returns the study's data sets by name, after printing their notes."""
    splits = {name: Splits(located(name, folder)) for name in study.data}
    for note in filter(None, (of_set.note for of_set in splits.values())):
        print(printable(note), flush=True)
    return splits


def _measure(study: Study, model: FrozenModel, path: Path, splits: dict[str, Splits]) -> None:
    """Runs every protocol on its data sets and adds the records to the results.json `path`.

    The seed is always 0, so that runs differ only in their pretraining.
    """
    known = map(Record.from_dict, read(path).get("evaluations", []))
    done = {(record.protocol, record.data) for record in known if record.model_fingerprint == model.fingerprint}
    for protocol, data in study.measures:
        for of_set in (splits[each] for each in data):
            if (protocol, of_set.name) in done:
                continue
            try:
                found = evaluate(protocol, model, of_set)
            except (DataError, NotFinite):
                raise
            except ValueError as error:  # the protocol does not apply to the method, e.g. routing without experts
                print(printable(f"{protocol} on {of_set.name} left out: {error}"), flush=True)
                continue
            print(found, flush=True)
            record(path, found, of_set.spec)


def _at_step(study: Study, recipe: Any, place: Path, step: int, splits: dict[str, Splits]) -> dict[str, Any]:
    """Returns the 20-NN accuracy of an intermediate checkpoint on some transfer sets."""
    path = place / "checkpoints" / f"step-{step:09d}.safetensors"
    backbone = build_backbone(recipe)
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(_BACKBONE)]  # noqa: SIM118
        backbone.load_state_dict({name.removeprefix(_BACKBONE): file.get_tensor(name) for name in names})
    backbone.to(evaluation_device())
    model = FrozenModel(f"{place.name} after {step} steps", backbone, timm_view(backbone))
    found = {name: knn.run(model, splits[name]).metrics["knn20_top1"].value for name in study.transfer_over_steps}
    return {"step": step, "knn20_top1": found}
