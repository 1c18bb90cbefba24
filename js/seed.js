// The node of a subgraph shows a seed of the nodes inside without its "control after generate", which is no
// input. In Nodes 2.0 that is a button in the seed; on the canvas the menu of the node has it.
import { app } from "../../scripts/app.js";

function isOurs(node) {
  return node.constructor.nodeData?.category?.startsWith("CCL/");
}

// A run changes an input of the subgraph as the first widget says that it goes to.
function controlOf(input) {
  return input.getConnectedWidgets()[0]?.linkedWidgets?.find(({ name }) => name === "control_after_generate");
}

function entry(input) {
  const control = controlOf(input);
  const choose = (mode) => ({ content: mode, callback: () => (control.value = mode) });
  return {
    content: `${input.name} between runs: ${control.value}`,
    has_submenu: true,
    submenu: { options: control.options.values.map(choose) },
  };
}

app.registerExtension({
  name: "ccl.seed",
  getNodeMenuItems(node) {
    if (LiteGraph.vueNodesMode || !node.subgraph?.nodes.some(isOurs)) return [];
    return node.subgraph.inputs.filter(controlOf).map(entry);
  },
});
