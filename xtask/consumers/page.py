"""Opens a page in headless Chromium, without any network, clicks and looks.

page.py CHROMIUM PROFILE PAGE [SCREENSHOT]
"""

import base64
import itertools
import json
import pathlib
import subprocess
import sys
import time

import websocket

chromium, profile, page = sys.argv[1:4]
address = pathlib.Path(page).resolve().as_uri()
browser = subprocess.Popen(
    [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
     "--disable-background-networking", "--remote-debugging-port=0", "--remote-allow-origins=*",
     f"--user-data-dir={profile}", "--window-size=1400,1000", "about:blank"],
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
)


class Tab:
    """One tab, driven over the browser's own debugging protocol."""

    def __init__(self):
        told = pathlib.Path(profile) / "DevToolsActivePort"
        until = time.monotonic() + 60
        while not (told.exists() and told.read_text().count("\n") >= 1):
            assert browser.poll() is None, "Chromium ended at once"
            assert time.monotonic() < until, "Chromium says no port"
            time.sleep(0.1)
        port, path = told.read_text().split("\n")[:2]
        self.socket = websocket.create_connection(f"ws://127.0.0.1:{port}{path}", timeout=60)
        self.numbers = itertools.count(1)
        self.session = None
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method, **params):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, method):
        while not any(event.get("method") == method for event in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def ask(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def click(self, selector):
        """A real click of the mouse on the middle of an element."""
        box = self.ask(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)


try:
    tab = Tab()
    for domain in ("Page", "Runtime", "Log", "Network"):
        tab.call(f"{domain}.enable")
    tab.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    tab.call("Page.navigate", url=address)
    tab.wait_for("Page.loadEventFired")

    # Names that somebody chose are text: nothing of them became an element.
    assert tab.ask("document.querySelectorAll('script').length") == 1
    assert tab.ask("document.querySelectorAll('b, img, iframe, link, object').length") == 0
    cells = tab.ask("[...document.querySelectorAll('#task-table tbody td:first-child')].map(c => c.textContent)")
    assert "</script><b>" in cells and "<img src=x>" in cells, cells
    assert "host<a>/1" in tab.ask("document.querySelector('h1').textContent")
    assert "secret-of-the-user" not in tab.ask("document.documentElement.outerHTML")

    # A click on the head of a column sorts by it, a second one the other way round.
    column = tab.ask("[...document.querySelectorAll('#task-table th')].findIndex(h => h.textContent === 'waited') + 1")
    values = f"[...document.querySelectorAll('#task-table tbody td:nth-child({column})')].map(c => Number(c.dataset.v))"
    tab.click(f"#task-table th:nth-child({column}) button")
    once = tab.ask(values)
    assert len(once) >= 40 and once == sorted(once, reverse=True) and once[0] > once[-1], once
    tab.click(f"#task-table th:nth-child({column}) button")
    assert tab.ask(values) == once[::-1]

    # The filter leaves one task, in the table and in the timeline.
    tab.click("#filter")
    tab.call("Input.insertText", text="2012")
    visible = "[...document.querySelectorAll('{} [data-task]')].filter(r => r.checkVisibility()).length"
    assert tab.ask(visible.format("#tasks")) == 1 and tab.ask(visible.format("#timeline")) == 1
    assert tab.ask("document.getElementById('shown').textContent") == "1 tasks"
    tab.ask("(() => { const f = document.getElementById('filter'); f.value = ''; f.dispatchEvent(new Event('input')); })()")

    # The timeline has something to see, and magnifies.
    bars = tab.ask("[...document.querySelectorAll('#timeline rect')].filter(r => r.getBoundingClientRect().width > 0).length")
    assert bars > 100, f"{bars} waits and holds can be seen"
    part = "document.querySelector('#timeline svg.lane').getAttribute('viewBox')"
    whole = tab.ask(part)
    range_ = tab.ask("document.getElementById('range').textContent")
    tab.click("button[data-do=in]")
    tab.click("button[data-do=in]")
    assert tab.ask(part) == "375 0 250 20", tab.ask(part)
    assert tab.ask("document.getElementById('range').textContent") != range_
    tab.click("button[data-do=whole]")
    assert tab.ask(part) == whole

    # A chain opens, and tells who was in whose way.
    chain = tab.ask("document.querySelector('#chains summary').textContent")
    assert "waited" in chain and "←" in chain, chain
    assert not tab.ask("document.querySelector('#chains details').open")
    tab.click("#chains summary")
    assert tab.ask("document.querySelector('#chains details').open")
    assert "held" in tab.ask("document.querySelector('#chains details li').textContent")

    assert tab.ask("document.querySelectorAll('#locks svg.histogram rect').length") > 5
    assert tab.ask("document.querySelectorAll('#assertion-table tbody tr').length") > 0
    for head in ("Timeline", "Tasks", "Waits and holds", "Wait chains", "Assertions", "What is missing"):
        assert tab.ask(f"[...document.querySelectorAll('h2')].some(h => h.textContent === {json.dumps(head)})"), head

    if len(sys.argv) > 4:
        tab.ask("scrollTo(0, 0)")
        shot = tab.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        pathlib.Path(sys.argv[4]).write_bytes(base64.b64decode(shot["data"]))

    # Nothing was loaded, nothing went wrong.
    asked = [event["params"]["request"]["url"] for event in tab.events if event.get("method") == "Network.requestWillBeSent"]
    assert set(asked) <= {address}, asked
    wrong = [event for event in tab.events if event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")]
    assert not wrong, wrong

    # The policy holds: what gets in all the same does not run.
    tab.ask(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"window.ran = 1\">');"
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    time.sleep(0.5)
    assert tab.ask("typeof window.ran") == "undefined", "the policy lets other scripts run"
finally:
    browser.terminate()
    browser.wait(30)
