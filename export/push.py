"""A bundle goes to a model hub: every file that its manifest names, in one commit, with a page about it."""

from export import hub_card
from export.errors import ExportError
from telme.bundle import MANIFEST, Bundle
from telme.hub import HubAddress, explained

PAGE = "README.md"  # the name that the hub shows


def push(bundle: Bundle, address: HubAddress, *, private: bool = False, message: str | None = None) -> HubAddress:
    """Make the repository if need be, and put a verified bundle into its main branch.

    private: only for whom its owner lets in; a repository that is public already is refused.
    message: of the commit.
    Returns where exactly the bundle lies: its commit and hash.
    Raises ExportError for an address that cannot be written to and a bundle with files named as the pages that are made
    here, BundleError when the hub does not take it.
    """
    if address.revision or address.sha256:
        raise ExportError(f"A bundle is pushed to the main branch: write {HubAddress(address.repo)}.")
    manifest = bundle.manifest
    files = {MANIFEST, *(document.file for _, document in manifest.files())}
    pages = {PAGE: hub_card.write(manifest), hub_card.LICENCE: hub_card.licence(manifest)}
    if taken := sorted(files & pages.keys()):
        raise ExportError(
            f"{bundle.folder} has a file {taken[0]} of its own, in the place of the page that push makes; "
            "export it again with that file under another name."
        )
    with explained(address, "pushed to"):
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi()
        api.create_repo(address.repo, private=private or None, exist_ok=True)
        public = not api.repo_info(address.repo).private
    if private and public:
        raise ExportError(
            f"{address.repo} is a public repository; make it private on its page, or choose another name."
        )
    with explained(address, "pushed to"):
        commit = api.create_commit(
            address.repo,
            [
                *(CommitOperationAdd(file, bundle.folder / file) for file in sorted(files)),
                *(CommitOperationAdd(file, text.encode()) for file, text in pages.items()),
            ],
            commit_message=message or f"Add bundle {manifest.name}, SHA-256 {bundle.sha256[:12]}…",
        )
    return HubAddress(address.repo, commit.oid, bundle.sha256)
