/**
 * The view while the device takes part, and after.
 *
 * @module
 */

import type { JSX } from "preact";
import { Facts } from "../shared/facts.tsx";
import { HeadMap } from "./head_map.tsx";
import { KeptHere } from "./kept_here.tsx";
import type { Phase } from "./messages.ts";
import { count, megabytes } from "./numbers.ts";
import { about, failure, loading, loss, phase, progress, tell } from "./view_state.ts";

const TITLES: Readonly<Record<Phase, string>> = {
  joining: "Getting ready",
  waiting: "Waiting for the others",
  running: "Taking part",
  stopped: "The host has paused the run",
  paused: "Resting",
  lost: "Coming back",
  saving: "Keeping what was learnt",
  ended: "It is over for this device",
};

/** The view. */
export function TakingPart(): JSX.Element {
  const { phase: now, text } = phase.value;
  const run = about.value!;
  return (
    <>
      <header>
        <h1>{TITLES[now]}</h1>
        <p class="quiet">{run.base?.name} · {run.run}</p>
        <p role="status">{text}</p>
      </header>
      <Loading />
      <Learning />
      <Buttons />
      {failure.value === "" ? null : <p role="alert" class="bad">{failure.value}</p>}
      {now === "ended" ? <KeptHere /> : null}
    </>
  );
}

/** How far a download is. */
function Loading(): JSX.Element | null {
  if (loading.value === null) return null;
  const { what, done, total } = loading.value;
  return (
    <section class="card">
      <label>
        {what}: {megabytes(done)} of {megabytes(total)}
        <progress value={done} max={total} />
      </label>
    </section>
  );
}

function Learning(): JSX.Element | null {
  const now = progress.value;
  if (now === null) return null;
  const shared = loss.value;
  return (
    <section class="card" aria-label="Progress">
      <label>
        Step {count(now.steps)} of {count(now.total)}
        <progress value={now.steps} max={now.total} />
      </label>
      <Facts
        facts={[
          ["Loss", shared === null ? "not shared" : `${shared.loss.toFixed(3)} (step ${shared.step + 1})`],
          ["Sent and received", megabytes(now.totalBytes)],
          ["Memory of the graphics processor", megabytes(now.memoryBytes)],
        ]}
      />
      {now.count === 0 ? null : <HeadMap layers={now.layers} count={now.count} mask={now.mask} />}
    </section>
  );
}

function Buttons(): JSX.Element | null {
  const { phase: now } = phase.value;
  if (now === "saving") return null;
  if (now === "ended") {
    return (
      <div class="buttons">
        <button type="button" onClick={() => location.reload()}>Look again</button>
      </div>
    );
  }
  const isPaused = now === "paused";
  const canPause = isPaused || now === "running" || now === "lost" || now === "stopped";
  return (
    <div class="buttons">
      <button
        type="button"
        disabled={!canPause}
        onClick={() => tell({ type: "pause", paused: !isPaused })}
      >
        {isPaused ? "Go on" : "Rest"}
      </button>
      <button type="button" onClick={() => tell({ type: "leave" })}>Leave</button>
    </div>
  );
}
