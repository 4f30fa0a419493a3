"""Options of `export`."""

from typing import Literal

from pydantic import model_validator

from distilkit.config.data import DataConfig
from distilkit.config.evaluation import Split
from distilkit.config.fields import AnyPath, ModelName, option, positional

ExportFormat = Literal["onnx", "sagemaker", "mlflow", "safetensors", "web"]


class ExportConfig(DataConfig):
    """Write a model as a folder that predicts without torch, checked on real rows."""

    model: ModelName = positional(help="Run folder, model folder or Hub id.")
    output_dir: AnyPath = option(
        panel="Output", short="-o", basic=True, help="Folder that receives the exported model."
    )
    format: ExportFormat = option(
        "onnx",
        panel="Output",
        basic=True,
        help="onnx: a folder for onnxruntime. sagemaker: model.tar.gz with a handler for SageMaker. "
        "mlflow: a pyfunc model. safetensors: a Hugging Face model folder with weights in fp16. "
        "web: a page that runs the model in a browser.",
    )
    overwrite: bool = option(
        False, panel="Output", help="Replace an exported model in --output-dir, once the new one is complete."
    )
    int8: bool = option(
        False,
        panel="Model",
        basic=True,
        help="Quantize to 8-bit integers: a graph for each kind of CPU instead of one in fp32.",
    )
    fp16_table: bool = option(
        False, panel="Model", help="Store the embedding table, most of a BiLSTM, in fp16; compute in fp32."
    )
    max_length: int | None = option(
        None,
        ge=4,
        panel="Data",
        help="Longest input in tokens; the rest is cut. (default: what a run was trained with, else 256 for "
        "imdb and 128)",
    )
    max_eval_samples: int | None = option(
        2000,
        ge=1,
        panel="Data",
        help="Check on a stratified sample of at most N rows, the same for every seed.",
    )
    split: Split = option("validation", panel="Data", help="Split to check on. It must have labels.")
    max_drop: float = option(
        0.5,
        ge=0,
        panel="Gates",
        basic=True,
        help="Points of accuracy that may be lost: exit code 3 and no folder if a graph loses more.",
    )
    latency: bool = option(True, panel="Speed", help="Time requests of one row too, 10 s a graph at most.")
    threads: int | None = option(
        None, ge=1, panel="Speed", help="Cores that may compute. (default: those that torch takes)"
    )

    def _check_without_dataset(self) -> None:
        """Accept it: the data of the run is checked on."""

    @model_validator(mode="after")
    def _fits_together(self) -> "ExportConfig":
        if self.int8 and self.fp16_table:
            raise ValueError("--int8 stores the table in 8 bits, --fp16-table in 16: leave one out")
        if self.format == "safetensors" and (self.int8 or self.fp16_table):
            option = "--int8" if self.int8 else "--fp16-table"
            raise ValueError(
                f"{option} is for graphs, and --format safetensors stores weights: leave one out"
            )
        return self
