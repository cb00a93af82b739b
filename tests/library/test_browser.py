"""What a browser is asked about a page finds what is wrong with it."""

import pytest
from browser import DESKTOP, PHONE, browser, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
HEAD = (
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    "<style>:root { color-scheme: light dark } p { color: light-dark(#333, #ccc) }</style>"
)
GOOD = f'<!doctype html><html lang="en"><title>good</title>{HEAD}<p>Read me.</p>'
BAD = (
    f'<!doctype html><html><title></title>{HEAD}<p style="color: oklch(0.7 0 0 / 90%)">Pale</p>'
    '<div style="width: 600px">Wide</div><img src="absent.png">'
    "<script>console.error('ouch'); absent()</script>"
)


def test_it_finds_what_is_wrong_with_a_page_and_nothing_else(tmp_path):
    (tmp_path / "good.html").write_text(GOOD)
    (tmp_path / "bad.html").write_text(BAD)
    with browser() as chromium:
        assert chromium.problems((tmp_path / "good.html").as_uri()) == []
        found = chromium.problems((tmp_path / "bad.html").as_uri())
    for expected in (
        *("ouch", "absent is not defined", "ERR_FILE_NOT_FOUND", "alt: none of", "image: not"),
        *("title: none", "lang: none"),
    ):
        assert len([x for x in found if expected in x.what]) == 4  # two widths, two schemes
    wide = [x.width for x in found if x.what.startswith("width") and "div" in x.what]
    assert wide == [PHONE, PHONE] and DESKTOP not in wide
    pale = [x.scheme for x in found if x.what.startswith("contrast") and "Pale" in x.what]
    assert pale == ["light", "light"]  # on a dark ground it is legible
