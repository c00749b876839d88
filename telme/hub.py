"""Bundles by name: `hf://org/name`, kept on a model hub, pulled once and verified every time.

The client library keeps what it has pulled in its own cache, from which a bundle also opens without network, and finds
the token for private repositories by itself.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from telme.bundle import MANIFEST, Bundle, BundleError, parsed_manifest

SCHEME = "hf://"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_ADDRESS = re.compile(
    rf"{SCHEME}(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[^@#\s]+))?(?:#sha256=(?P<sha256>[0-9a-f]{{64}}))?"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubAddress:
    """Where a bundle lies on a hub: hf://org/name[@revision][#sha256=…].

    revision: branch, tag or commit; None is the main branch.
    sha256: what the bundle's own hash must be, as `Bundle.sha256` says it; None takes any.
    """

    repo: str
    revision: str | None = None
    sha256: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises BundleError for another form."""
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise BundleError(
                f"{text} is no address of a bundle on a hub; write hf://ORGANISATION/NAME, and behind it @REVISION or "
                "#sha256=HASH (64 hexadecimal digits) where one is wanted."
            )
        return cls(**found.groupdict())

    def __str__(self) -> str:
        return SCHEME + self.repo + (f"@{self.revision}" if self.revision else "")


def on_hub(source: str | Path) -> bool:
    """Whether a bundle is meant by its name on a hub, not by its folder."""
    return str(source).startswith(SCHEME)


def open_bundle(source: str | Path) -> Bundle:
    """A verified bundle: one in a folder, or one on the hub by its address, pulled if need be.

    Raises BundleError where there is none, or it is damaged or another one than the address asks for.
    """
    return pull(HubAddress.parse(str(source))) if on_hub(source) else Bundle.open(source)


def pull(address: HubAddress) -> Bundle:
    """The bundle at `address`, of which only the files that its manifest names are fetched.

    What is in the cache is not fetched again; without network a branch or tag is what it was when last seen.
    Raises BundleError.
    """
    with explained(address):
        from huggingface_hub import hf_hub_download

        manifest_file = Path(hf_hub_download(address.repo, MANIFEST, revision=address.revision))
        # The manifest lies in <cache>/<repository>/snapshots/<commit>; by commit, all files are of one version.
        folder = manifest_file.parent
        cache = folder.parents[2]
        remedy = f"push {address.repo} again if the hub has the same, else remove {folder.parents[1]} to pull it anew"
        manifest, sha256 = parsed_manifest(folder, remedy)
        if address.sha256 not in (None, sha256):
            raise BundleError(
                f"{address} is not the bundle that was asked for: its SHA-256 is {sha256}; change the address if that "
                "one is wanted, or name its revision."
            )
        for _, document in manifest.files():
            hf_hub_download(address.repo, document.file, revision=folder.name)
    found = Bundle.open(folder, links_into=cache, remedy=remedy)
    log.info("%s is bundle %s, commit %s", address, manifest.name, folder.name)
    return Bundle(found.folder, found.manifest, found.sha256, str(address))


@contextmanager
def explained(address: HubAddress, doing: str = "pulled from") -> Iterator[None]:
    """Within it, what the hub's client raises becomes a BundleError of one sentence.

    doing: what happens to the bundle, as in "cannot be pulled from" the hub.
    """
    try:
        from huggingface_hub import constants, errors
    except ImportError as missing:
        raise BundleError(f"{address} is on a model hub: run `pip install huggingface_hub` to reach it.") from missing
    try:
        yield
    except BundleError:
        raise
    except errors.GatedRepoError as error:
        raise BundleError(
            f"{address} is for whom its owner lets in; ask for access on {constants.ENDPOINT}/{address.repo}, then "
            "run `hf auth login`."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise BundleError(
            f"{constants.ENDPOINT} has no {address.repo}, or it is private; correct the name, or run `hf auth login` "
            "with a token that may use it."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BundleError(f"{address.repo} has no revision {address.revision}; name another one.") from error
    except errors.LocalEntryNotFoundError as error:
        raise BundleError(
            f"{address} is not in the cache {constants.HF_HUB_CACHE}, and {constants.ENDPOINT} cannot be reached "
            f"({_reason(error.__cause__ or error)}); connect to the network once, or give a folder."
        ) from error
    except errors.EntryNotFoundError as error:
        raise BundleError(
            f"{address} is not a bundle, or not a whole one: a file is missing ({_reason(error)}); push it again with "
            "`telme-export push`."
        ) from error
    except errors.HfHubHTTPError as error:
        forbidden = error.response.status_code in (401, 403)
        advice = "run `hf auth login` with a token that may do so" if forbidden else "try again later"
        raise BundleError(f"{address} cannot be {doing} {constants.ENDPOINT} ({_reason(error)}); {advice}.") from error
    except Exception as error:  # the client lets through what its HTTP library, the disk and its own checks raise
        raise BundleError(f"{address} cannot be {doing} {constants.ENDPOINT}: {_reason(error)}.") from error


def _reason(error: BaseException) -> str:
    """The last line that says something: the client puts advice and request numbers before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200].rstrip(".")
