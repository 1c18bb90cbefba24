// The canvas renderer draws advanced inputs like any other. On nodes of the pack they wait there for
// "Show Advanced" of the node's menu or the button in its title, as behind the button of Nodes 2.0.
// Every widget stays where it is in `node.widgets`, so saved workflows keep their order.
import { app } from "../../scripts/app.js";

const BUTTON = "ccl_advanced";
// pi-sliders-h of PrimeIcons, the icon that Nodes 2.0 has for it. Title buttons are drawn in that font.
const SLIDERS = "\ue992";
const ALWAYS = "Comfy.Node.AlwaysShowAdvancedWidgets";

function isFolded(node, widget) {
  if (!widget.options?.advanced || node.showAdvanced) return false;
  return node.getSlotFromWidget(widget)?.link == null && !app.extensionManager.setting.get(ALWAYS);
}

// What the canvas asks of a node, in the versions that ask it: is a widget drawn, has it a row.
function fold(node, name) {
  const ask = node[name];
  if (!ask) return;
  node[name] = function (widget) {
    return ask.call(this, widget) && !isFolded(this, widget);
  };
}

function toggle(node) {
  const before = node.computeSize()[1];
  node.showAdvanced = !node.showAdvanced;
  // In Nodes 2.0 the page lays the node out.
  if (!LiteGraph.vueNodesMode) node.setSize([node.size[0], node.size[1] + node.computeSize()[1] - before]);
  node.graph.incrementVersion();
  node.setDirtyCanvas(true, true);
}

app.registerExtension({
  name: "ccl.advanced",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.category.startsWith("CCL/")) return;
    const node = nodeType.prototype;
    const { getLayoutWidgets, onTitleButtonClick } = node;
    fold(node, "isWidgetVisible");
    fold(node, "isWidgetRowVisible");
    node.getLayoutWidgets = function () {
      return getLayoutWidgets.call(this).filter((widget) => !isFolded(this, widget));
    };
    node.hasAdvancedWidgets = function () {
      return this.widgets?.some((widget) => widget.options?.advanced) ?? false;
    };
    node.toggleAdvanced = function () {
      toggle(this);
    };
    node.onTitleButtonClick = function (button, canvas) {
      if (button.name === BUTTON) toggle(this);
      else onTitleButtonClick.call(this, button, canvas);
    };
  },
  nodeCreated(node) {
    if (!node.constructor.nodeData?.category?.startsWith("CCL/") || !node.hasAdvancedWidgets()) return;
    node.addTitleButton({ name: BUTTON, text: SLIDERS, fontSize: 14, xOffset: -8 });
  },
});
