"""The model cards below a run's directory, as huggingface_hub reads them: front matter that it parses, results that it takes
for evaluations of the data sets they name.

model_cards.py RUN
"""

import sys
from pathlib import Path

from huggingface_hub import ModelCard

cards = sorted(Path(sys.argv[1]).rglob("README.md"))
assert cards, "no cards"
scored = 0
for path in cards:
    card = ModelCard.load(path)
    data = card.data.to_dict()
    assert data["library_name"] in ("transformers", "peft"), data
    assert "pruned" in data["tags"], data
    results = card.data.eval_results or []
    for result in results:
        assert result.task_type == "text-generation" and result.dataset_type and result.metric_type, result
        assert isinstance(result.metric_value, (int, float)), result
    scored += bool(results)
    # what it reads it writes again
    assert ModelCard(str(card)).data.to_dict() == data
assert scored, "no card has results"
print(f"{len(cards)} cards, {scored} with results")
