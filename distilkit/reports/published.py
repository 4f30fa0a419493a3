"""List published figures on the known datasets, which reports show below measured ones."""

from typing import Literal, NamedTuple


class Published(NamedTuple):
    """Hold a published figure; `value` and `parameters` as the source gives them."""

    model: str
    metric: Literal["accuracy", "f1"]
    value: float
    split: Literal["validation", "test"]
    source: str
    parameters: str | None = None


TANG = "Tang et al. 2019"
SANH = "Sanh et al. 2019 (DistilBERT)"
JIAO = "Jiao et al. 2020 (TinyBERT)"
SUN = "Sun et al. 2019 (PKD), results of their repository"
PADDLE = "PaddleNLP, distill_lstm"

# Sorted by value within a split. GLUE calls its validation split dev.
PUBLISHED: dict[str, tuple[Published, ...]] = {
    "sst2": (
        Published("BERT-base", "accuracy", 0.927, "validation", SANH),
        Published("MiniLM 6 x 384, distilled", "accuracy", 0.915, "validation", "MiniLM's README", "22 M"),
        Published("DistilBERT", "accuracy", 0.913, "validation", SANH, "66 M"),
        Published("BERT 6 x 768, patient distillation", "accuracy", 0.9106, "validation", SUN, "67 M"),
        Published("BiLSTM, distilled, new texts", "accuracy", 0.8876, "validation", PADDLE),
        Published("BiLSTM on labels alone", "accuracy", 0.8544, "validation", PADDLE),
        Published("BERT-large", "accuracy", 0.949, "test", TANG, "335 M"),
        Published("TinyBERT 4 x 312, new texts", "accuracy", 0.926, "test", JIAO, "14.5 M"),
        Published("BiLSTM, distilled, new texts", "accuracy", 0.907, "test", TANG, "0.96 M + word vectors"),
        Published("BiLSTM on labels alone", "accuracy", 0.867, "test", TANG, "0.96 M + word vectors"),
    ),
    "mrpc": (
        Published("TinyBERT 6 x 768", "f1", 0.906, "validation", JIAO, "67 M"),
        Published("DistilBERT, run again", "f1", 0.896, "validation", "transformers, issue 2447", "66 M"),
        Published("BERT-base", "accuracy", 0.8693, "validation", SUN),
        Published("BERT 6 x 768, patient distillation", "accuracy", 0.8346, "validation", SUN, "67 M"),
        Published("BERT 6 x 768 on labels alone", "accuracy", 0.8223, "validation", SUN, "67 M"),
        Published("BERT-base", "f1", 0.875, "test", JIAO),
        Published("BERT-base", "f1", 0.868, "test", "torchdistill, GLUE"),
        Published("TinyBERT 4 x 312", "f1", 0.864, "test", JIAO, "14.5 M"),
        Published("BERT 4 x 312 on labels alone", "f1", 0.832, "test", JIAO, "14.5 M"),
    ),
    "imdb": (
        Published("BERT-base", "accuracy", 0.9346, "test", SANH),
        Published("DistilBERT", "accuracy", 0.9282, "test", SANH, "66 M"),
    ),
}
