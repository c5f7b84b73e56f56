postMessage({ type: "ready" });
