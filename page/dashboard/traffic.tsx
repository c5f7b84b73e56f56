/**
 * What travels, by kind of message.
 *
 * @module
 */

import type { JSX } from "preact";
import { bytes, count } from "./numbers.ts";
import type { RunState } from "./state.ts";

/** Names of kinds of messages, for people; others are shown as they are. */
const NAMES: Readonly<Record<string, string>> = {
  embedding: "Embeddings E",
  input: "Layer inputs X",
  delta: "Deltas of heads",
  deltaGradient: "Gradients of Deltas",
  inputGradient: "Gradients of X",
  hidden: "Last hidden state",
  hiddenGradient: "Gradient of the last hidden state",
  mask: "Head masks",
  statistics: "Statistics for the pruner",
  squaredNorm: "Squared norms of gradients",
  clip: "Factors of gradients",
  loss: "Losses",
  decode: "Embeddings of new tokens",
  hello: "Greetings",
  welcome: "Welcomes",
  refuse: "Refusals",
  paused: "Words to those who wait",
  end: "Ends of the run",
  leave: "Farewells",
  challenge: "Questions for proofs",
  proof: "Proofs of devices",
  restart: "Steps that begin again",
  repeat: "Batches that are sent again",
  turn: "Turns of owners",
  examples: "Numbers of examples",
  save: "Words to save",
  finished: "Ends of the data",
  shard: "Shares of the base model",
};

/** Bytes by kind of message. */
export function Traffic({ state }: { readonly state: RunState }): JSX.Element {
  const entries = state.traffic.value.toSorted((a, b) => b.frameBytes - a.frameBytes);
  const largest = entries[0]?.frameBytes ?? 1;
  const total = entries.reduce((sum, entry) => sum + entry.frameBytes, 0);
  return (
    <section class="card" aria-labelledby="traffic-title">
      <h2 id="traffic-title">Bytes by kind</h2>
      {entries.length === 0 ? <p class="quiet">Nothing has travelled yet.</p> : (
        <>
          <p class="quiet">{bytes(total)} in all, as the edge server sent and received them.</p>
          <table class="bars">
            <caption class="unseen">Bytes of frames by kind, seen from the edge server</caption>
            <thead>
              <tr>
                <th scope="col">Kind</th>
                <th scope="col">Frames</th>
                <th scope="col">Bytes</th>
              </tr>
            </thead>
            <tbody>
              {entries.map(({ kind, direction, frames, frameBytes }) => (
                <tr key={`${kind} ${direction}`}>
                  <th scope="row">
                    {NAMES[kind] ?? kind} <span class="quiet">{direction}</span>
                    <span class="bar" aria-hidden="true">
                      <span style={{ width: `${100 * frameBytes / largest}%` }} />
                    </span>
                  </th>
                  <td>{count(frames)}</td>
                  <td>{bytes(frameBytes)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </>
      )}
    </section>
  );
}
