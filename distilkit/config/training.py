"""Options of `train`."""

from distilkit.config.fields import ModelName, option
from distilkit.config.fitting import FitConfig


class TrainConfig(FitConfig):
    """Fine-tune a teacher: any encoder that AutoModelForSequenceClassification takes."""

    model: ModelName = option(
        "google-bert/bert-base-uncased",
        panel="Model",
        short="-m",
        basic=True,
        suggestions=("minilm", "google-bert/bert-base-uncased"),
        help="Hub id, folder, earlier run, or `minilm` (22.7 M parameters, in the extra `demo`).",
    )
