/**
 * The text of `--help`: flags in groups, the common ones first, as wide as the terminal.
 *
 * @module
 */

import type { Flag, ProgramText } from "./kinds.ts";
import type { CallForm } from "../process/invocation.ts";
import { commandOf, commandText, inCallForm, shownDefault } from "../process/places.ts";
import { LAUNCHER_FLAG } from "../process/supervisor.ts";
import { wrapped } from "../output/terminal.ts";

/** A group of flags in the help, and the flags that belong to it, the most common ones first. */
interface FlagGroup {
  readonly title: string;
  readonly names: readonly string[];
}

const words = (list: string): string[] => list.trim().split(/\s+/);

/** All groups in their order. A test sees to it that each flag of each command is in one. */
const GROUPS: readonly FlagGroup[] = [
  {
    title: "What to do",
    names: words("prompt message system chat raw pair task format dataset generate once persona"),
  },
  {
    title: "Model",
    names: words(
      `model models adapter load import tokenizer base-weights webgpu gpu-mb revision layers heads hidden vocabulary
      head-size kv-heads inner gated`,
    ),
  },
  {
    title: "Data",
    names: words(
      `data train valid test input references predictions batch length prompts count first distinct samples
      instruct filter map data-format data-devices data-share data-weights data-mix eval-every valid-batches train-on-prompt skip-bad pad-to-multiple-of share-loss no-share-validation smoothing
      drop-missing lower-case tokenize numbered restaurant`,
    ),
  },
  {
    title: "Tuning",
    names: words(
      `steps epochs patience rate rank total-rank mode projections projection-seed shared-a targets alpha dropout warmup schedule accumulate clip-norm seed seeds runs
      pruner-steps history settings modes rates rate-steps set`,
    ),
  },
  {
    title: "Heads and pruning",
    names: words(
      `pruner pruned-fade capacities capacity devices keep tau eta rho beta lambda predictor online-steps online-refresh
      share decide-every seconds-per-step mb-per-step keep-layers active collect systems only pruners`,
    ),
  },
  {
    title: "Generation",
    names: words(
      `max-tokens temperature top-k top-p beams best min-length repetition-penalty length-penalty
      no-repeat-ngram cache-mb`,
    ),
  },
  {
    title: "Network",
    names: words(
      `server connect token name alias host port api-key join-token admin-token transport codec codecs link links bandwidth latency
      micro-batches no-overlap bits speeds compute memory max-connections allow-host allow-origin invite approve-all announce wait interface nats nats-creds nats-nkey nats-ca cert key tls fingerprint link-seed link-device
      connect-timeout join-timeout step-timeout idle-timeout pause-timeout request-timeout max-waiting ping-interval retry-timeout on-loss loss-wait outlier adopt step-deadline server-lost availability away cache endpoint`,
    ),
  },
  {
    title: "Output",
    names: words(
      `save out output resume state state-every state-seconds keep-best peft gguf merge merge-gguf
      gguf-type results pretty
      log-every metrics store report json events accept-loss tolerance synonyms no-lab no-study lab-steps target margin budget-mb budget-seconds resume-runs end-with`,
    ),
  },
];

/** Names of flags by group, in the order of the help; groups without any are left out. */
export function groupedNames(names: readonly string[]): FlagGroup[] {
  const known = new Set(GROUPS.flatMap((group) => group.names));
  const groups = GROUPS.map(({ title, names: all }) => ({
    title,
    names: all.filter((name) => names.includes(name)),
  }));
  const others = { title: "Others", names: names.filter((name) => !known.has(name)) };
  return [...groups, others].filter((group) => group.names.length > 0);
}

/** Columns that names of flags take at most; longer ones stand on a line of their own. */
const MOST_LEFT = 30;

/** A flag as two columns. */
function row(name: string, flag: Flag, form: CallForm): [left: string, right: string] {
  const help = inCallForm(flag.help, form);
  if (flag.kind === "switch") return [`--${name}`, help];
  const choices = flag.kind === "text" && flag.choices
    ? ` (${flag.choices.filter((choice) => choice !== "").join(", ")})`
    : "";
  const fits = flag.kind !== "text" && flag.fits === true;
  const initial = flag.default === ""
    ? ""
    : ` [${fits ? "to fit the model" : shownDefault(String(flag.default))}]`;
  const value = flag.kind === "text" && flag.alone !== undefined ? `[${flag.value}]` : flag.value;
  return [`--${name} ${value}`, `${help}${choices}${initial}`];
}

