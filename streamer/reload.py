"""Settings that change while the program runs: read again, compared, and handed on, all of them or none."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence

from pydantic import BaseModel

from streamer.settings import StreamSettings

log = logging.getLogger(__name__)


class ReloadError(Exception):
    """Settings that need a restart; the message names them."""


class Reloader:
    """Reads the settings again, in all their layers, and hands them to whoever goes by them.

    read: reads and checks them; raises ConfigurationError.
    users: take new settings. They obey those that are `reloadable`, at once or soon, and never fail.
    """

    def __init__(
        self,
        settings: StreamSettings,
        read: Callable[[], StreamSettings],
        users: Sequence[Callable[[StreamSettings], None]],
    ) -> None:
        self._settings = settings
        self._read = read
        self._users = users
        self._one_at_a_time = asyncio.Lock()

    async def reload(self) -> tuple[str, ...]:
        """The keys whose values changed.

        Raises ConfigurationError for settings that cannot be used, and ReloadError where one that changed needs a
        restart. Then nothing has changed at all.
        """
        async with self._one_at_a_time:
            settings = await asyncio.to_thread(self._read)
            changes = dict(changed(self._settings, settings))
            fixed = [key for key, reloadable in changes.items() if not reloadable]
            if fixed:
                raise ReloadError(f"a change of {', '.join(fixed)} needs a restart; nothing was changed.")
            for use in self._users:
                use(settings)
            self._settings = settings
        if changes:
            log.warning("settings reloaded; changed: %s", ", ".join(changes))
        else:
            log.warning("settings reloaded; none has changed")
        return tuple(changes)


def changed(old: BaseModel, new: BaseModel, above: str = "") -> Iterator[tuple[str, bool]]:
    """(key, whether it is `reloadable`) of each setting that differs."""
    for name in type(new).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, BaseModel) and isinstance(after, BaseModel):
            yield from changed(before, after, f"{above}{name}.")
        elif before != after:
            yield f"{above}{name}", name in getattr(type(new), "reloadable", ())
