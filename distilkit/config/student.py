"""Options on the student: its architecture, its sizes and what its weights start from."""

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from distilkit.config.fields import Config, ModelName, closest, flag, option

Init = Literal["pretrained", "teacher", "random"]
Pooling = Literal["last", "max", "both"]
Vocabulary = Literal["words", "teacher"]

# What `epochs`, `batch_size` and `learning_rate` are when they are not given.
BILSTM_DEFAULTS: dict[str, object] = {"epochs": 10, "batch_size": 64, "learning_rate": 1e-3}
STATIC_DEFAULTS: dict[str, object] = {"epochs": 10, "batch_size": 64, "learning_rate": 3e-3}
ENCODER_DEFAULTS: dict[str, object] = {"epochs": 5, "batch_size": 32, "learning_rate": 1e-4}
# Options of students that are mostly word vectors, and of the BiLSTM alone.
WORD_STUDENT_ONLY = ("vocabulary", "vocabulary_size", "embedding_size", "dropout", "word_dropout")
BILSTM_ONLY = ("pooling",)
WORD_STUDENTS = ("bilstm", "static")
NAMED_STUDENTS = (*WORD_STUDENTS, "tinybert", "distilbert")
STATIC_EMBEDDING_SIZE = 96
DEFAULT_LAYERS = {"bilstm": 1, "tinybert": 4, "distilbert": 6}


def _is_same_word(value: str, name: str | None) -> bool:
    """Return whether case and hyphens alone tell `value` from `name`, and no folder has that name."""
    letters = "".join(character for character in value.lower() if character.isalnum())
    return letters == name and not Path(value).exists()


class StudentConfig(Config):
    """The student's architecture, sizes and start."""

    student: ModelName = option(
        "bilstm",
        panel="Model",
        basic=True,
        suggestions=NAMED_STUDENTS,
        help="bilstm, static, tinybert, distilbert, or any Hub id or folder of an encoder.",
    )
    init: Init | None = option(
        None,
        panel="Model",
        help="pretrained: Hub weights. teacher: its layers or word-piece embeddings. random: sizes only. "
        "(default: pretrained; bilstm, static: teacher with its vocabulary, else random; general: random)",
    )
    layers: int | None = option(
        None,
        ge=1,
        panel="Model",
        help="Layers of the student; static has none. "
        "(default: bilstm 1, tinybert 4, distilbert 6, any other its own)",
    )
    hidden_size: int | None = option(
        None,
        ge=1,
        panel="Model",
        help="Width of the student; of static, its hidden layer. "
        "(default: bilstm 150, 300 for pairs; static 256; else its own or the teacher's)",
    )
    vocabulary: Vocabulary | None = option(
        None,
        panel="BiLSTM and static",
        help="Words of the training text, or the teacher's word-pieces and their vectors. "
        "(default: teacher, without one words)",
    )
    vocabulary_size: int | None = option(
        None, ge=3, panel="BiLSTM and static", help="Most frequent words kept. (default: 20000)"
    )
    embedding_size: int | None = option(
        None,
        ge=1,
        panel="BiLSTM and static",
        help="Width of the word vectors; fewer than the teacher's are its principal components. "
        "(default: bilstm 300, or the teacher's; static 96)",
    )
    dropout: float | None = option(
        None,
        ge=0,
        lt=1,
        panel="BiLSTM and static",
        help="Share of values that training drops. (default: 0.1)",
    )
    pooling: Pooling | None = option(
        None,
        panel="BiLSTM and static",
        help="How a bilstm's states become one vector. last: each direction's final state. max: the maximum "
        "over the tokens. both: both, side by side. (default: both)",
    )
    word_dropout: float | None = option(
        None,
        ge=0,
        lt=1,
        panel="BiLSTM and static",
        help="Share of a text's words that training hides from it. (default: bilstm 0, static 0.2)",
    )

    @model_validator(mode="after")
    def _check_student(self) -> "StudentConfig":
        meant = closest(self.student, NAMED_STUDENTS)
        if self.student not in NAMED_STUDENTS and _is_same_word(self.student, meant):
            raise ValueError(f"--student {self.student}: write it as {meant}")
        for students, names in ((WORD_STUDENTS, WORD_STUDENT_ONLY), (("bilstm",), BILSTM_ONLY)):
            for name in names:
                if self.student not in students and getattr(self, name) is not None:
                    raise ValueError(
                        f"{flag(name)} is for --student {' or '.join(students)}, not {self.student}: "
                        "leave it out"
                    )
        if not self.has_word_vectors:
            return self
        if self.init == "pretrained":
            raise ValueError(
                f"--init pretrained: there is no pretrained {self.student}; use --init teacher or random"
            )
        if self.student == "static" and self.layers is not None:
            raise ValueError(f"--layers {self.layers}: --student static has none. Leave it out")
        if self.vocabulary == "teacher" and self.vocabulary_size is not None:
            raise ValueError("--vocabulary-size goes with --vocabulary words: the teacher's is taken whole")
        return self

    @property
    def has_word_vectors(self) -> bool:
        """Return whether the student is mostly a table of word vectors, and small enough for one core."""
        return self.student in WORD_STUDENTS

    def word_student_defaults(self, *, reads_words: bool, is_pair: bool) -> dict[str, object]:
        """Return what the options of a BiLSTM or a static student that are `None` stand for."""
        is_static = self.student == "static"
        defaults: dict[str, object] = {
            "vocabulary": "words" if reads_words else "teacher",
            "init": "random" if reads_words else "teacher",
            "dropout": 0.1,
        }
        if is_static:
            defaults |= STATIC_DEFAULTS | {"hidden_size": 256, "word_dropout": 0.2}
        else:
            sizes = {"layers": DEFAULT_LAYERS["bilstm"], "hidden_size": 300 if is_pair else 150}
            defaults |= BILSTM_DEFAULTS | sizes | {"pooling": "both", "word_dropout": 0.0}
        if reads_words:
            defaults |= {"vocabulary_size": 20_000}
        if reads_words or self.init == "random":
            defaults |= {"embedding_size": STATIC_EMBEDDING_SIZE if is_static else 300}
        return defaults

    def encoder_defaults(self, *, is_general: bool) -> dict[str, object]:
        """Return what an encoder's options that are `None` stand for."""
        # A general student that starts from general weights would be no use.
        init = "random" if is_general else "pretrained"
        return ENCODER_DEFAULTS | {"init": init, "layers": DEFAULT_LAYERS.get(self.student)}
