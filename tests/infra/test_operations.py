"""docs/operations.md cannot drift: its runbooks quote the code's own sentences, its commands name what is there."""

from __future__ import annotations

import ast
import re

import pytest

from tests.infra.rendered import REPOSITORY

PAGE = (REPOSITORY / "docs/operations.md").read_text()
COMMANDS = [line.strip() for line in PAGE.splitlines() if line.startswith("    ")]
MARKS = ("# tried", "# rendered", "# not tried")


def sentences_of_the_code() -> str:
    """All text that the product's modules hold, pieces of f-strings joined as they are told."""
    found = []
    for package in ("actors", "pipeline", "jobs"):
        for module in sorted((REPOSITORY / package).rglob("*.py")):
            for node in ast.walk(ast.parse(module.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values]
                    found.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def quoted() -> list[str]:
    """The messages that the runbooks and their remarks quote: in backquotes, and with words between blanks."""
    runbooks = PAGE.partition("## 6. Runbooks")[2].partition("## 7.")[0]
    found = re.findall(r"`([^`\n]+)`", " ".join(runbooks.split()))
    return [
        text
        for text in found
        if text.count(" ") >= 2 and not re.match(r"(promptmill|kubectl|ray|ssh|journalctl) ", text)
    ]


def test_every_quoted_sentence_is_one_of_the_codes() -> None:
    told = sentences_of_the_code()
    assert len(quoted()) >= 12
    for sentence in quoted():
        for piece in filter(None, (piece.strip() for piece in sentence.split("..."))):
            if piece.count(" ") >= 1:
                assert piece.strip("'; :") in told, f"no module says {piece!r}"


def test_there_are_six_runbooks_named_by_a_message() -> None:
    assert len(re.findall(r"^### .*`[^`]+`", PAGE.partition("## 6. Runbooks")[2], re.MULTILINE)) == 6


def test_commands_name_files_and_targets_that_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for command in COMMANDS:
        for target in re.findall(r"^make ([\w-]+)", command):
            assert target in targets
        for path in re.findall(r"(?<!\S)((?:infra|examples|docs)/[\w./@-]+)", command):
            assert (REPOSITORY / path).exists(), path


def test_every_command_says_whether_it_was_tried() -> None:
    sections = PAGE.partition("## 1.")[2].partition("## 5. Sizing")[0]
    for line in (line.strip() for line in sections.splitlines() if line.startswith("    ")):
        assert any(mark in line for mark in MARKS), line


@pytest.mark.parametrize("row", re.findall(r"^\| ([\d.]+) ?(?:\(.*?\))? \| (.*) \|$", PAGE, re.MULTILINE))
def test_the_table_of_costs_is_its_formula(row: tuple[str, str]) -> None:
    rate, told = float(row[0]), [float(cell.strip().removesuffix(" h")) for cell in row[1].split("|")]
    hours = 1e6 / rate / 3600
    for found, exact in zip(told, [hours, hours / 8, hours / 16, 0.3 * hours, hours, 3 * hours], strict=True):
        assert found == pytest.approx(exact, rel=0.08, abs=0.06)
