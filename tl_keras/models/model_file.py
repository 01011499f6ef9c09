"""The `.keras` archive: written deterministically, and checked when it is read.

It is a zip file of three uncompressed members: `config.json` has the layers, `metadata.json` the
versions, and `model.weights.h5` the tensors. Light to import: `file_structure` parses foreign
archives in a separate process.
"""

from __future__ import annotations

import hashlib
import io
import json
import reprlib
import stat
import struct
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from tl_keras.errors import DataError
from tl_keras.models import file_config, file_kind
from tl_keras.storage import files

if TYPE_CHECKING:
    import keras

    from tl_keras.models.weights import Origin

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
ORIGIN = "tl_keras"

# Hundreds of times the size for the largest network of Keras.
MAX_TEXT_BYTES = 2**26
CHUNK_BYTES = 2**20

LOCAL_HEADER = struct.Struct("<26xHH")


class Member(NamedTuple):
    """The location of the weights, an HDF5 file, in an archive.

    Attributes:
        start: offset of its first byte.
        size: in bytes.
        description: the JSON that tl_keras wrote about the origin of the weights, or "".
        layers: see `file_structure.Structure`.
    """

    start: int
    size: int
    description: str
    layers: list[file_config.Node] | str | None = None


def save(path: Path, model: keras.Model, origin: Origin | None = None) -> str:
    """Write a model for `keras.models.load_model` atomically.

    The bytes depend on the model and its weights only, not on the time or on other models in the
    process.

    Args:
        path: of the file, which ends in .keras.
        model: the model.
        origin: the origin of its weights, for runs that use them as a source.

    Returns:
        The sha256 of the file's bytes.

    Raises:
        WriteError: the file cannot be written. An existing file is unchanged.
    """
    unfinished = path.with_name(f"unfinished.{path.name}")
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            model.save(unfinished)
            data = _rewrite_archive(unfinished, origin)
        finally:
            unfinished.unlink(missing_ok=True)
    files.write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def _rewrite_archive(path: Path, origin: Origin | None) -> bytes:
    """Return a deterministic copy of the archive that Keras wrote at `path`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as written, zipfile.ZipFile(buffer, "w") as rewritten:
        metadata = json.loads(written.read(METADATA))
        del metadata["date_saved"]
        if origin is not None:
            metadata[ORIGIN] = origin.describe()
        texts = {
            METADATA: json.dumps(metadata),
            CONFIG: json.dumps(_renumber_shared_objects(written.read(CONFIG))),
        }
        for name in [*texts, *sorted(set(written.namelist()) - set(texts))]:
            member = zipfile.ZipInfo(name)
            member.external_attr = 0o600 << 16
            rewritten.writestr(member, texts.get(name) or written.read(name))
    return buffer.getvalue()


def _renumber_shared_objects(config: bytes) -> Any:
    """Return a model's configuration with shared objects numbered from 1.

    Keras numbers them by their memory addresses.
    """
    numbers: dict[int, int] = {}

    def renumber(part: dict[str, Any]) -> dict[str, Any]:
        if "shared_object_id" in part:
            known = numbers.setdefault(part["shared_object_id"], len(numbers) + 1)
            part["shared_object_id"] = known
        return part

    return json.loads(config, object_hook=renumber)


def find_weights(file: BinaryIO, size: int) -> Member:
    """Return the location of the weights in an untrusted archive. No code in it is executed.

    Args:
        file: the archive.
        size: of it, in bytes.

    Raises:
        DataError: the archive is not one that Keras writes, or needs code outside of Keras. The
            message continues the file's name.
        Exception: of many kinds, if the archive is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        if other := file_kind.describe_other_archive(archive.namelist()):
            raise DataError(other)
        _check_members(archive.infolist(), size)
        missing = {CONFIG, METADATA, WEIGHTS} - set(archive.namelist())
        if missing:
            raise DataError(f"is a zip file without {min(missing)}, and not a .keras archive")
        config = _read_json(archive, CONFIG)
        _check_config(config)
        metadata = _read_json(archive, METADATA)
        # zipfile compares a member's checksum when the member is read completely.
        with archive.open(WEIGHTS) as member:
            while member.read(CHUNK_BYTES):
                pass
        found = archive.getinfo(WEIGHTS)
    file.seek(found.header_offset)
    header = file.read(LOCAL_HEADER.size)
    start = found.header_offset + LOCAL_HEADER.size + sum(LOCAL_HEADER.unpack(header))
    own = metadata.get(ORIGIN) if isinstance(metadata, dict) else None
    if own is not None:
        return Member(start, found.file_size, json.dumps(own))
    return Member(start, found.file_size, "", file_config.read(config))


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse members that Keras never writes, such as zip bombs."""
    seen: set[str] = set()
    for member in members:
        name = member.filename
        path = PurePosixPath(name.replace("\\", "/"))
        if name in seen:
            raise DataError(f"has {reprlib.repr(name)} twice")
        seen.add(name)
        if path.is_absolute() or ".." in path.parts or stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(f"has {reprlib.repr(name)}, which leads out of the archive")
        if member.flag_bits & 1:
            raise DataError(f"is encrypted. Unpack it, and give the {WEIGHTS} in it")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise DataError(
                f"has {reprlib.repr(name)} compressed, of {member.file_size:,} bytes in"
                f" {member.compress_size:,}, and Keras compresses nothing. Unpack it, and give the"
                f" {WEIGHTS} in it"
            )
    if sum(member.file_size for member in members) > size:
        raise DataError("has members that are larger than the archive")


def _read_json(archive: zipfile.ZipFile, name: str) -> Any:
    if archive.getinfo(name).file_size > MAX_TEXT_BYTES:
        raise DataError(f"has a {name} of {archive.getinfo(name).file_size:,} bytes")
    try:
        return json.loads(archive.read(name))
    except ValueError as error:
        raise DataError(f"has a {name} that is not JSON: {ascii(str(error))}") from error


def _check_config(config: Any) -> None:
    """Refuse a model with code outside of Keras, which its weights alone would not include."""
    if not isinstance(config, dict) or "class_name" not in config:
        raise DataError(f"has a {CONFIG} that describes no model")
    waiting: list[Any] = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            if _is_code(part):
                name, module = map(reprlib.repr, (part.get("class_name"), part.get("module")))
                raise DataError(
                    f"has a {name} of {module}, which is code outside of Keras and is not"
                    f" executed. Unpack it, and give the {WEIGHTS} in it"
                )
            # Losses and metrics do not matter.
            waiting += [value for key, value in part.items() if key != "compile_config"]


def _is_code(part: dict[str, Any]) -> bool:
    """Return whether a part of a configuration needs code outside of Keras."""
    module, registered = part.get("module"), part.get("registered_name")
    return (
        (isinstance(module, str) and not f"{module}.".startswith("keras."))
        # Registered custom objects: "package>Name".
        or (isinstance(registered, str) and ">" in registered)
        or part.get("class_name") in ("Lambda", "__lambda__")
    )
