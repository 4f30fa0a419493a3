"""Options on teachers that are files; shared by every command that takes a teacher."""

from typing import Literal

from pydantic import model_validator

from distilkit.config.fields import Config, Strings, field_infos, flag, option

TargetKind = Literal["logits", "log-probabilities", "probabilities", "votes", "label", "confidence"]
Missing = Literal["error", "skip"]


class TeacherFileConfig(Config):
    """Files of what a teacher says of texts, joined to rows by content."""

    teacher_file: Strings = option(
        (),
        panel="Model",
        basic=True,
        help="File of a teacher's answers, repeatable: texts with logits, probabilities, votes or labels, as "
        ".parquet, .csv, .tsv or .jsonl, or a folder of them. Joined by text.",
    )
    targets: TargetKind | None = option(
        None,
        panel="Model",
        help="What --teacher-file holds. confidence: a label and its probability. (default: detected)",
    )
    missing: Missing = option(
        "error",
        panel="Model",
        help="Rows that a --teacher-file lacks. error: refuse them. skip: leave them out, and count them.",
    )

    @model_validator(mode="after")
    def _check_teacher_files(self) -> "TeacherFileConfig":
        if repeated := [name for name in self.teacher_file if self.teacher_file.count(name) > 1]:
            raise ValueError(f"--teacher-file {repeated[0]} is given twice: leave one out")
        for name in ("targets", "missing"):
            value = getattr(self, name)
            if not self.teacher_file and value != field_infos(TeacherFileConfig)[name].default:
                raise ValueError(f"{flag(name)} {value} is for --teacher-file FILE: add that or leave it out")
        return self
