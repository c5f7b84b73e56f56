/**
 * Sample outputs beside their references, as a page for a browser: one file, no script, nothing loaded.
 *
 * @module
 */

import type { Corpus, CorpusScores, Scores } from "@edgetuner/core/evaluation";

/** What the page shows. */
export interface ScorePage {
  /** Heading. */
  readonly title: string;
  /** Texts. */
  readonly corpus: Corpus;
  /** Their scores. */
  readonly scores: CorpusScores;
  /** Which data METEOR was computed with. */
  readonly meteor: string;
  /** What each prediction was made from, if known. */
  readonly prompts?: readonly string[];
  /** How many instances to show, evenly spread. */
  readonly samples: number;
}

/** Scores in the order of tables, with the digits that papers give. */
export function scoreRows(scores: Scores): [name: string, value: string][] {
  const show = (value: number | null): string =>
    value === null || Number.isNaN(value) ? "-" : value.toFixed(4);
  const { BLEU, NIST, METEOR, ROUGE_L, CIDEr } = scores;
  return Object.entries({ BLEU, NIST, METEOR, ROUGE_L, CIDEr }).map(([name, value]) => [name, show(value)]);
}

const STYLE = `
:root { color-scheme: light dark; --quiet: light-dark(#666, #aaa); --line: light-dark(#ddd, #444) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } td, th { padding: .2rem 1.2rem .2rem 0; text-align: left }
td + td { font-variant-numeric: tabular-nums }
article { border-top: 1px solid var(--line); padding: 1rem 0 }
.prompt, .scores, h2 { color: var(--quiet); font-size: .875rem; font-weight: normal; margin: 0 }
.prediction { font-size: 1.125rem; margin: .25rem 0 }
mark { background: light-dark(#ffe3b0, #5c4300); color: inherit; border-radius: .2em }
ul { margin: .25rem 0; padding-left: 1.25rem; color: var(--quiet) }
`;

/** Writes the page. */
export function scorePage({ title, corpus, scores, meteor, prompts, samples }: ScorePage): string {
  const count = corpus.predictions.length;
  const shown = Math.min(samples, count);
  const articles = Array.from({ length: shown }, (_, k) => {
    const i = Math.floor(k * count / shown);
    const references = corpus.references[i]!;
    const prompt = prompts?.[i] === undefined ? "" : `<p class="prompt">${escape(prompts[i]!)}</p>`;
    const row = scoreRows(scores.segments[i]!).map(([name, value]) => `${name} ${value}`).join(" · ");
    return `<article><h2>Instance ${i + 1}</h2>${prompt}
<p class="prediction">${marked(corpus.predictions[i]!, references)}</p>
<p class="scores">${row}</p>
<ul>${references.map((text) => `<li>${escape(text)}</li>`).join("")}</ul></article>`;
  });
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>${escape(title)}</title><style>${STYLE}</style>
<h1>${escape(title)}</h1>
<table>${
    scoreRows(scores).map(([name, value]) => `<tr><th>${name}</th><td>${value}</td></tr>`).join("")
  }</table>
<p class="scores">${shown} of ${count} instances. <mark>Words</mark> that no reference has are marked; below each
prediction its own scores and its references. METEOR: ${escape(meteor)}.</p>
${articles.join("\n")}
</html>
`;
}

/** A prediction with the words marked that no reference has. */
function marked(prediction: string, references: readonly string[]): string {
  if (prediction.trim() === "") return "<mark>(empty)</mark>";
  const words = (text: string): string[] => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  const known = new Set(references.flatMap(words));
  return prediction.split(/([\p{L}\p{N}]+)/u).map((piece, k) =>
    k % 2 === 1 && !known.has(piece.toLowerCase()) ? `<mark>${escape(piece)}</mark>` : escape(piece)
  ).join("");
}

function escape(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll(
    '"',
    "&quot;",
  );
}
