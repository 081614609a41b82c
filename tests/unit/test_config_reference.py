"""The reference page is the model's."""

from pathlib import Path

from tidegate.config.reference import render

PAGE = Path(__file__).parents[2] / "docs/reference/config.md"


def test_the_committed_page_is_what_the_model_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), (
        "run `python -m tidegate.config.reference docs/reference/config.md`"
    )
