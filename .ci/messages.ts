/**
 * The table of messages in `docs/protocol.md`, from the table of the protocol. `deno run -A .ci/messages.ts --write`
 * brings the page up to date; a test says where it is not.
 *
 * @module
 */

import { FRAME_KINDS, type FrameKind, MESSAGES } from "@edgetuner/core";

/** The page with the table. */
const PAGE = new URL("../docs/protocol.md", import.meta.url);
/** The table of the protocol. */
const TABLE = await Deno.readTextFile(new URL("../core/protocol/messages.ts", import.meta.url));
const BEGIN = "<!-- messages: written by .ci/messages.ts -->";
const END = "<!-- end of messages -->";

/** A kind's line of the table. */
export function messageRow(kind: FrameKind): string {
  const { from, lane, tensors, meta } = MESSAGES[kind];
  const fields = Object.entries(meta).map(([name, { optional }]) =>
    `\`${name}\`${optional ? " (optional)" : ""}`
  );
  const count = tensors === null
    ? ""
    : tensors.count[0] === tensors.count[1]
    ? ""
    : ` x ${tensors.count.join(" to ")}`;
  const shapes = tensors === null
    ? ""
    : `${tensors.as}${count}: ${tensors.shapes.map((shape) => `[${shape.join(", ")}]`).join(" or ")}`;
  const cells = [`\`${kind}\``, from.join(", "), lane, shapes, fields.join(", "), saidOf(kind)];
  return `| ${cells.join(" | ")} |`;
}

/** What the table of the protocol says of a kind: the comment above it. */
export function saidOf(kind: FrameKind): string {
  const [, comment] = new RegExp(`/\\*\\*((?:(?!\\*/)[^])*)\\*/\\s+readonly ${kind}: Message<`).exec(TABLE) ??
    [];
  if (comment === undefined) {
    throw new Error(`Cannot write the table as "${kind}" must have a comment: it has none`);
  }
  return comment.replace(/\s*\n\s*\*?\s*/g, " ").trim();
}

/** The lines of the page's table without the spaces that only align them. */
export async function documentedRows(): Promise<string[]> {
  const page = await Deno.readTextFile(PAGE);
  const table = page.slice(page.indexOf(BEGIN), page.indexOf(END));
  return table.split("\n").filter((line) => line.startsWith("| `")).map((line) => line.replace(/ +/g, " "));
}

if (import.meta.main) {
  if (!Deno.args.includes("--write")) throw new Error("Cannot run as --write must be given: it is missing");
  const page = await Deno.readTextFile(PAGE);
  const head = ["| kind | from | lane | tensors | fields | what |", "| --- | --- | --- | --- | --- | --- |"];
  const table = [BEGIN, "", ...head, ...FRAME_KINDS.map(messageRow), "", END].join("\n");
  await Deno.writeTextFile(
    PAGE,
    page.slice(0, page.indexOf(BEGIN)) + table + page.slice(page.indexOf(END) + END.length),
  );
  await new Deno.Command(Deno.execPath(), { args: ["fmt", "-q", PAGE.pathname] }).output();
}
