"""What a submitted job takes along: the files of a working directory, as one small archive that is the same each time.

Left out are version control, environments, caches, results and files that hold credentials by custom, what `.gitignore`
and `.rayignore` name (Ray leaves out the same), and what the user excludes.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from actors.errors import UserError

LEFT_OUT = (
    ".git/", ".hg/", ".svn/", ".venv/", "venv/", "node_modules/", "__pycache__/", "*.pyc", "*.egg-info/", ".*_cache/",
    ".hypothesis/", "/out/", "/build/", "/dist/", ".env", ".env.*", ".aws/", ".ssh/", ".ray/", ".DS_Store",
)  # fmt: skip
"""Patterns, as `.gitignore` writes them, of what never goes along."""
IGNORE_FILES = (".gitignore", ".rayignore")
LIMIT = 100 << 20
"""Bytes of one request that Ray's dashboard accepts (its ``DASHBOARD_CLIENT_MAX_SIZE``)."""
_LARGEST = 3
# A zip knows no date before 1980; one date for all files makes equal directories equal archives.
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class _Rule:
    """Patterns of one ignore file, which hold below its directory."""

    base: Path
    spec: GitIgnoreSpec
    name: str

    def leaves_out(self, path: Path, is_directory: bool) -> bool:
        """Whether one of the patterns names the path."""
        return self.spec.match_file(path.relative_to(self.base).as_posix() + ("/" if is_directory else ""))


class Package:
    """The files of a directory that go along.

    Args:
        directory: the working directory of the job.
        excludes: more patterns of what stays behind, as `.gitignore` writes them.

    Raises:
        UserError: no such directory.
    """

    def __init__(self, directory: Path, excludes: Sequence[str] = ()) -> None:
        if not directory.is_dir():
            raise UserError(f"the working directory '{directory}' is no directory")
        self.directory = directory.resolve()
        self._rules = [
            _Rule(self.directory, GitIgnoreSpec.from_lines(LEFT_OUT), "what promptmill never sends"),
            _Rule(self.directory, GitIgnoreSpec.from_lines(excludes), "--exclude"),
        ]
        self.files = tuple(sorted(self._walk(self.directory, self._rules)))

    def why_not(self, path: Path) -> str | None:
        """Why a file or directory does not go along, as half a sentence; None where it does."""
        path = Path(os.path.abspath(self.directory / path))  # noqa: PTH100 (as it is spelt: links are not followed)
        if not path.is_relative_to(self.directory):
            return f"it lies outside the working directory '{self.directory}'"
        rules, here = list(self._rules), self.directory
        for part in path.relative_to(self.directory).parts:
            rules += _ignore_files(here)
            here /= part
            for rule in rules:
                if rule.leaves_out(here, here.is_dir()):
                    return f"{rule.name} leaves out '{here.relative_to(self.directory)}'"
            if here.is_symlink() and here.is_dir():
                return f"'{here.relative_to(self.directory)}' is a link to a directory, and those are not followed"
        return None

    def archive(self) -> bytes:
        """The files as a zip; equal files, equal bytes.

        Raises:
            UserError: a file cannot be read, or the archive is larger than Ray's dashboard takes.
        """
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for file in self.files:
                info = zipfile.ZipInfo(file.relative_to(self.directory).as_posix(), _DATE)
                try:
                    info.external_attr = (0o755 if file.stat().st_mode & 0o100 else 0o644) << 16
                    data = file.read_bytes()
                except OSError as error:
                    raise UserError(
                        f"'{file}' cannot be sent along ({error.strerror}): mend it, or leave it out with --exclude"
                    ) from error
                archive.writestr(info, data, zipfile.ZIP_DEFLATED)
                if buffer.tell() > LIMIT:
                    raise UserError(self._too_large())
        if buffer.tell() > LIMIT:
            raise UserError(self._too_large())
        return buffer.getvalue()

    def _too_large(self) -> str:
        sizes = sorted(((file.stat().st_size, file) for file in self.files), reverse=True)[:_LARGEST]
        largest = ", ".join(f"'{file.relative_to(self.directory)}' ({size / 1e6:.0f} MB)" for size, file in sizes)
        return (
            f"the working directory '{self.directory}' is larger than the {LIMIT >> 20} MiB that Ray takes; the "
            f"largest files are {largest}: leave them out with --exclude or .rayignore, and put data into a bucket"
        )

    def _walk(self, directory: Path, rules: list[_Rule]) -> Iterator[Path]:
        rules = rules + _ignore_files(directory)
        try:
            entries = list(directory.iterdir())
        except OSError as error:
            raise UserError(
                f"directory '{directory}' cannot be read ({error.strerror}): leave it out with --exclude"
            ) from error
        for entry in entries:
            is_directory = entry.is_dir()
            if any(rule.leaves_out(entry, is_directory) for rule in rules):
                continue
            if entry.is_file():
                yield entry
            elif is_directory and not entry.is_symlink():
                yield from self._walk(entry, rules)


def _ignore_files(directory: Path) -> list[_Rule]:
    return [
        _Rule(directory, GitIgnoreSpec.from_lines(file.read_text(errors="replace").splitlines()), f"'{name}'")
        for name in IGNORE_FILES
        if (file := directory / name).is_file()
    ]
