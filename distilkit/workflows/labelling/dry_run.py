"""What labelling would take: requests, the first of them, and about what they would cost."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from distilkit.config.labelling import LabelConfig
from distilkit.data.row_inputs import Inputs
from distilkit.engine.inference.chat import TEMPLATE_TOKENS, Usage, fill_prompt
from distilkit.errors import UserError
from distilkit.workflows.labelling.budget import Prices
from distilkit.workflows.labelling.servers import as_row, read_own_pieces
from distilkit.workflows.labelling.tally import Tally

SCHEMA = "distilkit.labelling-plan/1"
BYTES_PER_TOKEN = 4  # of English text, about
TEMPLATE_SHARE = 4  # a chat template adds about this part of the most that it may add


@dataclass(frozen=True)
class LabelPlan:
    """What would be sent.

    Attributes:
        example: the first prompt, or the first request to an endpoint.
        input_tokens, output_tokens: about; `None` for an endpoint.
        cost: about; `None` without prices.
    """

    rows: int
    requests: int
    example: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None

    def document(self) -> dict[str, Any]:
        """Return the versioned JSON document."""
        return {"schema": SCHEMA, **asdict(self)}

    def text(self) -> str:
        """Write what would be sent, and what it costs."""
        parts = [f"{self.rows:,} rows, {self.requests:,} requests"]
        if self.input_tokens is not None:
            parts.append(f"about {self.input_tokens:,} tokens read and {self.output_tokens:,} written")
        cost = f"about {self.cost:.4g}" if self.cost is not None else None
        if cost:
            parts.append(f"cost: {cost}")
        return "\n".join([", ".join(parts), "the first request:", self.example])


def plan_labelling(
    config: LabelConfig, inputs: Inputs, template: str, class_names: tuple[str, ...], prices: Prices | None
) -> LabelPlan:
    """Count rows and requests without sending any.

    Raises:
        UserError: where there is no row.
    """
    rows = read = requests = 0
    example = ""
    for _, piece in read_own_pieces(config, inputs, Tally()):
        texts = list(piece.texts.rows())
        rows += len(texts)
        if config.endpoint:
            requests += -(-len(texts) // config.endpoint_batch_size)
            example = example or json.dumps(
                {"inputs": [as_row(row) for row in texts[:1]]}, ensure_ascii=False
            )
            continue
        votes = config.votes or 1
        requests += votes * len(texts)
        for row in texts:
            prompt = fill_prompt(template, row, class_names)
            example = example or prompt
            read += votes * (len(prompt.encode()) // BYTES_PER_TOKEN + TEMPLATE_TOKENS // TEMPLATE_SHARE)
    if not rows:
        raise UserError(f"{inputs.names[0]}: there is no row to label.")
    if config.endpoint:
        return LabelPlan(rows, requests, example)
    longest = max(len(name.encode()) for name in class_names)
    written = requests * min(config.max_tokens, longest // BYTES_PER_TOKEN + 2)
    cost = prices.cost(Usage(read, written)) if prices else None
    return LabelPlan(rows, requests, example, read, written, cost)
