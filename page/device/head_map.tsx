/**
 * The heads of this device, layer by layer: which took part in the last step.
 *
 * @module
 */

import type { JSX } from "preact";

/** Pixels of a head and its gap, where there is room. */
const PIXELS = 36;
const CELL = 16;
const GAP = 3;

/** A map of heads: a row a layer, the lowest at the bottom. */
export function HeadMap({ layers, count, mask }: {
  readonly layers: number;
  readonly count: number;
  /** [L * H_m], 1 = pruned; `null` before the first step. */
  readonly mask: Uint8Array | null;
}): JSX.Element {
  const kept = mask === null ? 0 : mask.reduce((sum, pruned) => sum + (pruned === 0 ? 1 : 0), 0);
  const size = CELL + GAP;
  const cells = Array.from({ length: layers * count }, (_, i) => i);
  return (
    <figure>
      <svg
        class="heads"
        width={count * PIXELS}
        viewBox={`0 0 ${count * size - GAP} ${layers * size - GAP}`}
        role="img"
        aria-label={mask === null
          ? "No step yet"
          : `${kept} of ${layers * count} heads of this device took part in the last step`}
      >
        {cells.map((i) => (
          <rect
            key={i}
            x={(i % count) * size}
            y={(layers - 1 - Math.floor(i / count)) * size}
            width={CELL}
            height={CELL}
            rx={3}
            class={mask === null ? "none" : mask[i] === 0 ? "kept" : "pruned"}
          />
        ))}
      </svg>
      <figcaption class="quiet">
        A row a layer, a square a head. Filled: it took part in the last step ({kept} of {layers * count}).
      </figcaption>
    </figure>
  );
}
