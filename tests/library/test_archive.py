"""A file of arrays vouches for itself, and brings no code along."""

import hashlib
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from metacontrast.train._archive import DamagedError, read_arrays, write_arrays


def test_every_bit_of_a_file_is_vouched_for(tmp_path):
    path = tmp_path / "a.npz"
    write_arrays(path, {"x": np.arange(3.0), "narrow": np.asarray(jnp.ones(2, jnp.bfloat16))}, {})
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :])
        with pytest.raises(DamagedError, match=r"^a.npz: its checksum"):
            read_arrays(path)
    path.write_bytes(whole)
    arrays, _ = read_arrays(path)
    assert [str(x.dtype) for x in arrays.values()] == ["float64", "bfloat16"]
    assert zipfile.ZipFile(path).testzip() is None


def test_a_file_has_the_same_bytes_whenever_it_is_written_and_follows_no_link(tmp_path):
    other = tmp_path / "other"
    other.write_text("untouched")
    contents = []
    for name in ("a.npz", "b.npz"):
        (tmp_path / f"{name}.tmp").symlink_to(other)
        write_arrays(tmp_path / name, {"x": np.arange(3.0)}, {"about": 1})
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert other.read_text() == "untouched"


def test_no_file_brings_code_along(tmp_path):
    """Sealed as ours are, but with a pickle in it."""
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([print], object))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("about.json", '{"types": {}}')
        archive.comment = b"sha256:" + b"0" * 64
    body = path.read_bytes()[:-71]
    path.write_bytes(body + b"sha256:" + hashlib.sha256(body).hexdigest().encode())
    with pytest.raises(DamagedError, match="Object arrays cannot be loaded"):
        read_arrays(path)
