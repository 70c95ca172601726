"""A folder in an object store that is written to; an upload appears when it's complete."""

from pathlib import Path

from dvae.data.objects import ObjectStore
from dvae.errors import UserError


class Bucket(ObjectStore):
    """An object store that is written to."""

    def upload(self, path: Path, name: str) -> None:
        """Send a file.

        Raises:
            StoreError: it can't be sent, or has another size there.
        """
        self._ask(name, lambda: self._files.put_file(str(path), f"{self._root}/{name}"))
        if self.size(name) != path.stat().st_size:
            raise UserError(f"{self.shown}/{name} has another size than what was sent: try again")

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return bool(self._ask(name, lambda: self._files.exists(f"{self._root}/{name}")))

    def remove(self, name: str) -> None:
        """Delete a file that may be there."""
        if self.has(name):
            self._ask(name, lambda: self._files.rm_file(f"{self._root}/{name}"))

    def there(self) -> list[str]:
        """The files of the folder; none if there's no such folder."""
        if not self._ask("", lambda: self._files.exists(self._root)):
            return []
        self._files.invalidate_cache()
        return self.names()