/** Rows of two columns, the right one wrapped. */
function columns(rows: readonly (readonly [string, string])[], left: number, width: number): string[] {
  const indent = " ".repeat(left);
  return rows.flatMap(([name, help]) => {
    const lines = wrapped(help, Math.max(20, width - left));
    const first = `  ${name}`;
    if (first.length + 2 > left) return [first, ...lines.map((line) => indent + line)];
    return [first.padEnd(left) + lines[0]!, ...lines.slice(1).map((line) => indent + line)];
  });
}

/** Sentences of a text wrapped; of rows of a table, which are set in, the second column. */
function paragraphs(text: string, width: number): string {
  // Breaks within a paragraph are those of the source.
  return text.replace(/(?<=\S)\n(?=\S)/g, " ").split("\n").flatMap((line) => {
    const [, left, right] = /^( +\S+ {2,})(.*)$/.exec(line) ?? [];
    if (left === undefined || right === undefined) return wrapped(line, width);
    const rows = wrapped(right, Math.max(20, width - left.length));
    return rows.map((row, i) => (i === 0 ? left : " ".repeat(left.length)) + row);
  }).join("\n");
}

/** Words of a command line; what is in quotes is one, with them. */
const ARGUMENTS = /(?:[^\s"']|"[^"]*"|'[^']*')+/g;

/**
 * An example as lines that a shell takes as one command: longer ones are broken between arguments, and what is said of
 * them stands above.
 *
 * @param example The command; what is said of it after `   # `.
 * @param width Columns of the terminal.
 */
export function exampleLines(example: string, width: number): string[] {
  const indent = "  ";
  if (indent.length + example.length <= width) return [indent + example];
  const [command = "", said] = example.split(/\s+# /);
  const above = said === undefined ? [] : wrapped(said, width - 4).map((line) => `${indent}# ${line}`);
  const lines: string[] = [];
  let line = indent;
  // A flag stays with its value.
  const pieces = command.match(ARGUMENTS)!.reduce<string[]>((all, word) => {
    const last = all.at(-1);
    if (last !== undefined && /^--?[\w-]+$/.test(last) && !word.startsWith("-") && word !== "|") {
      return [...all.slice(0, -1), `${last} ${word}`];
    }
    return [...all, word];
  }, []);
  for (const piece of pieces) {
    const isFirst = line.trim() === "";
    if (!isFirst && line.length + 1 + piece.length + 2 > width) {
      lines.push(`${line} \\`);
      line = `${indent}  ${piece}`;
    } else line += isFirst ? piece : ` ${piece}`;
  }
  return [...above, ...lines, line];
}

/**
 * The help of a command.
 *
 * @param program What the command says of itself.
 * @param flags Its flags.
 * @param width Columns of the terminal.
 * @param form How the person called it.
 */
export function helpText(
  program: ProgramText,
  flags: Readonly<Record<string, Flag>>,
  width: number,
  form: CallForm,
): string {
  // What only launchers say is not for people.
  const shown = Object.keys(flags).filter((name) => name !== LAUNCHER_FLAG);
  const groups = groupedNames(shown).map(({ title, names }) => ({
    title,
    rows: names.map((name) => row(name, flags[name]!, form)),
  }));
  const general: [string, string][] = [
    ["--config FILE", "values of flags as JSON or YAML; flags given here come first"],
    ["--print-config", "print such a file for the flags given here, and end"],
    ["-h, --help", "this text"],
  ];
  const all = [...groups, { title: "General", rows: general }];
  const longest = Math.max(...all.flatMap(({ rows }) => rows.map(([left]) => left.length)));
  const left = Math.min(longest + 4, MOST_LEFT, Math.floor(width * 0.4));
  const blocks = all.map(({ title, rows }) => [title, ...columns(rows, left, width)].join("\n"));
  const usage = commandOf(program.name) === null ? program.name : commandText(program.name, [], form);
  const examples = program.examples.flatMap((example) => exampleLines(inCallForm(example, form), width));
  return [
    paragraphs(inCallForm(program.about, form), width),
    `  ${usage} [flags]`,
    wrapped("Values in [brackets] are what a flag is without you.", width).join("\n"),
    ...blocks,
    ...(examples.length === 0 ? [] : [["Examples", ...examples].join("\n")]),
  ].join("\n\n");
}
