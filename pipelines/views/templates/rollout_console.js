(() => {
  "use strict";
  const POLL_MS = 1500, SURE_MS = 4000, ANSWER_MS = 15000;  // longest wait for an answer: a lost one must not end the polling
  const { project, rollout } = document.getElementById("console").dataset;
  const find = id => document.getElementById(id);
  const here = `api/rollouts/${encodeURIComponent(project)}`;
  const watched = `${here}/live${rollout ? `?rollout=${encodeURIComponent(rollout)}` : ""}`;
  const buttons = [...document.querySelectorAll("button[data-command]")];
  let live = { running: null, phase: null, refusals: {}, asks: false, answers: {} };
  let asked = null;  // the command that waits for its answer

  // inside Airflow's page: its look, also when somebody changes it
  try {
    const outer = window.parent !== window && window.parent.document.documentElement;
    if (outer) {
      const follow = () => {
        const known = ["dark", "light"].find(name => outer.classList.contains(name) || outer.dataset.theme === name);
        document.documentElement.style.colorScheme = known || "";
      };
      follow();
      new MutationObserver(follow).observe(outer, { attributes: true, attributeFilter: ["class", "data-theme"] });
    }
  } catch (error) {
    console.info("the page around this one is of another site: the system's look is used");
  }

  // changes what differs and leaves the rest, so that bars glide and a selection stays
  const morph = (old, next) => {
    if (old.nodeType !== next.nodeType || old.nodeName !== next.nodeName) return old.replaceWith(next.cloneNode(true));
    if (old.nodeType === Node.TEXT_NODE) { if (old.data !== next.data) old.data = next.data; return; }
    for (const { name } of [...old.attributes || []]) if (!next.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of [...next.attributes || []]) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const now = [...old.childNodes], then = [...next.childNodes];
    then.forEach((child, place) => place < now.length ? morph(now[place], child) : old.append(child.cloneNode(true)));
    now.slice(then.length).forEach(child => child.remove());
  };
  const draw = (id, html) => {
    const next = find(id).cloneNode(false);
    next.innerHTML = html;
    morph(find(id), next);
  };

  const say = (text, tone = "") => { find("told").textContent = text; find("told").className = tone; };
  const offer = () => {
    find("commands").hidden = !live.running || live.running !== live.shown || !live.may_command;
    for (const button of buttons) {
      const name = button.dataset.command, refusal = live.refusals[name];
      button.disabled = refusal !== null || asked !== null;
      button.title = refusal || button.dataset.hint;
      if (name === "approve" || name === "reject") button.hidden = !live.asks;
      if (name === "resume") button.hidden = refusal !== null;
      if (name === "pause") button.hidden = live.asks || live.refusals.resume === null;
      if (name === "advance") button.hidden = live.asks;
      if (name === "share") button.parentElement.hidden = refusal !== null;
    }
  };
  const hear = () => {
    const answer = asked && live.answers[asked.entry];
    if (!asked) return;
    if (answer) say(`${asked.command} was ${answer}.`, answer === "obeyed" ? "good" : "bad");
    else if (live.running) return;
    else say(`The rollout has ended before it answered.`, "bad");
    asked = null;
  };

  const refresh = async () => {
    try {
      const answer = await fetch(watched, { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(ANSWER_MS) });
      if (answer.status === 401) throw new Error("your session has ended: log in again");
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.detail);
      live = found;
      draw("top", found.top);
      draw("more", found.more);
      document.querySelector("nav [aria-current] .dot").hidden = !found.running;
      hear();
      offer();
      find("pulse").className = "dot live";
      find("fresh").textContent = "live";
    } catch (error) {
      find("pulse").className = "dot lost";
      find("fresh").textContent = `not fresh: ${error.message}`;
    }
  };

  const tell = async command => {
    const reason = find("reason").value.trim();
    if (!reason) { say("Say why: it is kept in the ledger.", "bad"); find("reason").focus(); return; }
    const share = command === "share" ? find("share").valueAsNumber / 100 : undefined;
    if (Number.isNaN(share)) { say("Say at which share, in percent.", "bad"); find("share").focus(); return; }
    asked = { command, entry: null };
    offer();
    say(`${command}: asked, waiting for the rollout …`);
    try {
      const answer = await fetch(`${here}/commands`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ command, reason, share, phase: live.phase, rollout: live.shown }),
      });
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.detail);
      asked.entry = found.entry;
      find("reason").value = "";
    } catch (error) {
      asked = null;
      say(error.message, "bad");
    }
    await refresh();
  };

  for (const button of buttons) {
    const text = button.textContent;
    let calm = null;
    const settle = () => { clearTimeout(calm); calm = null; button.textContent = text; button.classList.remove("sure"); };
    button.addEventListener("click", () => {
      if ("sure" in button.dataset && calm === null && find("reason").value.trim()) {
        button.textContent = `${text}: sure?`;
        button.classList.add("sure");
        calm = setTimeout(settle, SURE_MS);
        return;
      }
      settle();
      tell(button.dataset.command);
    });
  }
  find("commands").addEventListener("submit", event => event.preventDefault());

  const loop = async () => {
    if (!document.hidden) await refresh();
    setTimeout(loop, POLL_MS);
  };
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  loop();
})();
