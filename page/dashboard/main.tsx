/**
 * The dashboard: runs now and before, how each is, and steering it.
 *
 * @module
 */

import { type JSX, render } from "preact";
import { RunList } from "./run_list.tsx";
import { RunView } from "./run_view.tsx";
import { SignIn } from "./sign_in.tsx";
import { begin, failure, isConnected, listed, shown, signOut, told, view } from "./state.ts";

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
  if (now.name === "signed out") return <SignIn why={now.why} />;
  return (
    <>
      <a class="skip" href="#main">To the run</a>
      <header class="top">
        <span class="brand">EdgeTuner</span>
        <button type="button" class="small" onClick={() => void signOut()}>Sign out</button>
      </header>
      <div class="columns">
        <RunList />
        <main id="main" tabIndex={-1}>
          <p class="unseen" role="status">{told.value}</p>
          {failure.value === "" ? null : <p class="bad card" role="alert">{failure.value}</p>}
          {isConnected.value
            ? null
            : <p class="card" role="status">The connection to the server is lost. Trying again.</p>}
          {shown.value === null
            ? (
              <>
                <h1>No runs</h1>
                <p>{listed.value.length === 0 ? "This server has no runs yet." : "Choose a run."}</p>
              </>
            )
            : <RunView key={shown.value.run} state={shown.value} />}
        </main>
      </div>
    </>
  );
}

render(<App />, document.getElementById("page")!);
void begin();
