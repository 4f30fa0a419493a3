"""`train`: fine-tune a teacher."""

from functools import partial

from accelerate.utils import set_seed

from distilkit.config import TrainConfig, resolve
from distilkit.data import sources
from distilkit.engine.training.losses import DistillationLoss
from distilkit.hardware.device import select_device
from distilkit.hardware.precision import check_precision, choose_precision
from distilkit.hardware.processes import make_accelerator
from distilkit.models.loading import load_config, load_for_training, load_tokenizer, match_tokenizer
from distilkit.progress import SILENT, Reporter
from distilkit.runs.checkpoint import check_outputs
from distilkit.runs.locating import find_base_model
from distilkit.runs.run import Run
from distilkit.workflows.findings.early import before_training
from distilkit.workflows.findings.rows import describe_classes
from distilkit.workflows.fitting.class_weights import choose_class_weights
from distilkit.workflows.fitting.fit import fit_into_run
from distilkit.workflows.fitting.job import Job, check_metric, clamp_max_length, encode_split


def train(config: TrainConfig, reporter: Reporter = SILENT) -> Run:
    """Fine-tune `config.model` on the training split; the validation split picks the best epoch.

    Returns:
        The run in `config.output_dir`.

    Raises:
        UserError: on anything wrong with the options, the data, the model or the output folder.
    """
    requested, config = config, resolve(config)
    check_outputs([config])
    device = select_device(config.device, reporter)
    check_precision(config.precision, device)
    source = find_base_model(config.model)
    data = sources.load_for_training(config, config.max_train_samples)
    check_metric(config, data)
    reporter.note_all(data.notes)
    reporter.note(describe_classes(data))
    set_seed(config.seed)
    model_config = load_config(source)
    tokenizer = load_tokenizer(source)
    loaded = load_for_training(source, data.names, model_config)
    model, origin = loaded.model, f"{source.name}{loaded.remarks}"
    match_tokenizer(model, tokenizer, source.name)
    reporter.note(f"model: {type(model).__name__} from {origin}")
    config = clamp_max_length(requested, config, [(tokenizer, model)])
    precision = choose_precision(config.precision, device, model, reporter)
    accelerator = make_accelerator(precision)
    class_weights = choose_class_weights(config, data.names, data.labels_of["train"], reporter)
    loss = DistillationLoss(alpha=1.0, class_weights=class_weights)
    job = Job(
        command="train",
        config=config,
        data=data,
        model=model,
        tokenizer=tokenizer,
        loss=loss,
        formula=loss.formula.replace("student", "model"),  # it has no teacher
        precision=precision,
        facts={"model": {"name": source.name, "origin": origin}},
    )
    encoded = partial(encode_split, data, tokenizer, model, config.max_length, reporter)
    rows = encoded("train").join(labels=data.labels("train"))
    has_max_length = requested.max_length is not None
    for finding in before_training(config, data, rows.lengths, max_length_given=has_max_length):
        reporter.warn(finding.line)
    return fit_into_run(job, rows, encoded("validation"), accelerator, reporter)
