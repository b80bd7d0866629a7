// The pages work without this file. With it, times say how long ago they were,
// and what carries data-refresh follows the stream of events.
"use strict";

const units = [["day", 86400], ["h", 3600], ["min", 60], ["s", 1]];

// ago writes a distance in seconds in one unit; the future is "in 5 min".
function ago(seconds) {
  const future = seconds < 0;
  const n = Math.abs(seconds);
  for (const [name, size] of units) {
    const count = Math.floor(n / size);
    if (count >= 1) {
      const text = count + " " + name + (name === "day" && count > 1 ? "s" : "");
      return future ? "in " + text : text + " ago";
    }
  }
  return "now";
}

// The server's clock is what counts: the distance to ours is taken from the page's Date.
let skew = 0;

function times(root) {
  for (const t of root.querySelectorAll("time")) {
    const when = Date.parse(t.dateTime);
    if (Number.isNaN(when)) continue;
    if (!t.title) t.title = t.textContent + " UTC";
    t.textContent = ago(Math.round((Date.now() + skew - when) / 1000));
  }
}

// busy says whether a part must not be replaced under somebody's hands.
function busy(part) {
  return part.contains(document.activeElement) && document.activeElement !== document.body
    || part.querySelector("input:checked") !== null
    || String(window.getSelection()) !== "" && window.getSelection().containsNode(part, true);
}

let waiting = null;
let last = 0;

// refresh fetches this page again and replaces what has changed, at most every
// second and only while somebody can see it.
function refresh() {
  if (waiting || document.hidden) return;
  waiting = setTimeout(async () => {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.redirected || !answer.ok) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of document.querySelectorAll("[data-refresh]")) {
        const now = fresh.getElementById(part.id);
        if (!now || busy(part)) continue;
        const open = [...part.querySelectorAll("details")].map(d => d.open);
        now.querySelectorAll("details").forEach((d, i) => { if (i < open.length) d.open = open[i]; });
        times(now);
        if (now.innerHTML !== part.innerHTML) part.replaceWith(document.adoptNode(now));
      }
      last = Date.now();
    } catch { /* the stream comes back by itself, and brings the next try */ } finally {
      waiting = null;
    }
  }, Math.max(200, 1000 - (Date.now() - last)));
}

function follow() {
  const sign = document.querySelector(".live");
  const stream = new EventSource("/stream");
  let before = false;
  stream.onopen = () => {
    if (sign) { sign.hidden = false; sign.classList.remove("lost"); sign.textContent = "live"; }
    if (before) refresh(); // what happened while the line was down
    before = true;
  };
  stream.onmessage = refresh;
  stream.onerror = () => {
    if (sign) { sign.hidden = false; sign.classList.add("lost"); sign.textContent = "not live"; }
  };
  addEventListener("pagehide", () => stream.close());
}

times(document);
setInterval(() => times(document), 15000);
document.addEventListener("visibilitychange", refresh);
// The answer of a form is not fetched again: its address may be of another kind.
const posted = document.querySelector(".shown");
if (document.body.hasAttribute("data-live") && !posted) follow();
