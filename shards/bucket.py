"""A folder in an object store that is written to; an upload appears when it's complete."""

from collections.abc import Callable, Iterator
from pathlib import Path

from dvae.data.objects import ObjectStore
from dvae.data.patience import Deadline, gather
from dvae.errors import UserError


class Bucket(ObjectStore):
    """An object store that is written to."""

    def upload(self, path: Path, name: str) -> None:
        """Send a file.

        Raises:
            StoreError: it can't be sent, or has another size there.
        """
        self._insist(name, lambda: self._files.put_file(str(path), f"{self._root}/{name}"))
        if self.size(name) != path.stat().st_size:
            raise UserError(f"{self.shown}/{name} has another size than what was sent: try again")

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return bool(self._insist(name, lambda: self._files.exists(f"{self._root}/{name}")))

    def remove(self, name: str) -> None:
        """Delete a file that may be there."""
        if self.has(name):
            self._insist(name, lambda: self._files.rm_file(f"{self._root}/{name}"))

    def there(self) -> list[str]:
        """The files of the folder; none if there's no such folder."""
        if not self._insist("", lambda: self._files.exists(self._root)):
            return []
        self._files.invalidate_cache()
        return self.names()

    def _insist(self, name: str, request: Callable[[], object]) -> object:
        answer: list[object] = []

        def pieces(_: int, __: Deadline) -> Iterator[bytes]:
            answer.append(self._try(name, request))
            yield b"\0"

        gather(pieces, 1, self.patience, f"{self.shown}/{name}")
        return answer[-1]
