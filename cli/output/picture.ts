/**
 * Small pictures in text.
 *
 * @module
 */

/** A curve of values as rows of braille dots. */
export function curve(values: readonly number[], width = 60, rows = 6): string[] {
  if (values.length === 0) return [];
  const columns = width * 2;
  const lowest = Math.min(...values);
  const span = Math.max(...values) - lowest || 1;
  const dots = Array.from({ length: rows }, () => new Uint8Array(width));
  const bit = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
  for (let x = 0; x < columns; x++) {
    const from = Math.floor(x * values.length / columns);
    const to = Math.max(from + 1, Math.floor((x + 1) * values.length / columns));
    const mean = values.slice(from, to).reduce((a, b) => a + b, 0) / (to - from);
    const y = Math.round((1 - (mean - lowest) / span) * (rows * 4 - 1));
    dots[Math.floor(y / 4)]![Math.floor(x / 2)]! |= bit[y % 4]![x % 2]!;
  }
  return dots.map((row, i) => {
    const label = i === 0 ? lowest + span : i === rows - 1 ? lowest : null;
    return `${label === null ? " ".repeat(7) : label.toFixed(3).padStart(7)} ${
      [...row].map((b) => String.fromCharCode(0x2800 + b)).join("")
    }`;
  });
}

const SHADES = " ░▒▓█";

/**
 * How often each head was kept: a layer a line, a head a cell, devices apart.
 *
 * @param share Share of steps in which a head was kept, [L * H].
 */
export function headMap(
  share: readonly number[],
  layers: number,
  headsPerDevice: readonly number[],
): string[] {
  const heads = headsPerDevice.reduce((a, b) => a + b, 0);
  return Array.from({ length: layers }, (_, l) => {
    let head = l * heads;
    const devices = headsPerDevice.map((count) => {
      const cells = Array.from({ length: count }, () => SHADES[Math.round(share[head++]! * 4)]!.repeat(2));
      return cells.join("");
    });
    return `layer ${String(l).padStart(2)}  │${devices.join("│")}│`;
  });
}
