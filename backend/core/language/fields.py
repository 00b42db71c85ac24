"""The fields of a line that is read: what the builtin read makes of its input."""

from dataclasses import field

from backend.core.dataclasses import dataclass

BLANKS = " \t\n"


@dataclass(slots=True)
class Fields:
    """A line of input, which may go on after a backslash, and its fields. `separators` is the value of IFS.

    With `raw` a backslash is a character like any other.
    """

    separators: str
    raw: bool
    text: list[str] = field(default_factory=list)
    quoted: set[int] = field(default_factory=set)  # positions of characters after a backslash
    complete: bool = False
    ended_by_break: bool = False

    def add(self, line: str) -> None:
        """Add what was read up to a line break, or up to the end of the input."""
        self.ended_by_break = self.complete = line.endswith("\n")
        text = iter(line.removesuffix("\n"))
        for char in text:
            if char == "\\" and not self.raw:
                char = next(text, "")
                if not char:
                    self.complete = not self.ended_by_break
                    return
                self.quoted.add(len(self.text))
            self.text.append(char)
        self.complete = True

    def split(self, count: int) -> list[str]:
        """As many fields as there are variables; the last one has what remains."""
        at, found = self._skip(0, BLANKS), []
        for _ in range(count - 1):
            end = self._end(at)
            found.append("".join(self.text[at:end]))
            at = self._after(end)
        return [*found, self._rest(at)]

    def _rest(self, start: int) -> str:
        """The last field, with the separators in it if there are more fields."""
        end = self._end(start)
        if self._after(end) < len(self.text):
            end = len(self.text)
            while end > start and self._separates(end - 1, BLANKS):
                end -= 1
        return "".join(self.text[start:end])

    def _separates(self, at: int, among: str) -> bool:
        return self.text[at] in self.separators and self.text[at] in among and at not in self.quoted

    def _end(self, at: int) -> int:
        while at < len(self.text) and not self._separates(at, self.separators):
            at += 1
        return at

    def _skip(self, at: int, among: str) -> int:
        while at < len(self.text) and self._separates(at, among):
            at += 1
        return at

    def _after(self, end: int) -> int:
        """Where the field after a separator begins: blanks around another separator belong to that."""
        at = self._skip(end, BLANKS)
        if at < len(self.text) and self._separates(at, self.separators):
            at = self._skip(at + 1, BLANKS)
        return at
