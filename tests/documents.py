"""The fenced blocks of a Markdown page, with their labels and the section they stand in."""

import re
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
OPERATIONS = REPO / "docs" / "operations.md"
# Pages whose shell blocks must say whether a test runs them.
LABELLED = tuple(
    REPO / "docs" / f"{name}.md"
    for name in (
        *("operations", "ingest", "services", "settings", "errors", "training"),
        *("vlm", "instructions", "answering", "scores"),
    )
)
TESTED, CLUSTER = "sh tested", "sh cluster"


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    section: str
    """The nearest heading of second level above it."""
    label: str
    """All that stands behind the opening fence, e.g. "sh tested"."""
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[str]:
        """Its shell lines, continued ones joined, without empty ones and whole-line comments."""
        joined = re.sub(r"\\\n\s*", " ", self.text).splitlines()
        return [line for line in joined if line.strip() and not line.lstrip().startswith("#")]


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found: list[Block] = []
    section, label, start, inside = "", None, 0, list[str]()
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            if label is None:
                label, start, inside = line[3:].strip(), number, []
            else:
                found.append(Block(page.name, start, section, label, "\n".join(inside)))
                label = None
        elif label is not None:
            inside.append(line)
        elif line.startswith("## "):
            section = line[3:].strip()
    assert label is None, f"{page.name}:{start}: this block is never closed"
    return found


def spans(page: Path) -> list[str]:
    """Inline code of a page, outside its blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", text)
