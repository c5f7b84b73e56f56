import { assertEquals, assertStringIncludes } from "@std/assert";
import { settled } from "../../tests/support/until.ts";
import { heatMap, linePlot, Palette } from "./plots.ts";

// ECharts starts a timer of 17 ms where it draws twice within that time.
Deno.test.afterEach(settled);

function pathsOf(svg: string, colour: string): number {
  return svg.split("<path").filter((path) => path.includes(colour)).length;
}

Deno.test("linePlot() draws a line in a colour of its own for each series, and names it", () => {
  const svg = linePlot({ title: "Loss & time", x: "seconds", y: "loss" }, [
    { name: "first", points: [[0, 3], [1, 2], [2, NaN], [3, 1]] },
    { name: "second", points: [[0, 3], [1, 1]] },
  ]);
  for (const text of ["Loss &amp; time", "seconds", "loss", "first", "second"]) {
    assertStringIncludes(svg, text);
  }
  assertEquals(svg.startsWith("<svg"), true);
  // What it shows is there in words.
  assertStringIncludes(
    svg,
    'aria-label="Loss &amp; time: loss over seconds. first: from 3 to 1; second: from 3 to 1"',
  );
  assertEquals(pathsOf(svg, "#0072b2") > 0 && pathsOf(svg, "#d55e00") > 0, true);
  // A name keeps its colour in other pictures of its palette.
  const palette = new Palette();
  assertEquals([palette.at("first"), palette.at("second"), palette.at("first")], [0, 1, 0]);
});

Deno.test("heatMap() draws a cell for each value", () => {
  const cells = [[0, 1, 0.5], [1, 1, 0]];
  const svg = heatMap({ title: "Kept", x: "step", y: "head", low: "pruned", high: "kept" }, cells, [
    "0.0",
    "0.1",
  ]);
  for (const text of ["Kept", "step", "0.1", "pruned", "kept"]) assertStringIncludes(svg, text);
  // ECharts gives each cell's path the exact colour of its value.
  assertEquals(pathsOf(svg, 'fill="#0072b2"') + pathsOf(svg, 'fill="rgb(0,114,178)"') >= 3, true);
});
