#!/usr/bin/env python3
"""Opens a report in Chromium: report_page.py PAGE.html

Fails on an error in the console, on a request of any kind, on anything the page's own policy had to stop, where the
page is wider than a screen of 400 or 1280 pixels, and where something is cut off without a sign: what scrolls sideways has
shadows at its ends, and its caption fits. Needs Chromium, nothing else; ends with 77 where there is none.
--self-test shows that each of these is found in a page that has it.
"""

import html
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
WIDTHS = (400, 1280)
# a frame as wide as the screen: its own page could not be asked, it runs no script
FRAME = """<!DOCTYPE html><title>-</title><iframe src="{page}" width="{width}" height="900" style="border:0"></iframe>
<script>onload = () => {{
  const page = document.querySelector('iframe').contentDocument, root = page.documentElement
  const clipped = [...page.body.querySelectorAll('*')].filter(part => {{
    const style = page.defaultView.getComputedStyle(part)
    const hides = style.overflowX != 'visible' && part.scrollWidth > part.clientWidth + 1
    const seen = style.backgroundAttachment.includes('local') || part.tagName == 'PRE'
    if (hides && !seen && part.clientWidth > 1) return true
    if (part.tagName != 'CAPTION') return false
    const words = page.createRange()
    words.selectNodeContents(part)
    return words.getBoundingClientRect().width > part.closest('.scroll').clientWidth
  }})
  document.title = 'width ' + root.scrollWidth + ' clipped ' + clipped.length
}}</script>"""


def browser():
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if shutil.which(name):
            return name
    print("no Chromium here")
    sys.exit(77)


def run(program, place, page, *flags):
    """Standard output and the lines of the console."""
    command = [
        program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-quic", "--disable-extensions",
        "--enable-logging=stderr", "--allow-file-access-from-files", f"--user-data-dir={place / 'profile'}",
        "--window-size=1400,1000", *flags, "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return done.stdout, console


def requests(log):
    """Addresses that the page asked for, besides itself, in Chromium's log of its network."""
    text = log.read_text(errors="replace")
    try:
        events = json.loads(text)["events"]
    except json.JSONDecodeError:  # cut short when Chromium was
        events = json.loads(text.rstrip().rstrip(",") + "]}")["events"]
    asked = {}
    for event in events:
        params = event.get("params", {})
        if isinstance(params.get("url"), str) and "initiator" in params:
            asked[params["url"]] = params["initiator"]
    # Chromium's own have no page behind them
    return sorted(url for url, initiator in asked.items() if url.startswith("http") and initiator != "not an origin")


def faults(program, page):
    found = []
    text = page.read_text(encoding="utf-8")
    if not re.search(r'<meta http-equiv="Content-Security-Policy" content="' + re.escape(POLICY), text):
        found.append("no policy that forbids to load anything")
    if "<script" in text:
        found.append("a script")
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        log = place / "net.json"
        dom, console = run(program, place, page, f"--log-net-log={log}")
        if "<main" not in dom:
            found.append("Chromium shows no page")
        found += [f"console: {line}" for line in console]
        found += [f"request: {url}" for url in requests(log)]
        for width in WIDTHS:
            frame = place / f"frame-{width}.html"
            frame.write_text(FRAME.format(page=html.escape(page.as_uri()), width=width))
            dom, _ = run(program, place, frame)
            seen = re.search(r"<title>width (\d+) clipped (\d+)</title>", dom)
            if not seen:
                found.append(f"the width on a screen of {width} pixels could not be measured")
            elif int(seen[1]) > width:
                found.append(f"{seen[1]} pixels wide on a screen of {width}")
            elif int(seen[2]):
                found.append(f"clipped without a sign on a screen of {width}: {seen[2]} parts")
    return found


def self_test(program):
    meta = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    image = '<img src="http://127.0.0.1:9/x.png">'
    pages = {
        "": (meta, ""),
        "policy": ("", ""),
        "script": (meta, "<script>0</script>"),
        "request": ("", image),
        "console": (meta, image),
        "pixels wide": (meta, '<p style="width:1500px">wide</p>'),
        "clipped": (meta, '<div style="overflow-x:auto"><p style="width:1500px">wide</p></div>'),
    }
    wrong = 0
    for fault, (head, body) in pages.items():
        with tempfile.TemporaryDirectory() as place:
            page = pathlib.Path(place) / "page.html"
            page.write_text(f"<!DOCTYPE html><html><head>{head}<title>t</title></head><body><main>{body}</main></body></html>")
            found = faults(program, page)
        is_right = any(fault in line for line in found) if fault else not found
        wrong += not is_right
        print("ok   " if is_right else "WRONG", fault or "nothing", found)
    return wrong


def main():
    program = browser()
    if sys.argv[1:] == ["--self-test"]:
        sys.exit(1 if self_test(program) else 0)
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    page = pathlib.Path(sys.argv[1]).resolve()
    found = faults(program, page)
    print("\n".join(found) or f"{page.name}: no request, nothing in the console, fits screens of {WIDTHS} pixels")
    sys.exit(1 if found else 0)


main()
