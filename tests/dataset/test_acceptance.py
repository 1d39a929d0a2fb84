"""Acceptance: what is in a file, with and without the libraries, and what is said of it."""

import builtins
import io
import struct

import pytest
from PIL import Image, PngImagePlugin

from batcher.dataset.acceptance import differences, look_into
from batcher.media.finding import Finding
from batcher.media.probe import read_headers
from tests.support.dataset import RunMaker, clip, picture
from tests.support.engine import job


@pytest.fixture
def bare(monkeypatch):
    """A machine without PyAV and Pillow."""
    real = builtins.__import__

    def refuse(name, *rest):
        if name in ("av", "PIL"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)


def saved(path, image, **how):
    image.save(path, **how)
    return path


def written(path, content):
    path.write_bytes(content)
    return path


def test_headers_alone_tell_what_decoding_tells_of_a_video(tmp_path):
    path = written(tmp_path / "x.mp4", clip("x"))
    assert read_headers(path) == look_into(path) == Finding("video/mp4", 320, 180, 2.0, 15.0)


@pytest.mark.parametrize(
    ("extension", "how"),
    [
        (".png", {}),
        (".jpg", {}),
        (".jpg", {"progressive": True}),
        (".gif", {}),
        (".webp", {}),
        (".webp", {"lossless": True}),
    ],
)
def test_headers_alone_tell_the_size_of_a_picture(tmp_path, extension, how):
    path = saved(
        tmp_path / f"x{extension}", Image.linear_gradient("L").resize((90, 50)).convert("RGB"), **how
    )
    assert (read_headers(path).width, read_headers(path).height) == (90, 50)
    assert look_into(path).problems == ()


@pytest.mark.parametrize("content", [clip("x"), picture("x")], ids=["mp4", "png"])
def test_a_file_that_is_cut_off_is_found_out_even_by_headers(tmp_path, content):
    path = written(tmp_path / "x", content[: len(content) * 2 // 3])
    assert read_headers(path).problems == ("truncated",)


def test_a_picture_whose_pixels_are_broken_is_found_out_by_decoding(tmp_path):
    content = bytearray(picture("x"))
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    path = written(tmp_path / "x.png", bytes(content))
    assert read_headers(path).problems == ()
    assert look_into(path).problems[0].startswith("does not decode")


@pytest.mark.parametrize(
    ("mode", "colour"), [("RGB", "black"), ("RGB", "#7f7f80"), ("RGBA", (9, 200, 40, 0))]
)
def test_a_picture_that_shows_nothing_is_blank(tmp_path, mode, colour):
    path = saved(tmp_path / "x.png", Image.new(mode, (300, 200), colour))
    assert look_into(path).problems == ("blank",)


def test_a_video_that_shows_nothing_is_blank(tmp_path):
    import av

    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(10):
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), "navy"))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert look_into(path).problems == ("blank",)


def test_without_the_extra_the_headers_do(tmp_path, bare):
    path = written(tmp_path / "x.mp4", clip("x"))
    assert look_into(path).duration_s == 2.0
    assert look_into(saved(tmp_path / "b.png", Image.new("RGB", (8, 8)))).problems == ()


def test_rubbish_has_an_unknown_format_and_a_missing_file_says_so(tmp_path):
    assert look_into(written(tmp_path / "x.mp4", b"\x00rubbish" * 9)).problems == ("unknown format",)
    assert look_into(tmp_path / "gone.mp4").problems == ("can't be read: No such file or directory",)


@pytest.mark.parametrize("moov", [b"", struct.pack(">I4s", 8, b"moov"), struct.pack(">I4s", 3, b"moov")])
def test_boxes_without_a_movie_are_unreadable_not_a_crash(tmp_path, moov):
    path = written(tmp_path / "x.mp4", struct.pack(">I4s4s4s", 16, b"ftyp", b"isom", b"isom") + moov)
    assert read_headers(path).problems


VIDEO = Finding("video/mp4", 1280, 720, 5.04, 24.0)


@pytest.mark.parametrize(
    ("found", "inputs", "said"),
    [
        (VIDEO, {"duration": 5, "aspect_ratio": "16:9"}, []),
        (VIDEO, {"duration": "5s"}, []),
        (VIDEO, {"duration": 10}, ["5.04 s instead of 10 s"]),
        (VIDEO, {"aspect_ratio": "9:16"}, ["1280×720 instead of 9:16"]),
        (VIDEO, {"aspect_ratio": "auto", "duration": True}, []),
        (VIDEO, {"size": "1280x720"}, []),
        (VIDEO, {"size": "1024*1024"}, ["1280×720 instead of 1024×1024"]),
        (VIDEO, {"width": 640, "height": 360, "aspect_ratio": "1:1"}, ["1280×720 instead of 640×360"]),
        (Finding("image/png", 300, 200), {"duration": 5}, []),
    ],
)
def test_what_came_is_held_against_what_was_asked_for(found, inputs, said):
    assert list(differences(found, inputs)) == said


