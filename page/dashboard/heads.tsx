/**
 * Which heads took part: a map of the whole run, and one of a step.
 *
 * @module
 */

import type { HeadsJson } from "@edgetuner/transport/control";
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { resolved, useIsDark } from "./colours.ts";
import { count, figure } from "./numbers.ts";
import type { RunState } from "./state.ts";

/** Heads of the run. */
export function Heads({ state }: { readonly state: RunState }): JSX.Element {
  const heads = state.heads.value;
  const [chosen, setChosen] = useState<number | null>(null);
  if (heads === null || heads.steps.length === 0) {
    return (
      <section class="card" aria-labelledby="heads-title">
        <h2 id="heads-title">Heads</h2>
        <p class="quiet">No step yet.</p>
      </section>
    );
  }
  const last = heads.steps.length - 1;
  const at = chosen === null ? last : Math.min(chosen, last);
  return (
    <section class="card" aria-labelledby="heads-title">
      <h2 id="heads-title">Heads</h2>
      <p class="quiet">
        A row a layer, the lowest at the bottom; a square a head. Filled: it took part in the step.
      </p>
      <label>
        Step {count(heads.steps[at]!)}
        <input
          type="range"
          min={0}
          max={last}
          value={at}
          aria-valuetext={`Step ${heads.steps[at]}`}
          onInput={({ currentTarget }) => {
            const value = Number(currentTarget.value);
            setChosen(value === last ? null : value);
          }}
        />
      </label>
      <div class="maps">
        <HeadMap heads={heads} at={at} />
        <Strip heads={heads} at={at} />
      </div>
    </section>
  );
}

/** The heads in one step, to be walked through with the arrow keys. */
function HeadMap({ heads: { layers, heads, pruned, scores }, at }: {
  readonly heads: HeadsJson;
  readonly at: number;
}): JSX.Element {
  const [focus, setFocus] = useState(0);
  const [told, setTold] = useState<number | null>(null);
  const mask = pruned[at]!;
  const textOf = (i: number) => {
    const score = scores[at]?.[i];
    return `Layer ${Math.floor(i / heads)}, head ${i % heads}: ${mask[i] === "0" ? "kept" : "pruned"}${
      score === undefined ? "" : `, score ${figure(score)}`
    }`;
  };
  const move = (event: KeyboardEvent) => {
    const steps: Record<string, number> = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: heads, ArrowDown: -heads };
    const next = focus + (steps[event.key] ?? NaN);
    if (!(next >= 0 && next < layers * heads)) return;
    event.preventDefault();
    setFocus(next);
    (event.currentTarget as HTMLElement).querySelector<HTMLElement>(`[data-head="${next}"]`)?.focus();
  };
  const rows = Array.from({ length: layers }, (_, i) => layers - 1 - i);
  return (
    <div>
      <table class="map" role="grid" aria-label="Heads in the step" onKeyDown={move}>
        <tbody>
          {rows.map((layer) => (
            <tr key={layer}>
              {Array.from({ length: heads }, (_, head) => {
                const i = layer * heads + head;
                return (
                  <td
                    key={head}
                    role="gridcell"
                    data-head={i}
                    class={mask[i] === "0" ? "kept" : "pruned"}
                    tabIndex={i === focus ? 0 : -1}
                    aria-label={textOf(i)}
                    onFocus={() => {
                      setFocus(i);
                      setTold(i);
                    }}
                    onMouseEnter={() => setTold(i)}
                    onMouseLeave={() => setTold(null)}
                  />
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
      <p class="quiet" aria-hidden="true">
        {told === null ? "Point at a head for its score." : textOf(told)}
      </p>
    </div>
  );
}

/** All heads over all steps. */
function Strip({ heads: { layers, heads, pruned, steps }, at }: {
  readonly heads: HeadsJson;
  readonly at: number;
}): JSX.Element {
  const place = useRef<HTMLCanvasElement>(null);
  const isDark = useIsDark();
  useEffect(() => {
    const canvas = place.current!;
    const context = canvas.getContext("2d")!;
    canvas.width = pruned.length;
    canvas.height = layers * heads;
    const colours = { "0": resolved("--kept"), "1": resolved("--pruned") };
    pruned.forEach((mask, x) => {
      for (let i = 0; i < mask.length; i++) {
        context.fillStyle = colours[mask[i] as "0" | "1"];
        context.fillRect(x, layers * heads - 1 - i, 1, 1);
      }
    });
  }, [pruned, isDark]);
  const kept = pruned.map((mask) => mask.split("0").length - 1);
  const mean = kept.reduce((a, b) => a + b, 0) / kept.length;
  return (
    <figure class="strip">
      <div class="over">
        <canvas
          ref={place}
          role="img"
          aria-label={`All heads over the run: a mean of ${count(mean)} of ${
            layers * heads
          } took part, from step ${steps[0]} to step ${steps.at(-1)}`}
        />
        <span
          class="now"
          aria-hidden="true"
          style={{ left: `${pruned.length === 1 ? 100 : 100 * at / (pruned.length - 1)}%` }}
        />
      </div>
      <figcaption class="quiet">
        The whole run: time from left to right, a line a head, layers from bottom to top.
      </figcaption>
    </figure>
  );
}
