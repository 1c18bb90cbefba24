// Shows what a node of the pack warns of as a message of the page. The text also stands below the node.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

function show({ detail }) {
  const node = app.graph?.getNodeById(detail.node);
  app.extensionManager.toast.add({
    severity: "warn",
    summary: node?.title ?? `Node ${detail.node}`,
    detail: detail.text,
    life: 20000,
  });
}

app.registerExtension({
  name: "ccl.notices",
  setup: () => api.addEventListener("ccl_notice", show),
});
