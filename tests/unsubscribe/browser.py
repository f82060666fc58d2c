"""Opens a page in a headless Chromium with scripts and cookies switched off, presses its button, and tells what there was.

Usage: browser.py PROGRAM PROFILE HOST ADDRESS URL. HOST is reached at ADDRESS, and nothing else is. Prints one JSON object; ends
after a minute, whatever happens. Speaks the DevTools protocol over a pipe (--remote-debugging-pipe), with nothing but the
standard library.
"""
import json
import os
import select
import signal
import subprocess
import sys

program, profile, host, address, url = sys.argv[1:]
signal.alarm(60)

# Content settings: 2 is "block".
os.makedirs(os.path.join(profile, "Default"))
with open(os.path.join(profile, "Default", "Preferences"), "w", encoding="ascii") as preferences:
    json.dump({"profile": {"default_content_setting_values": {"cookies": 2, "javascript": 2}}}, preferences)

commands, answers = os.pipe(), os.pipe()


def hand_over():
    """The browser reads commands from 3 and writes answers to 4."""
    os.setsid()
    read, write = os.dup(commands[0]), os.dup(answers[1])
    os.dup2(read, 3)
    os.dup2(write, 4)


browser = subprocess.Popen(
    [
        program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--remote-debugging-pipe", f"--user-data-dir={profile}", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-default-apps",
        "--ignore-certificate-errors", f"--host-resolver-rules=MAP {host} {address}, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "about:blank",
    ],
    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    preexec_fn=hand_over, close_fds=False,
)
count, buffer, events = 0, b"", []


def receive():
    global buffer
    while b"\0" not in buffer:
        select.select([answers[0]], [], [])
        buffer += os.read(answers[0], 1 << 16)
    message, buffer = buffer.split(b"\0", 1)
    return json.loads(message)


def call(method, session=None, **params):
    global count
    count += 1
    message = {"id": count, "method": method, "params": params}
    if session:
        message["sessionId"] = session
    os.write(commands[1], json.dumps(message).encode() + b"\0")
    while True:
        answer = receive()
        if answer.get("id") == count:
            if "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            return answer["result"]
        events.append(answer)


def wait_for(method):
    for event in events:
        if event.get("method") == method:
            events.remove(event)
            return event
    while True:
        event = receive()
        if event.get("method") == method:
            return event
        events.append(event)


def look(session):
    """What an accessibility tree and the styles say, since no script can be run."""
    tree = call("Accessibility.getFullAXTree", session)["nodes"]
    told = [
        [node["role"]["value"], node.get("name", {}).get("value", "")]
        for node in tree
        if not node.get("ignored") and node["role"]["value"] in ("RootWebArea", "main", "heading", "button")
    ]
    root = call("DOM.getDocument", session)["root"]["nodeId"]
    body = call("DOM.querySelector", session, nodeId=root, selector="body")["nodeId"]
    styles = call("CSS.getComputedStyleForNode", session, nodeId=body)["computedStyle"]
    color = next(style["value"] for style in styles if style["name"] == "background-color")
    return {"tree": told, "background": color, "html": call("DOM.getOuterHTML", session, nodeId=root)["outerHTML"]}


found = {}
try:
    target = call("Target.createTarget", url="about:blank")["targetId"]
    session = call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "DOM", "CSS", "Log", "Network", "Accessibility"):
        call(f"{domain}.enable", session)
    call("Emulation.setScriptExecutionDisabled", session, value=True)
    # A telephone.
    call("Emulation.setDeviceMetricsOverride", session, width=360, height=640, deviceScaleFactor=2, mobile=True)
    call("Page.navigate", session, url=url)
    wait_for("Page.loadEventFired")
    found["asked"] = look(session)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    call("Emulation.setEmulatedMedia", session, features=dark)
    found["dark"] = look(session)["background"]
    root = call("DOM.getDocument", session)["root"]["nodeId"]
    button = call("DOM.querySelector", session, nodeId=root, selector="button")["nodeId"]
    border = call("DOM.getBoxModel", session, nodeId=button)["model"]["border"]
    size = call("Page.getLayoutMetrics", session)["cssContentSize"]
    found["fits"] = size["width"] <= 360
    at = {"x": (border[0] + border[4]) / 2, "y": (border[1] + border[5]) / 2, "button": "left", "clickCount": 1}
    for kind in ("mousePressed", "mouseReleased"):
        call("Input.dispatchMouseEvent", session, type=kind, **at)
    wait_for("Page.loadEventFired")
    found["done"] = look(session)
    found["cookies"] = call("Network.getCookies", session, urls=[url])["cookies"]
    found["log"] = [event["params"]["entry"] for event in events if event.get("method") == "Log.entryAdded"]
    requests = [event["params"] for event in events if event.get("method") == "Network.requestWillBeSent"]
    found["requests"] = [
        [asked["request"]["method"], asked["request"]["url"], asked["request"]["headers"].get("Referer", "")]
        for asked in requests
    ]
finally:
    # It and what it has started.
    os.killpg(browser.pid, signal.SIGKILL)
    browser.wait()
print(json.dumps(found))
