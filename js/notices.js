// Shows what a node of the pack warns of as a message of the page. The text also stands below the node, and stays.
// An error of the pack is shown too: the page has its words behind "View details" alone.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

function message(severity, id, text) {
  // A node within another has an id such as 12:7; the message names the one in the workflow.
  const node = app.graph?.getNodeById(String(id).split(":")[0]);
  app.extensionManager.toast.add({
    severity,
    summary: node?.title ?? `Node ${id}`,
    detail: text,
    life: 20000,
  });
}

function warn({ detail }) {
  message("warn", detail.node, detail.text);
}

function fail({ detail }) {
  if (detail.node_type?.startsWith("CCL")) message("error", detail.node_id, detail.exception_message);
}

// The last text of each node of the pack. Frontends from 1.58 on take all texts off when a run ends, when it is
// time to read them.
const texts = new WeakMap();

function keep({ detail }) {
  const graph = app.canvas?.graph;
  const parts = String(detail.nodeId).split(":");
  const node = (parts.length > 1) === (graph !== app.graph) ? graph?.getNodeById(parts.at(-1)) : null;
  if (node?.constructor.nodeData?.category?.startsWith("CCL/")) texts.set(node, detail);
}

function showAgain() {
  for (const node of app.canvas?.graph?.nodes ?? []) {
    const detail = texts.get(node);
    if (detail?.text.trim()) api.dispatchEvent(new CustomEvent("progress_text", { detail }));
  }
}

app.registerExtension({
  name: "ccl.notices",
  setup() {
    api.addEventListener("ccl_notice", warn);
    api.addEventListener("execution_error", fail);
    api.addEventListener("progress_text", keep);
    for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
      // Behind what the page itself does then.
      api.addEventListener(end, () => setTimeout(showAgain, 300));
    }
  },
});
