#!/usr/bin/env python3
"""A report in a real browser: no script error, no request, nothing wider than the window, by day and by night, at 360 and 1280 pixels.

    python3 tests/by_hand/report_page.py target/release/selfplay OUT RUN [RUN …]

Writes OUT/report.html with `selfplay report`, opens it in a headless Chromium (`chromium` on PATH, or CHROMIUM=…) through its debugging
protocol, and takes OUT/{light,dark}-{360,1280}.png of the whole page. Also tries the search, the arrow keys on a chart, and a run whose texts are
markup. Needs `pip install websocket-client`. Exit 1 on anything that is wrong.
"""
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

import websocket


class Browser:
    def __init__(self):
        program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
        self.profile = tempfile.mkdtemp()
        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0",
             "--remote-allow-origins=*", "--no-first-run", "--disable-background-networking", f"--user-data-dir={self.profile}", "about:blank"],
            stderr=subprocess.DEVNULL)
        port_file = os.path.join(self.profile, "DevToolsActivePort")
        for _ in range(600):
            if os.path.exists(port_file) and open(port_file).read().count("\n"):
                break
            time.sleep(0.1)
        port = open(port_file).read().split("\n")[0]
        pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
        page = next(one for one in pages if one["type"] == "page")
        self.socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=120)
        self.number, self.events = 0, []
        for domain in ["Page", "Runtime", "Network", "Log"]:
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def value(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"])
        return result["result"].get("value")

    def size(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def night(self, is_night):
        scheme = "dark" if is_night else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, address):
        self.events = []
        self.call("Page.navigate", url=address)
        for _ in range(300):
            if self.value("document.readyState") == "complete":
                break
            time.sleep(0.1)
        time.sleep(0.3)

    def picture(self, path, whole=True):
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def problems(self, address):
        """Script errors, and requests for anything but the page."""
        found = []
        for event in self.events:
            method, what = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                found.append("script: " + str(what["exceptionDetails"].get("exception", {}).get("description")))
            if method == "Log.entryAdded" and what["entry"]["level"] == "error":
                found.append("log: " + what["entry"]["text"])
            if method == "Network.requestWillBeSent" and what["request"]["url"] != address:
                found.append("request: " + what["request"]["url"])
        return found

    def close(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)


WIDEST = """(() => { const wide = document.documentElement.clientWidth; const out = [];
  document.querySelectorAll('body *').forEach(e => { if (e.closest('.scroll') && !e.matches('.scroll')) return; if (e.closest('.skip')) return;
    const r = e.getBoundingClientRect(); if (r.width && (r.right > wide + 1 || r.left < -1)) out.push(e.tagName + '.' + (e.className.baseVal ?? e.className) + ' ' + Math.round(r.right)); });
  return JSON.stringify({scroll: document.documentElement.scrollWidth, wide, out: out.slice(0, 5)}); })()"""

# Contrast of every text against what it stands on, by WCAG 2; the least.
CONTRAST = """(() => { const rgb = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const lum = c => { const f = v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }; return .2126 * f(c[0]) + .7152 * f(c[1]) + .0722 * f(c[2]); };
  const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
  let least = [99, '']; document.querySelectorAll('p, span, b, li, td, th, a, summary, label, h1, h2, h3, text, code').forEach(e => {
    if (!e.textContent.trim() || !e.getClientRects().length) return; const s = getComputedStyle(e);
    const ink = rgb(e.tagName === 'text' ? s.fill : s.color), on = ground(e);
    const a = lum(ink), b = lum(on), ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < least[0]) least = [ratio, e.tagName + '.' + (e.className.baseVal ?? e.className) + ' ' + s.color]; });
  return JSON.stringify(least); })()"""


def main():
    program, out, runs = sys.argv[1], sys.argv[2], sys.argv[3:]
    os.makedirs(out, exist_ok=True)
    page = os.path.abspath(os.path.join(out, "report.html"))
    began = time.time()
    subprocess.run([program, "report", *runs, "-o", page], check=True)
    print(f"{os.path.getsize(page):,} bytes, written in {time.time() - began:.2f} s")
    wrong = []
    browser = Browser()
    try:
        address = "file://" + page
        for night in [False, True]:
            browser.night(night)
            for width in [360, 1280]:
                browser.size(width, 800)
                browser.open(address)
                name = f"{'dark' if night else 'light'}-{width}"
                wrong += [f"{name}: {one}" for one in browser.problems(address)]
                found = json.loads(browser.value(WIDEST))
                if found["scroll"] > width or found["out"]:
                    wrong.append(f"{name}: wider than the window: {found}")
                least, where = json.loads(browser.value(CONTRAST))
                print(f"{name}: least contrast of a text {least:.2f} ({where})")
                if least < 4.5:
                    wrong.append(f"{name}: contrast {least:.2f}: {where}")
                browser.picture(os.path.join(out, f"{name}.png"))
        # The pointer, the keyboard and the search do what they are for.
        first = "document.querySelector('figure.plot > svg')"
        if browser.value(f"!!{first}"):
            browser.value(f"{first}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
            time.sleep(0.3)
            box = json.loads(browser.value(f"JSON.stringify({first}.getBoundingClientRect())"))
            browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=box["x"] + box["width"] / 2, y=box["y"] + box["height"] / 2)
            told = browser.value("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
            browser.picture(os.path.join(out, "tip.png"), whole=False)
            browser.value(f"{first}.focus()")
            for key in ["ArrowRight", "ArrowRight"]:
                browser.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key)
            moved = browser.value("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
            print(f"the pointer tells {told!r}, the arrows {moved!r}")
            if not told or not moved:
                wrong.append("a chart tells nothing under the pointer or by the arrow keys")
        if browser.value("!!document.getElementById('search')"):
            count = "[...document.querySelectorAll('.sample')].filter(e => !e.hidden).length"
            every = browser.value(count)
            for text, is_fitting in [("zzzz no such words", lambda n: n == 0), ("", lambda n: n == every)]:
                browser.value(f"(() => {{ const i = document.getElementById('search'); i.value = {json.dumps(text)}; i.dispatchEvent(new Event('input', {{bubbles: true}})); }})()")
                if not is_fitting(browser.value(count)):
                    wrong.append(f"the search for {text!r} shows {browser.value(count)} of {every}")
        wrong += browser.problems(address)
    finally:
        browser.close()
    for one in wrong:
        print("WRONG", one)
    print("nothing is wrong" if not wrong else f"{len(wrong)} things are wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
