"""The marks of synthetic media: any id survives, any standard reader finds them, hostile packets are refused."""

import io
import json
import re
from xml.etree import ElementTree

import pytest
from PIL import Image, PngImagePlugin

from actors.marks import TRAINED_ALGORITHMIC_MEDIA, Marks, mark, produce_id, read_marks

AWKWARD_IDS = [
    "plain-0001",
    "",
    "<b>&\"'</b>]]>",
    "line\nbreak\ttab\r\n",
    "nul\x00 bell\x07 escape\x1b delete\x7f",
    "一只猫在沙滩上玩耍 🐈‍⬛ עברית",
    "\ud800 lone surrogate \ufffe\uffff",
    "%s {0} %(x)s",
    "../../etc/passwd",
    "\U0001f408" * 1024,
]


def png_with(packet: str) -> bytes:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", packet)
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "png", pnginfo=chunks)
    return file.getvalue()


@pytest.mark.parametrize("image_id", AWKWARD_IDS)
def test_any_id_makes_legal_xml_and_is_read_back_unchanged(image_id):
    packet = mark(image_id)
    ElementTree.fromstring(packet)  # well-formed
    assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]", packet)
    marks = read_marks(png_with(packet.decode("utf-8")))
    assert marks.image_id == image_id
    assert marks.synthetic


def test_the_packet_says_what_the_two_standards_ask_for():
    root = ElementTree.fromstring(mark("a1", producer="图厂"))
    description = root.find(".//{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    source = description.find("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")
    assert source.text == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert json.loads(description.find("{http://www.tc260.org.cn/ns/AIGC/1.0/}AIGC").text) == {
        "Label": "1",
        "ContentProducer": "图厂",
        "ProduceID": "a1",
        "ReservedCode1": "",
        "ContentPropagator": "",
        "PropagateID": "",
        "ReservedCode2": "",
    }


def test_marks_are_the_same_bytes_every_time():
    assert mark("a1") == mark("a1")
    assert mark("a1") != mark("a2")


def test_an_id_too_long_for_a_jpeg_is_marked_by_its_digest():
    long_id = "\U0001f408" * 100_000
    packet = mark(long_id)
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "jpeg", xmp=packet)  # Pillow raises where a segment overflows
    assert read_marks(file.getvalue()).image_id == produce_id(long_id)
    assert produce_id(long_id).startswith("sha256:")
    assert produce_id(long_id) != produce_id(long_id + "x")
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "jpeg", xmp=mark("\U0001f408" * 1024))  # the longest that is kept


def test_a_file_without_marks_says_nothing():
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "webp")
    assert read_marks(file.getvalue()) == Marks(digital_source_type=None, aigc={})
    assert not read_marks(file.getvalue()).synthetic


def test_marks_written_as_attributes_by_another_tool_are_read():
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:I="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'I:DigitalSourceType="{TRAINED_ALGORITHMIC_MEDIA}"/></rdf:RDF></x:xmpmeta>'
    )
    assert read_marks(png_with(packet)).digital_source_type == TRAINED_ALGORITHMIC_MEDIA


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]><x>&b;</x>'
AIGC = (
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:T="http://www.tc260.org.cn/ns/AIGC/1.0/">'
    "<rdf:Description><T:AIGC>%s</T:AIGC></rdf:Description></rdf:RDF>"
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable"),
        (b"GIF89a" + bytes(100), "not a readable"),
        (png_with("<x><y></x>"), "not well-formed"),
        (png_with(BOMB), "declares a document type"),
        (png_with('<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>'), "declares a document type"),
        (png_with(AIGC % "not json"), "not JSON"),
        (png_with(AIGC % "[1]"), "not a JSON object"),
        (png_with(AIGC % ("[" * 200_000)), "not JSON"),
    ],
)
def test_what_cannot_be_read_is_one_clear_error(data, message):
    with pytest.raises(ValueError, match=message):
        read_marks(data)
