"""Classify texts in MLflow, which runs this file when it loads the model; nothing is pickled."""

import importlib.util
from pathlib import Path
from typing import Any

import pandas

TEXT, TEXT_PAIR = "text", "text_pair"
ROWS_AT_ONCE = 32  # padded to the longest of them


class TextClassifier:
    """Answer a table of texts with the likeliest label, its score, and the score of every label."""

    def load_context(self, context: Any) -> None:
        """Load the model with the predict.py beside it."""
        folder = Path(context.artifacts["model"])
        spec = importlib.util.spec_from_file_location("predict", folder / "predict.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.model = module.Model(folder)

    def predict(
        self, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> pandas.DataFrame:
        """Return columns `label`, `score`, and `score_` with the name of each label, a row for each text."""
        columns = [TEXT, TEXT_PAIR] if self.model.manifest["takes_pairs"] else [TEXT]
        rows: list[Any] = list(model_input[columns].astype(str).itertuples(index=False, name=None))
        if len(columns) == 1:
            rows = [text for (text,) in rows]
        scores = [
            row
            for start in range(0, len(rows), ROWS_AT_ONCE)
            for row in self.model.predict(rows[start : start + ROWS_AT_ONCE]).tolist()
        ]
        labels = self.model.labels
        answers = [[labels[row.index(max(row))], max(row), *row] for row in scores]
        names = ["label", "score", *(f"score_{label}" for label in labels)]
        return pandas.DataFrame(answers, columns=names, index=model_input.index)


if not __name__.startswith("distilkit."):  # MLflow runs this file under a name of its own
    import mlflow

    class MLflowModel(TextClassifier, mlflow.pyfunc.PythonModel):
        """Answer as MLflow asks."""

    mlflow.models.set_model(MLflowModel())
