"""What an image says of itself, read by others too: exiv2, exiftool where it is installed, and the C2PA reader."""

from __future__ import annotations

import datetime as dt
import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import c2pa
import numpy as np
import pyexiv2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from actors.content_credentials import CredentialSettings, ImageSigner
from actors.errors import UserError
from actors.images import MEDIA_TYPES, ImageEncoder
from actors.marks import TRAINED_ALGORITHMIC_MEDIA, read_marks
from jobs.cli import main
from pipeline.commit import read_records
from pipeline.read_output import sample_rows
from tests.pipeline.sound_outputs import FORMATS, make_sound_output

ENCODINGS = ["png", "jpeg", "webp"]
AWKWARD = "一只猫 <b>&'\" 🐈"
PIXELS = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_independent_readers_find_the_marks(tmp_path: Path, encoding: str) -> None:
    data = ImageEncoder(encoding, 90).encode(PIXELS, AWKWARD).data
    with pyexiv2.ImageData(data) as image:
        xmp = image.read_xmp()
    assert xmp["Xmp.iptcExt.DigitalSourceType"] == TRAINED_ALGORITHMIC_MEDIA
    assert json.loads(next(value for name, value in xmp.items() if name.endswith(".AIGC")))["ProduceID"] == AWKWARD


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed (libimage-exiftool-perl)")
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_exiftool_finds_the_marks(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / f"image.{encoding}"
    path.write_bytes(ImageEncoder(encoding, 90).encode(PIXELS, AWKWARD).data)
    said = json.loads(subprocess.run(["exiftool", "-j", "-n", "-G1", path], capture_output=True, check=True).stdout)
    assert said[0]["XMP-iptcExt:DigitalSourceType"] == TRAINED_ALGORITHMIC_MEDIA
    fields = next(value for name, value in said[0].items() if name.lower().endswith(":aigc"))
    assert json.loads(fields)["ProduceID"] == AWKWARD


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> CredentialSettings:
    """A signer with a certificate chain that nobody trusts, its authority beside it as ``authority.pem``."""
    where, now = tmp_path_factory.mktemp("signer"), dt.datetime.now(dt.UTC)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("Authority", "Signer")}
    uses = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
            "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip

    def certificate(subject: str, *extensions: tuple[x509.ExtensionType, bool], use: str) -> bytes:
        def name(common: str) -> x509.Name:
            organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "promptmill tests")
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common), organisation])

        builder = x509.CertificateBuilder(name("Authority"), name(subject), keys[subject].public_key(),
            x509.random_serial_number(), now - dt.timedelta(days=1), now + dt.timedelta(days=30))  # fmt: skip
        usage = x509.KeyUsage(**{one: one == use for one in uses})
        authority = keys["Authority"].public_key()
        for extension, critical in (
            *extensions, (usage, True),
            (x509.SubjectKeyIdentifier.from_public_key(keys[subject].public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(authority), False),
        ):  # fmt: skip
            builder = builder.add_extension(extension, critical)
        return builder.sign(keys["Authority"], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    above = certificate("Authority", (x509.BasicConstraints(True, None), True), use="key_cert_sign")
    email = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
    own = certificate("Signer", (x509.BasicConstraints(False, None), True), (email, False), use="digital_signature")
    (where / "authority.pem").write_bytes(above)
    (where / "chain.pem").write_bytes(own + above)
    for name, key in keys.items():
        (where / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return CredentialSettings(str(where / "chain.pem"), str(where / "Signer.key"), "es256", None, "0.1.0")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_c2pa_reader_trusts_a_signed_image_and_finds_a_change(signer: CredentialSettings, encoding: str) -> None:
    data = ImageEncoder(encoding, 90, signer=ImageSigner(signer)).encode(PIXELS, "an-id").data
    assert read_marks(data).image_id == "an-id", "the manifest leaves the marks where they are"
    anchors = (Path(signer.certificate).parent / "authority.pem").read_text()
    context = c2pa.Context.from_dict({"trust": {"trust_anchors": anchors}, "verify": {"remote_manifest_fetch": False}})

    def said(image: bytes) -> dict:
        return json.loads(c2pa.Reader(MEDIA_TYPES[encoding], io.BytesIO(image), context=context).json())

    found = said(data)
    assert found["validation_state"] == "Trusted"
    (assertion,) = [a for a in found["manifests"][found["active_manifest"]]["assertions"] if "actions" in a["label"]]
    (action,) = assertion["data"]["actions"]
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", TRAINED_ALGORITHMIC_MEDIA)
    changed = data.replace(b"an-id", b"my-id", 1)
    assert changed != data
    assert said(changed)["validation_state"] == "Invalid"


def test_a_signer_that_does_not_work_is_told_in_one_sentence_without_its_key(
    signer: CredentialSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Path(signer.key).with_name("Authority.key")
    for settings, says in (
        (replace(signer, certificate="nowhere.pem"), "output.c2pa.certificate: cannot read 'nowhere.pem'"),
        (replace(signer, key="env:NO_SUCH_KEY"), "the environment variable NO_SUCH_KEY is not set"),
        (replace(signer, key=str(wrong)), "check that the key belongs to the certificate"),
        (replace(signer, key="env:CANARY_KEY"), "check that the key belongs to the certificate"),
    ):
        monkeypatch.setenv("CANARY_KEY", "canary-of-a-key")
        with pytest.raises(UserError, match=says) as caught:
            ImageSigner(settings)
        assert "canary-of-a-key" not in str(caught.value)
    monkeypatch.setenv("CANARY_KEY", Path(signer.key).read_text())
    ImageSigner(replace(signer, key="env:CANARY_KEY"))


@pytest.mark.parametrize("kind", FORMATS)
def test_inspect_prints_the_marks_and_finds_the_row(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store, _ = make_sound_output(tmp_path / "out", kind)
    (row,) = sample_rows(store, kind, read_records(store, [2]), 1)
    image = tmp_path / "image.png"
    image.write_bytes(row.image)
    assert main(["inspect", str(image), str(store.root)]) == 0
    printed = capsys.readouterr().out
    for text in (TRAINED_ALGORITHMIC_MEDIA, row.values["id"], "shard 2", row.values["description"], "a cat 猫",
                 "the same bytes", "16x12", "no manifest", str(row.values["seed"])):  # fmt: skip
        assert text in printed
    assert main(["inspect", str(image)]) == 0
    other, _ = make_sound_output(tmp_path / "other", kind, 1)
    assert main(["inspect", str(image), str(other.root)]) == 1
    assert "has no image of this id" in capsys.readouterr().err
    image.write_bytes(b"GIF89a")
    assert main(["inspect", str(image)]) == 2


def test_inspect_prints_what_a_manifest_says(
    tmp_path: Path, signer: CredentialSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(ImageEncoder("png", 90, signer=ImageSigner(signer)).encode(PIXELS, "an-id").data)
    assert main(["inspect", str(image)]) == 0
    printed = capsys.readouterr().out
    assert "a manifest, valid" in printed
    assert "signed by Signer (promptmill tests)" in printed
    assert "signingCredential.untrusted" in printed
    assert f"c2pa.created, {TRAINED_ALGORITHMIC_MEDIA}" in printed
