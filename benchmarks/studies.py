"""What `benchmarks.quality` runs: teachers, students, and for SST-2 an ablation of every lever."""

from dataclasses import dataclass

TEST_TOKENS = 128  # of the runs that are scored on a test split


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
        return ["evaluate", self.folder(seed), *data, "--max-length", str(TEST_TOKENS)]

    def evaluated(self, seed: int | str) -> str:
        """The file that leaves."""
        return f"{self.folder(seed)}/evaluation/{self.dataset}-test-{TEST_TOKENS}-tokens.json"


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

FAST = "-b 128 --learning-rate 2e-3"
SST2 = f"-a 0 -e 3 {FAST} --vocabulary teacher"
SMALL = "--student tinybert --init random --max-train-samples 15000"
# Without text to distill on: what a lever does by itself.
FEW = "-e 4 --max-train-samples 20000"
SHORT = f"{FEW} {FAST} --vocabulary teacher"

STUDIES = {
    study.name: study
    for study in (
        Study(
            "sst2-bilstm-labels",
            "sst2",
            "the same BiLSTM on labels alone, nothing of the teacher's",
            "-a 1 -e 6 --vocabulary teacher --init random --embedding-size 384",
        ),
        Study(
            "sst2-bilstm-vectors",
            "sst2",
            "the same on labels alone, from the teacher's word-piece vectors",
            "-a 1 -e 6 --vocabulary teacher",
            base="sst2-bilstm-labels",
        ),
        Study(
            "sst2-bilstm",
            "sst2",
            "BiLSTM, IMDB's sentences as text",
            f"{SST2} --transfer imdb-sentences.txt",
            base="sst2-bilstm-labels",
            wanted=Wanted("98.5 %, +4 points", kept=98.5, points=4.0),
            prepared=("imdb-sentences",),
        ),
        Study(
            "sst2-bilstm-tang",
            "sst2",
            "BiLSTM, new texts by the rules of Tang et al.",
            f"{SST2} --transfer sst2-tang.parquet",
            base="sst2-bilstm-labels",
            prepared=("sst2-tang",),
        ),
        Study(
            "sst2-3-layers",
            "sst2",
            "3 layers of the teacher",
            "--student tinybert --init teacher --layers 3 -a 0 -e 3",
        ),
        Study(
            "sst2-3-layers-text",
            "sst2",
            "3 layers of the teacher, as many rows of IMDB's sentences an epoch",
            "--student tinybert --init teacher --layers 3 -a 0 -e 2 --transfer imdb-sentences.txt "
            "--transfer-ratio 1",
            prepared=("imdb-sentences",),
            wanted=Wanted("99 %", kept=99.0),
        ),
        Study(
            "sst2-4x312-labels",
            "sst2",
            "BERT 4 x 312, random, on labels alone, 15,000 rows",
            f"{SMALL} -a 1 -e 3",
        ),
        Study(
            "sst2-4x312",
            "sst2",
            "BERT 4 x 312, random, two stages, 15,000 rows",
            f"{SMALL} --method tinybert --layer-epochs 3 --layer-learning-rate 5e-4 -e 3",
            base="sst2-4x312-labels",
            wanted=Wanted("+3 points", points=3.0),
        ),
        Study(
            "mrpc-bilstm-labels",
            "mrpc",
            "siamese BiLSTM on labels alone",
            "-a 1 -e 8 --vocabulary teacher",
        ),
        Study(
            "mrpc-bilstm",
            "mrpc",
            "siamese BiLSTM, new pairs by the rules of Tang et al.",
            f"-a 0 -e 3 {FAST} --vocabulary teacher --transfer mrpc-tang.parquet",
            base="mrpc-bilstm-labels",
            wanted=Wanted("90 %, +2 points or F1", kept=90.0, points=2.0, f1=True),
            prepared=("mrpc-tang",),
        ),
        Study(
            "mrpc-3-layers",
            "mrpc",
            "3 layers of the teacher, new pairs",
            "--student tinybert --init teacher --layers 3 -a 0 -e 8 --transfer mrpc-tang.parquet "
            "--transfer-ratio 3",
            wanted=Wanted("97 %", kept=97.0),
            prepared=("mrpc-tang",),
        ),
        Study(
            "imdb-bilstm",
            "imdb",
            "BiLSTM, the unsupervised split, 128 tokens",
            f"{SST2} --transfer unsupervised --max-length 128",
            wanted=Wanted("98 %", kept=98.0),
            test=True,
        ),
    )
}


def _lever(name: str, title: str, options: str, **more: tuple[str, ...]) -> Study:
    return Study(f"sst2-ablation-{name}", "sst2", title, options, **more)


ABLATIONS = {
    "SST-2: what each lever does without text to distill on (20,000 rows, 4 epochs)": (
        _lever(
            "base",
            "alpha 0, the teacher's word-pieces and their vectors, last state and maximum",
            f"-a 0 {SHORT}",
        ),
        _lever("batch-64", "batches of 64, learning rate 1e-3", f"-a 0 {FEW} --vocabulary teacher"),
        _lever("alpha-0.5", "alpha 0.5", f"-a 0.5 {SHORT}"),
        _lever("alpha-1", "alpha 1", f"-a 1 {SHORT}"),
        _lever("kl", "KL at temperature 2", f"-a 0 {SHORT} --soft-loss kl"),
        _lever("last", "the last state alone", f"-a 0 {SHORT} --pooling last"),
        _lever("max", "the maximum alone", f"-a 0 {SHORT} --pooling max"),
        _lever("random", "random vectors of word-pieces", f"-a 0 {SHORT} --init random"),
        _lever("words", "words of the data, random vectors", f"-a 0 {FEW} {FAST} --vocabulary words"),
        _lever("pca-128", "128 principal components", f"-a 0 {SHORT} --embedding-size 128"),
        _lever("word-dropout", "word dropout 0.1", f"-a 0 {SHORT} --word-dropout 0.1"),
        _lever("2-layers", "two layers", f"-a 0 {SHORT} --layers 2"),
    ),
    "SST-2: what text to distill on does (20,000 rows and three times as many new ones, 4 epochs)": (
        _lever("base", "no text", f"-a 0 {SHORT}"),
        _lever(
            "imdb",
            "sentences of IMDB",
            f"-a 0 {SHORT} --transfer imdb-sentences.txt --transfer-ratio 3",
            prepared=("imdb-sentences",),
        ),
        _lever(
            "tang",
            "by the rules of Tang et al.",
            f"-a 0 {SHORT} --transfer sst2-tang.parquet --transfer-ratio 3",
            prepared=("sst2-tang",),
        ),
        _lever(
            "16-epochs", "no text, and as many steps (16 epochs)", f"-a 0 {SHORT.replace('-e 4', '-e 16')}"
        ),
    ),
    "SST-2: what two stages do for BERT 4 x 312, random (15,000 rows)": (
        STUDIES["sst2-4x312-labels"],
        _lever("4x312-labels", "labels alone, 6 epochs", f"{SMALL} -a 1 -e 6"),
        _lever("4x312-logits", "logits alone, 6 epochs", f"{SMALL} -a 0 -e 6"),
        STUDIES["sst2-4x312"],
    ),
}

EVERYTHING = {**TEACHERS, **STUDIES} | {study.name: study for group in ABLATIONS.values() for study in group}
