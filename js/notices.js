// Shows what a node of the pack warns of as a message of the page. The text also stands below the node, and stays.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

function show({ detail }) {
  // A node within another has an id such as 12:7; the message names the one in the workflow.
  const node = app.graph?.getNodeById(String(detail.node).split(":")[0]);
  app.extensionManager.toast.add({
    severity: "warn",
    summary: node?.title ?? `Node ${detail.node}`,
    detail: detail.text,
    life: 20000,
  });
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
    api.addEventListener("ccl_notice", show);
    api.addEventListener("progress_text", keep);
    for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
      // Behind what the page itself does then.
      api.addEventListener(end, () => setTimeout(showAgain, 300));
    }
  },
});