async def test_an_output_with_another_jobs_bytes_is_noted_one_of_its_own_is_not(tmp_path):
    made = RunMaker(tmp_path)
    assert await made.done(job("a"), clip("same")) is None
    assert await made.done(job("b"), clip("same")) == "same bytes as a"
    assert await made.done(job("c"), picture("p"), picture("p"), extension=".png") is None
    await made.end()


async def test_notes_on_several_outputs_say_which(tmp_path):
    made = RunMaker(tmp_path)
    assert await made.done(
        job("a", aspect_ratio="16:9"), picture("p"), picture("q", "16:9"), extension=".png"
    ) == ("output 0: 256×256 instead of 16:9")
    await made.end()


NOISE = Image.effect_noise((64, 48), 90).convert("RGB")


def png(**how):
    file = io.BytesIO()
    NOISE.save(file, "PNG", **how)
    return file.getvalue()


def with_workflow():
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text("workflow", "{" + "x" * (2 << 20) + "}", zip=True)
    return png(pnginfo=chunk)


@pytest.mark.parametrize(
    ("name", "content", "judged"),
    [
        ("a.svg", b"<svg xmlns='x' width='9' height='9'/>", False),
        ("a.png", png() + b"trailer" * 50, True),
        ("workflow.png", with_workflow(), False),
        ("a.mp4", clip("x") + b"some words that no box is", True),
        ("a.mp3", b"ID3\x04\x00" + bytes(90), False),
        ("a.json", b'{"a": 1}', False),
        ("a.zip", b"PK\x03\x04" + bytes(90), False),
        ("a.heic", b"\x00\x00\x00\x18ftypheic" + bytes(90), False),
        ("a.bin", b"\x07\x07", False),
    ],
)
def test_what_can_not_be_judged_is_unjudged_and_never_bad(tmp_path, name, content, judged):
    found = look_into(written(tmp_path / name, content))
    assert (found.problems, found.judged) == ((), judged)


def test_a_picture_beyond_the_decoders_limit_keeps_its_size_and_no_blame(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert look_into(written(tmp_path / "a.png", png())) == Finding("image/png", 64, 48, judged=False)


def test_jpeg_with_bytes_behind_its_end_is_good_and_without_its_end_is_not(tmp_path):
    path = saved(tmp_path / "a.jpg", NOISE)
    whole = path.read_bytes()
    assert look_into(written(path, whole + bytes(500) + b"trailer")).problems == ()
    assert look_into(written(path, whole[:-2])).problems == ("truncated",)


def test_quicktime_with_its_second_handler_is_a_video(tmp_path):
    import av

    path = tmp_path / "a.mov"
    with av.open(str(path), "w", format="mov") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_image(NOISE)))
        container.mux(stream.encode())
    assert read_headers(path).problems == ()
    assert look_into(path) == Finding("video/quicktime", 64, 48, 0.5, 10.0)


@pytest.mark.parametrize(
    ("name", "mode"), [("a.png", "I;16"), ("a.jpg", "CMYK"), ("a.tif", "LAB"), ("a.tif", "F")]
)
@pytest.mark.parametrize("flat", [True, False])
def test_pictures_of_any_depth_and_colours_are_judged_by_what_they_show(tmp_path, name, mode, flat):
    grey = Image.new("L", (64, 48), 120) if flat else NOISE.convert("L")
    if mode == "I;16":
        words = b"".join(struct.pack("<H", level * 257) for level in grey.tobytes())
        image = Image.frombytes("I;16", grey.size, words)
    elif mode == "LAB":
        image = Image.merge("LAB", (grey, Image.new("L", grey.size), Image.new("L", grey.size)))
    else:
        image = grey.convert("RGB").convert(mode) if mode == "CMYK" else grey.convert(mode)
    path = saved(tmp_path / name, image)
    assert look_into(path).problems == (("blank",) if flat else ())


@pytest.mark.parametrize("extension", [".webp", ".gif", ".png", ".avif"])
def test_an_animation_that_begins_with_black_is_not_blank(tmp_path, extension):
    black = Image.new("RGB", (64, 48))
    path = saved(tmp_path / f"a{extension}", black, save_all=True, append_images=[NOISE, NOISE])
    assert look_into(path).problems == ()
