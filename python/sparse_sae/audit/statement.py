"""The in-toto statement of a bundle, and its signature (DSSE, Ed25519) by a key in a file.

https://github.com/in-toto/attestation (test-result v0.1), https://github.com/secure-systems-lab/dsse
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparse_sae._io.files import FormatError, reading
from sparse_sae.audit.hashes import canonical, sha256

_TYPE = "application/vnd.in-toto+json"


def statement(members: Mapping[str, bytes], results: Mapping[str, Any]) -> bytes:
    """statement.json: the hashes of all other members, and how each check ended."""

    def ended(verdict: str) -> list[str]:
        return [check["name"] for check in results["checks"] if check["verdict"] == verdict]

    return canonical(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [
                {"name": name, "digest": {"sha256": sha256(members[name])}} for name in sorted(members)
            ],
            "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
            "predicate": {
                "result": results["verdict"],
                "configuration": [
                    {"name": "policy.json", "digest": {"sha256": sha256(members["policy.json"])}}
                ],
                "passedTests": ended("PASSED"),
                "warnedTests": ended("WARNED"),
                "failedTests": ended("FAILED"),
            },
        }
    )


def _crypto() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ModuleNotFoundError as error:
        raise ImportError('signatures need cryptography: pip install "sparse-sae[audit]"') from error
    return serialization


def _signed_bytes(body: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(_TYPE), _TYPE.encode(), len(body), body)


def sign(body: bytes, key: str | Path) -> bytes:
    """signature.json: a DSSE envelope of the statement, with the public key beside it.

    Args:
        key: a file with an Ed25519 private key (PEM, not encrypted), as `openssl genpkey -algorithm ed25519` makes.
    """
    serialization = _crypto()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    with reading(Path(key), "an Ed25519 private key in PEM"):
        private = serialization.load_pem_private_key(Path(key).read_bytes(), password=None)
    if not isinstance(private, Ed25519PrivateKey):
        raise FormatError(f"{key}: expected an Ed25519 private key")
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signature = private.sign(_signed_bytes(body))
    return canonical(_envelope(body, public, signature))


def check_signature(envelope: bytes, body: bytes, public_key: str | Path | None = None) -> str:
    """The id (SHA-256) of the key that signed the statement.

    Args:
        public_key: the PEM file that the signature must be of; without it the key inside says who signed, which proves
            only that the bundle was not changed afterwards.

    Raises:
        FormatError: no valid signature, of another statement, or by another key.
    """
    serialization = _crypto()
    with reading(Path("signature.json"), "a DSSE envelope"):
        value = json.loads(envelope)
        own = canonical(value) == envelope
        pem = value["publicKey"].encode()
        (entry,) = value["signatures"]
        payload = base64.b64decode(value["payload"], validate=True)
        public = serialization.load_pem_public_key(pem)
        raw = base64.b64decode(entry["sig"], validate=True)
        again = _envelope(payload, pem, raw)
    if not own or value != again or payload != body:
        raise FormatError("signature.json: is of another statement, or was edited")
    try:
        public.verify(raw, _signed_bytes(body))
    except Exception as error:
        raise FormatError(f"signature.json: the signature does not hold ({type(error).__name__})") from None
    if public_key is not None:
        with reading(Path(public_key), "a public key in PEM"):
            wanted = serialization.load_pem_public_key(Path(public_key).read_bytes())
        encoded = wanted.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        if encoded != pem:
            raise FormatError(f"signature.json: signed with another key than {public_key}")
    return sha256(pem)


def _envelope(body: bytes, pem: bytes, signature: bytes) -> dict[str, Any]:
    """The envelope that these make."""
    return {
        "payload": base64.b64encode(body).decode(),
        "payloadType": _TYPE,
        "publicKey": pem.decode(),
        "signatures": [{"keyid": sha256(pem), "sig": base64.b64encode(signature).decode()}],
    }
