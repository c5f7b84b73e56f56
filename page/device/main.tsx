import { signal } from "@preact/signals";
import { render } from "preact";

const worker = new Worker("./worker.js", { type: "module" });
const said = signal("...");
worker.addEventListener("message", ({ data }) => said.value = data.type);

function App(): preact.JSX.Element {
  return (
    <main>
      <h1>Take part in a training run</h1>
      <p>The worker is {said.value}.</p>
    </main>
  );
}

render(<App />, document.getElementById("page")!);
