"""Warnings about the schemas by which jobs were checked, or about missing ones."""

from __future__ import annotations

from collections.abc import Iterator

from batcher.app.prepare import Prepared


def odd_schemas(prepared: Prepared) -> Iterator[str]:
    """Schemas that contradict themselves."""
    for model, spec in prepared.specs.by_model.items():
        if spec.undescribed:
            yield (
                f"{model}: its schema requires {', '.join(spec.undescribed)} without describing it: "
                "sent as it is"
            )


def unchecked_models(prepared: Prepared) -> Iterator[str]:
    """Models whose inputs could not be checked before they are sent."""
    for model in prepared.specs.unchecked:
        if prepared.plan.to_buy:
            why = prepared.specs.sources[model].problem
            yield f"{model}: sent unchecked, no schema is known ({why})"
