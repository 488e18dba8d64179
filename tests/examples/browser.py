"""A headless Chromium that tests steer over its DevTools pipe: no driver, no further dependency."""

import collections
import contextlib
import json
import os
import shutil
import subprocess

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"]
PATIENCE = 120_000  # milliseconds, for a machine that has much else to do
TEXT = """
const deep = node => node.nodeType === 3 ? node.data : ['STYLE', 'SCRIPT'].includes(node.nodeName) ? '' :
    [...(node.shadowRoot ? [node.shadowRoot] : []), ...node.childNodes].map(deep).join(' ');
"""


class Browser:
    """One page of Chromium."""

    def __init__(self, profile, width=1400, height=1600):
        command_in, self._out = os.pipe()
        answers, answers_in = os.pipe()
        flags = [*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"]
        script = f'exec "$@" 3<&{command_in} 4>&{answers_in}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "chromium", CHROMIUM, *flags],
            pass_fds=(command_in, answers_in),
            stderr=subprocess.DEVNULL,
        )
        os.close(command_in)
        os.close(answers_in)
        self._answers = os.fdopen(answers, "rb")
        self._number, self._rest, self._session = 0, b"", None
        (page,) = (t for t in self._send("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self._send("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]

    def open(self, url):
        self._send("Page.navigate", url=url)

    def evaluate(self, expression):
        """Return the value of a JavaScript expression; promises are awaited."""
        answer = self._send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, *texts):
        """Return the text of the page, shadow trees included, once it holds all `texts`, repeated ones as often."""
        wanted = dict(collections.Counter(texts))
        found = self.evaluate(
            f"""new Promise(resolve => {{ {TEXT}
            const begin = Date.now();
            const look = () => {{
              const text = document.body ? deep(document.body).replace(/\\s+/g, ' ') : '';
              const count = t => text.split(t).length - 1;
              const found = Object.entries({json.dumps(wanted)}).every(([t, n]) => count(t) >= n);
              if (found || Date.now() - begin > {PATIENCE}) resolve(text);
              else setTimeout(look, 50);
            }};
            look(); }})"""
        )
        missing = [text for text, times in wanted.items() if found.count(text) < times]
        assert not missing, f"{missing} not in {found}"
        return found

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            os.write(self._out, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        os.close(self._out)
        self._process.wait(60)
        self._answers.close()

    def _send(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._read())
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self):
        while b"\0" not in self._rest:
            part = os.read(self._answers.fileno(), 1 << 16)
            assert part, "Chromium has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return message
