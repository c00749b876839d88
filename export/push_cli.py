"""telme-export push: put a bundle on a model hub, from which it is pulled by name."""

import argparse
import logging
import sys
from collections.abc import Sequence

from rich.logging import RichHandler

from export.errors import ExportError
from export.push import push
from telme.bundle import BundleError
from telme.hub import HubAddress, open_bundle

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns 0, or 2 after one sentence about what to mend."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", handlers=[RichHandler(show_path=False)])
    logging.getLogger("export").setLevel(logging.INFO)
    try:
        address = HubAddress.parse(options.address)
        pushed = push(open_bundle(options.bundle), address, private=options.private, message=options.message)
    except (ExportError, BundleError) as error:
        sys.stderr.write(f"telme-export push: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("telme-export push: interrupted; the hub shows no half of a bundle.\n")
        return 130
    log.info("pushed; `telme-stream --bundle %s` runs it, %s#sha256=%s this very one", address, pushed, pushed.sha256)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="telme-export push", description=__doc__)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle, or hf://org/name of another repository")
    parser.add_argument("address", metavar="hf://ORG/NAME", help="repository on the hub; made if there is none")
    parser.add_argument("--private", action="store_true", help="only for whom the repository's owner lets in")
    parser.add_argument("--message", metavar="TEXT", help="of the commit")
    return parser
