"""ONNX, for onnxruntime and others: input `images`, output `features` or `logits`; the metadata are its properties.

Each property is JSON.
"""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def write(model: nn.Module, images: Tensor, path: Path, metadata: dict[str, Any]) -> None:
    """Writes a file. Raises ImportError without the packages of the extra `export`."""
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]:
        raise ImportError(f"ONNX needs {', '.join(missing)}; pip install 'star-zoo[export]'")
    program = torch.onnx.export(
        model,
        (images,),
        input_names=["images"],
        output_names=[metadata["outputs"]],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items()})
    program.save(path)


def read(path: Path) -> Callable[[Tensor], Tensor]:
    """Returns the model in a file, computed by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
