/**
 * The page on which a browser takes part in a run.
 *
 * @module
 */

import { type JSX, render } from "preact";
import { Ask, Asked } from "./ask.tsx";
import { stayAwake } from "./awake.ts";
import { KeptHere } from "./kept_here.tsx";
import { Offer } from "./offer.tsx";
import { TakingPart } from "./taking_part.tsx";
import { failure, look, view } from "./view_state.ts";

function App(): JSX.Element {
  const now = view.value;
  return (
    <main>
      {now.name === "looking"
        ? <Looking />
        : now.name === "cannot"
        ? <Cannot why={now.why} help={now.help} />
        : now.name === "ask"
        ? <Ask />
        : now.name === "asked"
        ? <Asked />
        : now.name === "offer"
        ? <Offer />
        : <TakingPart />}
      {now.name === "offer" ? <KeptHere /> : null}
    </main>
  );
}

function Looking(): JSX.Element {
  return (
    <header>
      <h1>Take part in a training run</h1>
      <p role="status">{failure.value || "Looking at the run and at this device"}</p>
    </header>
  );
}

function Cannot({ why, help }: { readonly why: string; readonly help: string }): JSX.Element {
  return (
    <>
      <header>
        <h1>This device cannot take part yet</h1>
      </header>
      <section class="card">
        <p role="alert">{why}</p>
        <p>
          {help.split(/(--[\w-]+)/).map((part, i) =>
            i % 2 === 1 ? <code class="flag" key={i}>{part}</code> : part
          )}
        </p>
        <div class="buttons">
          <button type="button" onClick={look}>Try again</button>
        </div>
      </section>
    </>
  );
}

stayAwake();
render(<App />, document.getElementById("page")!);
look();
