"""Text encoders side by side: what a model of several makes of one prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trt_engines.architectures.prompting import Lengths
from trt_engines.architectures.registry import architecture
from trt_worker.condition.encode import Encoded
from trt_worker.condition.prompt import PromptEncoding


@dataclass
class Ready:
    """An encoding that has its result, or is still under way."""

    encoded: Encoded
    done: bool = True

    def result(self) -> Encoded:
        return self.encoded


def ready(notes: tuple[str, ...] = (), **outputs: Any) -> Any:
    return Ready(Encoded(outputs={name: np.asarray(value, np.float32) for name, value in outputs.items()}, notes=notes))


SDXL = architecture("sdxl").prompting


def test_outputs_for_one_input_stand_side_by_side_in_the_order_of_the_encoders() -> None:
    first = ready(context=[[1], [2]])
    second = ready(context=[[3, 4], [5, 6]], pooled=[7, 8])

    text = PromptEncoding(SDXL, [first, second]).result().text

    assert text["context"].tolist() == [[1, 3, 4], [2, 5, 6]]
    assert text["pooled"].tolist() == [7, 8]


def test_the_shorter_of_two_contexts_decides() -> None:
    text = PromptEncoding(SDXL, [ready(context=[[1], [2], [9]]), ready(context=[[3], [4]])]).result().text

    assert text["context"].tolist() == [[1, 3], [2, 4]]


def test_a_single_encoders_context_is_not_copied() -> None:
    one = ready(context=[[1.0]])

    assert PromptEncoding(SDXL, [one]).result().text["context"] is one.encoded.outputs["context"]


def test_a_note_that_both_encoders_make_is_told_once() -> None:
    both = [ready(("cut",), context=[[1]]), ready(("cut", "more"), context=[[2]])]

    assert PromptEncoding(SDXL, both).result().notes == ("cut", "more")


def test_it_is_done_when_every_encoder_is() -> None:
    late = Ready(Encoded(outputs={}), done=False)

    assert not PromptEncoding(SDXL, [ready(context=[[1]]), late]).done  # type: ignore[list-item]
    assert PromptEncoding(SDXL, [ready(context=[[1]])]).done


def test_a_mask_says_that_all_tokens_of_a_prompt_count() -> None:
    masked = replace(SDXL, lengths=Lengths.MASKED, mask="context_mask")

    assert PromptEncoding(masked, [ready(context=[[1], [2]])]).result().text["context_mask"].tolist() == [1, 1]
