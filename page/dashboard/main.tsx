/**
 * The dashboard: runs now and before, how each is, and steering it.
 *
 * @module
 */

import { type JSX, render } from "preact";
import { RunList } from "./run_list.tsx";
import { RunView } from "./run_view.tsx";
import { Reference } from "./reference.tsx";
import { SignIn } from "./sign_in.tsx";
import { begin, failure, isConnected, isReference, listed, shown, signOut, told, view } from "./state.ts";

function App(): JSX.Element {
  const now = view.value;
  if (now.name === "looking") {
    return (
      <main class="narrow">
        <h1>Runs</h1>
        <p role="status">{failure.value || "Looking at the server"}</p>
      </main>
    );
  }
  if (isReference.value) {
    return (
      <>
        <Top />
        <main id="main" class="reading" tabIndex={-1}>
          <Reference />
        </main>
      </>
    );
  }
  if (now.name === "signed out") return <SignIn why={now.why} />;
  if (listed.value.length === 0) {
    return (
      <>
        <Top />
        <main id="main" class="narrow" tabIndex={-1}>
          <h1>No runs</h1>
          <p>
            This server has no runs yet. <code>edgetuner serve</code> begins one.
          </p>
          <Faults />
        </main>
      </>
    );
  }
  return (
    <>
      <button
        type="button"
        class="skip"
        onClick={() => document.getElementById("main")!.focus()}
      >
        To the run
      </button>
      <Top />
      <div class="columns">
        <RunList />
        <main id="main" tabIndex={-1}>
          <Faults />
          {shown.value === null
            ? <h1>Choose a run</h1>
            : <RunView key={shown.value.run} state={shown.value} />}
        </main>
      </div>
    </>
  );
}

function Top(): JSX.Element {
  return (
    <header class="top">
      <span class="brand">EdgeTuner</span>
      <nav aria-label="Pages">
        {isReference.value ? <a href="#">Runs</a> : <a href="#api">API</a>}
        {view.value.name === "runs"
          ? <button type="button" class="small" onClick={() => void signOut()}>Sign out</button>
          : null}
      </nav>
    </header>
  );
}

/** What went wrong, and what was done, for everyone. */
function Faults(): JSX.Element {
  return (
    <>
      <p class="unseen" role="status">{told.value}</p>
      {failure.value === "" ? null : <p class="bad card" role="alert">{failure.value}</p>}
      {isConnected.value
        ? null
        : <p class="card" role="status">The connection to the server is lost. Trying again.</p>}
    </>
  );
}

render(<App />, document.getElementById("page")!);
void begin();
