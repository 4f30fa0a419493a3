"""Known datasets: columns, class names, metric, Hub id."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A known dataset: where it is on the Hub, and its columns, classes and metric."""

    hub: str
    hub_name: str | None
    text: str
    pair: str | None
    names: tuple[str, ...]
    metric: str = "accuracy"


PRESETS = {
    "sst2": Preset("nyu-mll/glue", "sst2", "sentence", None, ("negative", "positive")),
    "mrpc": Preset("nyu-mll/glue", "mrpc", "sentence1", "sentence2", ("not_equivalent", "equivalent"), "f1"),
    "imdb": Preset("stanfordnlp/imdb", None, "text", None, ("neg", "pos")),
    "rotten_tomatoes": Preset(
        "cornell-movie-review-data/rotten_tomatoes", None, "text", None, ("neg", "pos")
    ),
}
