/**
 * What an export's certificate says, for people.
 *
 * @module
 */

import type { ExportCertificate, ReductionLoss } from "@edgetuner/core";

/** Why a certificate does not hold. */
export function refusalOf(certificate: ExportCertificate, rank: number): string {
  const { reduction, rounding, split, imported, merged, tolerance, largestLogit, allowed } = certificate;
  const difference = Math.max(split, imported, merged);
  if (!(difference <= tolerance * largestLogit)) return "the files are not what was trained.";
  if (!(difference <= allowed)) {
    return "the adapter changes the logits of these texts so little that the files cannot be told from none; " +
      "train it longer, or take other texts with --data.";
  }
  const tooMuch = (loss: ReductionLoss | null): loss is ReductionLoss =>
    loss !== null && !(loss.share <= loss.allowed);
  const [what, loss, way] = tooMuch(reduction)
    ? [`rank ${rank}`, reduction, "take a larger rank"]
    : ["the rounding of the merged GGUF file", rounding, "take another --gguf-type"];
  if (!tooMuch(loss)) return "the certificate does not hold.";
  return `${what} loses ${percent(loss.share)} of what the adapter does to the logits, and ${
    percent(loss.allowed)
  } may be lost; ${way}, or accept the loss with --accept-loss ${Math.ceil(loss.share * 100) / 100}.`;
}

/** A share as people read it. */
export function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

/** Prints a certificate. */
export function show(certificate: ExportCertificate, rank: number, weightsLost: number | null): void {
  const { samples, tokens, largestLogit, effect, split, imported, importedAs, merged, allowed } = certificate;
  const { reduction, rounding } = certificate;
  const rows = [
    ["largest logit", largestLogit],
    ["largest change by the adapter", effect],
    ["off on one machine", split],
    [`off after export, as ${importedAs}`, imported],
    ["off in the merged model", merged],
    ["allowed", allowed],
  ] as const;
  console.log(`Logits of ${samples} texts, ${tokens} tokens, beside those of a split run`);
  for (const [what, value] of rows) console.log(`  ${what.padEnd(36)}${value.toExponential(2)}`);
  if (reduction !== null) {
    console.log(
      `Rank ${rank}: ${percent(weightsLost!)} of the change of the weights is lost, and ${
        lossText(reduction, "that of the logits")
      }`,
    );
  }
  if (rounding !== null) {
    console.log(
      `Merged GGUF file: its rounding loses ${lossText(rounding, "what the adapter does to the logits")}`,
    );
  }
}

function lossText({ share, difference, effect, allowed }: ReductionLoss, of: string): string {
  return `${percent(share)} of ${of} (one is off by ${
    difference.toPrecision(2)
  }, the adapter changes one by ${effect.toPrecision(2)}); allowed are ${percent(allowed)}`;
}
