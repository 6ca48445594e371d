"use strict";

// Shows how far each order's last task is, asking the status JSON until it is ready.
const PAUSE_MS = 2000;
const statusUrl = document.body.dataset.statusUrl;

async function show(cell) {
  const url = statusUrl.replace("TASK", encodeURIComponent(cell.dataset.task));
  const answer = await fetch(url);
  // Not published yet: the steps before it have not come to their end.
  const status = answer.ok ? await answer.json() : { state: "waiting", ready: false };
  cell.textContent = status.reason ? `${status.state} (${status.reason})` : status.state;
  return status.ready && status.successful;
}

async function follow(cell) {
  while (!(await show(cell))) {
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

for (const cell of document.querySelectorAll("[data-task]:not([data-task=''])")) {
  follow(cell);
}
