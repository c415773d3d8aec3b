// Spends the one-time code behind the "#", which browsers send to nobody, and forgets it before anything else happens.
const message = document.getElementById("message");

async function login() {
  const code = location.hash.slice(1);
  if (!code) return;
  history.replaceState(null, "", location.pathname);
  message.textContent = "Logging in.";
  const answer = await fetch("/v1/session", {
    method: "POST",
    credentials: "same-origin",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ code }),
  });
  if (answer.ok) location.replace("/");
  else message.textContent = "This link has been used or is too old. `masche dashboard` prints a new one.";
}

function start() {
  login().catch(() => {
    message.textContent = "The control plane does not answer. Is `masche up` running?";
  });
}

addEventListener("hashchange", start); // a link pasted into this very page loads nothing
start();
