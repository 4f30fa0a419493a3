"""What `benchmarks.quality` runs: teachers, students, and for SST-2 an ablation of every lever."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wanted:
    """What a study is to reach: per cent of its teacher's accuracy, points over its base."""

    text: str
    kept: float | None = None
    points: float | None = None
    f1: bool = False

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of which one has to be as many points better."""
        return ("accuracy", "f1") if self.f1 else ("accuracy",)


@dataclass(frozen=True)
class Study:
    """A command, run once a seed: `options` are what it says beside data, teacher, folder and seed."""

    name: str
    dataset: str
    title: str
    options: str
    base: str | None = None
    wanted: Wanted | None = None
    test: bool = False
    one_seed: bool = False
    verb: str = "distill"
    prepared: tuple[str, ...] = ()

    @property
    def teacher(self) -> str:
        """The name of its teacher."""
        return f"{self.dataset}-teacher"

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of what has to be there before."""
        return self.prepared if self.verb == "train" else (self.teacher, *self.prepared)

    def folder(self, seed: int | str) -> str:
        """Of the run."""
        return f"runs/{self.name}" if self.one_seed else f"runs/{self.name}-{seed}"

    def command(self, seed: int | str) -> list[str]:
        """Arguments of distilkit."""
        data = ["-d", self.dataset, "--data-dir", f"data/{self.dataset}"]
        teacher = [] if self.verb == "train" else ["-t", f"runs/{self.teacher}"]
        number = [] if self.one_seed else ["-s", str(seed)]
        return [self.verb, *data, *teacher, *self.options.split(), *number, "-o", self.folder(seed)]

    def evaluation(self, seed: int | str) -> list[str]:
        """Arguments of distilkit that score the run on the test split."""
        data = ["-d", self.dataset, "--data-dir", f"data/{self.dataset}", "--split", "test"]
        length = ["--max-length", "128"] if self.dataset == "imdb" else []
        return ["evaluate", self.folder(seed), *data, *length]


@dataclass(frozen=True)
class Prepared:
    """A file that studies read, and the command that makes it: a module of Python's, or distilkit."""

    output: str
    arguments: tuple[str, ...]
    module: str = "distilkit"


def _teacher(dataset: str, options: str, **more: bool) -> Study:
    return Study(f"{dataset}-teacher", dataset, "minilm", options, one_seed=True, verb="train", **more)


TEACHERS = {
    teacher.name: teacher
    for teacher in (
        _teacher("sst2", "-m minilm -e 2"),
        _teacher("mrpc", "-m minilm -e 5 --learning-rate 1e-4"),
        _teacher("imdb", "-m minilm -e 2 --learning-rate 1e-4 --max-length 128", test=True),
    )
}

PREPARED = {
    "sst2-tang": Prepared(
        "sst2-tang.parquet",
        ("augment", "-d", "sst2", "--data-dir", "data/sst2", "-o", "sst2-tang.parquet"),
    ),
    "mrpc-tang": Prepared(
        "mrpc-tang.parquet",
        ("augment", "-d", "mrpc", "--data-dir", "data/mrpc", "-n", "20", "-o", "mrpc-tang.parquet"),
    ),
    "imdb-sentences": Prepared(
        "imdb-sentences.txt",
        ("data/imdb/unsupervised.parquet", "imdb-sentences.txt"),
        module="benchmarks.sentences",
    ),
}
