"""Which file a model's name stands for: a bundled one, a file, a package's folder, or a repository of the hub."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

from edge.errors import ContractError

BUNDLED = Path(__file__).parent / "assets" / "edge-listen.int8.onnx"
BUNDLED_NAMES = {"tiny": BUNDLED.with_name("edge-listen-tiny.int8.onnx")}
PACKAGED = ("model.int8.onnx", "model.onnx")  # the files of a package; the first that is there is taken

# A path object makes one slash of two. A revision with slashes writes them as %2F, as in the hub's own addresses.
HUB = re.compile(r"hf:/{1,2}(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>[^/@]+))?(?:/(?P<folder>.+?))?/?")
UPDATED = re.compile(r"update(:|$)")
CARRY = "on a machine with a network, download its folder, copy it here, and give --model FOLDER"


def resolve(model: str | Path | None) -> Path:
    """The ONNX file of ``model``: None (the bundled one), a bundled name, FILE, FOLDER, or
    ``hf://owner/name[@revision][/folder]``, which is downloaded, or taken from the hub's cache, or ``update[:FOLDER]``,
    the current one of edge-update, in its usual folder or that one.

    A file is not looked at. Raises ContractError where a folder or a repository has no model, or cannot be had.
    """
    if model is None:
        return BUNDLED
    if re.match("hf:/", str(model)):
        return _from_hub(str(model))
    if UPDATED.match(str(model)):
        return _updated(str(model))
    path = BUNDLED_NAMES.get(str(model), Path(model))
    try:
        is_folder = path.is_dir()
    except OSError:  # whoever reads the file says why
        return path
    if not is_folder:
        return path
    for name in PACKAGED:
        if (path / name).exists():
            return path / name
    raise ContractError(
        f"folder {path} has neither {' nor '.join(PACKAGED)}", remedy="give a model package, or an ONNX file"
    )


def variants(model: str | Path | None) -> tuple[Path, ...]:
    """The files among which a device may choose for ``model``: int8 and fp32 of a bundled one and of a package, or the
    one file that was named. The first is the default. Raises as :func:`resolve`.
    """
    path = resolve(model)
    if path == Path(str(model)) or UPDATED.match(str(model)):
        return (path,)
    if path.name in PACKAGED:
        return tuple(p for p in (path.with_name(name) for name in PACKAGED) if p.exists())
    return path, path.with_name(path.name.replace(".int8.", "."))


def updated_folder(model: str | Path | None) -> Path | None:
    """The folder of edge-update whose current model ``model`` stands for; None where it stands for another."""
    if not UPDATED.match(str(model)):
        return None
    from edge.update.versions import default_folder

    folder = str(model).partition(":")[2]
    return Path(folder) if folder else default_folder()


def _updated(model: str) -> Path:
    """The current model of edge-update."""
    from edge.update.versions import Versions

    folder = updated_folder(model)
    assert folder is not None
    return Versions(folder).current()


def _from_hub(model: str) -> Path:
    """The file, from the hub or its cache: nothing else of the repository is downloaded."""
    if not (found := HUB.fullmatch(model)):
        raise ContractError(f"{model} names no model", remedy="write hf://owner/name[@revision][/folder]")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import tqdm
    except ImportError:
        raise ContractError(
            f"{model} needs huggingface_hub, which is not installed", remedy="pip install 'edge-listen[hub]'"
        ) from None

    class NoBar(tqdm):  # type: ignore[misc]  # it would draw bars into logs, and when nothing is loaded
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings | {"disable": True})

    revision = found["revision"] and unquote(found["revision"])
    logging.disable(logging.WARNING)  # it warns that there is no int8 file, and that nobody is logged in
    try:
        for name in PACKAGED:
            inside = f"{found['folder']}/{name}" if found["folder"] else name
            folder = snapshot_download(found["repository"], revision=revision, allow_patterns=inside, tqdm_class=NoBar)
            if (path := Path(folder, inside)).exists():
                return path
    except Exception as error:  # its HTTP library, which has changed twice, raises classes of its own
        _refuse(model, error)
    finally:
        logging.disable(logging.NOTSET)
    raise ContractError(
        f"{model} has neither {' nor '.join(PACKAGED)}", remedy="name a repository, or a folder in it, with a package"
    )


def _refuse(model: str, error: Exception) -> NoReturn:
    """One line for what the hub or the network has against ``model``."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):  # is a RepositoryNotFoundError as well
        what, remedy = "is gated: its owners choose who may load it", "ask them on its page, then run hf auth login"
    elif isinstance(error, errors.RepositoryNotFoundError):
        what, remedy = "does not exist, or is private", "check the name; for a private one, run hf auth login"
    elif isinstance(error, errors.RevisionNotFoundError):
        what, remedy = "does not exist in that revision", "name a branch, a tag or a commit of it after @"
    elif constants.HF_HUB_OFFLINE:
        what, remedy = "is not in the cache, and HF_HUB_OFFLINE is set", f"unset it, or {CARRY}"
    elif isinstance(error, errors.LocalEntryNotFoundError):
        what, remedy = "is not in the cache, and the hub cannot be reached", f"check the network, or {CARRY}"
    else:
        what, remedy = f"cannot be loaded: {' '.join(str(error).split()):.200}", CARRY
    raise ContractError(f"{model} {what}", remedy=remedy) from None
