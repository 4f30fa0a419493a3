"""`export --format safetensors`: a Hugging Face model folder with weights in fp16."""

import copy
from pathlib import Path
from typing import Any

import torch

from distilkit.config import ExportConfig
from distilkit.errors import UserError
from distilkit.models.classifier import Classifier
from distilkit.models.loading import save_model
from distilkit.runs.exports import list_files
from distilkit.workflows.exporting.contents import describe_file, describe_source

LARGEST_FP16 = torch.finfo(torch.float16).max
WEIGHTS = "model.safetensors"


def write_half_model(folder: Path, classifier: Classifier, config: ExportConfig) -> dict[str, Any]:
    """Write a model with weights in fp16, and its tokenizer; return the manifest, which is yet to be written.

    Raises:
        UserError: when fp16 cannot hold a weight.
    """
    model = copy.deepcopy(classifier.model)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.numel() and float(tensor.abs().max()) > LARGEST_FP16:
            raise UserError(
                f"{classifier.name}: {name} holds {float(tensor.abs().max()):.3g}, and fp16 ends at "
                f"{LARGEST_FP16:,.0f}. Leave the model in fp32, or export it with --format onnx."
            )
    save_model(model.half(), classifier.tokenizer, folder, classifier.max_length)
    names = [file.relative_to(folder).as_posix() for file in list_files(folder)]
    return describe_source(classifier, config) | {
        "precision": "fp16",
        "files": {name: describe_file(folder / name) for name in names},
    }
